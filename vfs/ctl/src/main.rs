//! `verneuilctl`, the command line that looks after replicated databases: parses (`cli`), runs one of `commands`, and
//! turns what went wrong into an exit status (`failure`). The work is done by `verneuil-replica`, `verneuil-copier` and,
//! where a database is opened, by SQLite with the VFS of `verneuil_vfs` (`sqlite`).
#![deny(unsafe_code)]

mod cli;
mod commands;
mod decode;
mod failure;
mod interrupt;
mod logging;
mod output;
mod paths;
mod session;
mod sqlite;
mod time;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match logging::start(cli.common.log.as_deref()).and_then(|()| commands::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
