//! The mount daemon `verneuil-fs`: reads its arguments (`cli`), goes to the background (`background`), mounts with
//! verneuil-fuse what verneuil-replica reads (`daemon`).
#![forbid(unsafe_code)]

mod background;
mod cli;
mod daemon;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let settings = match cli::Arguments::parse().settings() {
        Ok(settings) => settings,
        Err(error) => error.exit(), // status 2, or 0 for --help
    };
    let result = match settings.foreground {
        true => daemon::run(&settings),
        false => background::start(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("verneuil-fs: {error:#}");
            ExitCode::FAILURE
        }
    }
}
