//! One module per command; `main` runs one.

mod copy;
mod flush;
mod ls;
mod manifest;
mod manifest_name;
mod restore;
mod status;
mod sync;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// Runs what was asked for.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let common = &cli.common;
    match &cli.command {
        Command::Copy(args) => copy::run(common, args),
        Command::Status(args) => status::run(common, args),
        Command::Flush(args) => flush::run(common, args),
        Command::Sync(args) => sync::run(common, args),
        Command::Restore(args) => restore::run(common, args),
        Command::Manifest(args) => manifest::run(common, args),
        Command::ManifestName(args) => manifest_name::run(common, args),
        Command::Ls(args) => ls::run(common, args),
    }
}
