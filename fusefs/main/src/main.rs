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
            eprintln!("verneuil-fs: {}", in_words(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that the text tells already.
fn in_words(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no space")
            .context("cannot write x: no space; make room")
            .context("the mount");
        assert_eq!(
            in_words(&error),
            "the mount: cannot write x: no space; make room"
        );
    }
}
