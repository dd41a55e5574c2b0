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
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    take_all_descriptors();
    match logging::start(cli.common.log.as_deref()).and_then(|()| commands::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Takes as many descriptors as there may be: `copy` keeps one or more for each database of a spool, and the usual soft limit of 1,024, which is for
/// programs that call `select`, is less than a spool may hold. No program is started that would inherit it.
fn take_all_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What can't be had is said by whoever lacks it.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
