//! What can be typed: commands and options, one definition for parsing and help. `commands` runs them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

/// Looks after SQLite databases that Verneuil replicates.
#[derive(Debug, Parser)]
#[command(
    name = "verneuilctl",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage."
)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Options of every command")]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Configuration: JSON, or @ and the path of a file that holds it [default: $VERNEUIL_CONFIG]
    #[arg(short, long, global = true, value_name = "JSON|@FILE")]
    pub config: Option<String>,
    /// What to log to stderr: error, warn, info, debug, trace, or a filter as in RUST_LOG [default: $RUST_LOG, else error]
    #[arg(short, long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Upload everything that is pending in a spool
    ///
    /// Every database in the spool is brought up to date in all stores that it is replicated to. They are recorded in the spool:
    /// no configuration is needed. Fails, and says what is left and why, unless all is there.
    Flush(Flush),
    /// Upload a fresh snapshot of a database now
    ///
    /// Opens DB with SQLite, which rolls back what a writer that died has left, and uploads all that is committed to every target
    /// of the configuration; succeeds only when all of it is there. The configuration is that of the application: its spool too. Waits
    /// up to 10 s for a transaction that locks DB. Run it as the user that the application runs as.
    Sync(Sync),
    /// Copy what is committed to the stores, for as long as it runs
    ///
    /// Serves every database of a spool, in the place of the threads that an application has by default (set copier.mode to "external" in its
    /// configuration, and it needs no credentials). SIGTERM ends it, after it has uploaded what is pending, for at most 30 s.
    /// Tells systemd when it is ready (Type=notify).
    Copy(Copy),
    /// Show what is pending in a spool, and why
    ///
    /// For every database: whether every store that it is replicated to is up to date, what is pending and for how long, the last error. Asks the
    /// spool, not the stores.
    Status(Status),
    /// Copy a replica out of the store: parallel, verified, never half a file
    ///
    /// With -o, OUT is replaced at once when all bytes are there and verified, not before. A symbolic link is followed. It is
    /// refused while OUT has a journal or a write-ahead log, which sqlite would apply to the copy.
    Restore(Restore),
    /// Print the manifest of a database
    ///
    /// The bytes are checked and printed as the store has them, or as JSON with --decode.
    Manifest(Manifest),
    /// Print the key of the manifest of a database
    ManifestName(ManifestName),
    /// List hosts, or the databases of a host
    ///
    /// Without an argument: the hosts. With one: every database below it, with its length in bytes and the time of its newest commit.
    Ls(Ls),
}

#[derive(Debug, Args)]
pub struct Flush {
    /// Directory of the spool (replication_spooling_dir of the configuration)
    #[arg(value_name = "SPOOL")]
    pub spool: PathBuf,
}

#[derive(Debug, Args)]
pub struct Copy {
    /// Directory of the spool (replication_spooling_dir of the configuration); waited for if it is not there yet
    #[arg(value_name = "SPOOL")]
    pub spool: PathBuf,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Directory of the spool [default: replication_spooling_dir of the configuration]
    #[arg(value_name = "SPOOL")]
    pub spool: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Sync {
    /// Database file; it must exist
    #[arg(value_name = "DB")]
    pub db: PathBuf,
    /// First gather statistics for the query planner (PRAGMA optimize) and rebuild the file without unused pages (VACUUM).
    /// The page size stays. Needs free disk space of twice the size of DB, locks it meanwhile, uploads most of it anew, and
    /// may change the rowids of tables without an INTEGER PRIMARY KEY
    #[arg(short, long)]
    pub optimize: bool,
}

/// Which host a path belongs to.
#[derive(Debug, Args)]
pub struct Host {
    /// Name of the source host [default: "hostname" of the configuration, else this machine's].
    /// On another host than this one, a path is taken as it stands
    #[arg(long, value_name = "HOST")]
    pub hostname: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["manifest", "source"])))]
pub struct Restore {
    /// Manifest: a file, or a key as manifest-name prints it
    #[arg(short, long, value_name = "MANIFEST", conflicts_with = "hostname")]
    pub manifest: Option<OsString>,
    /// Path of the database on its source host
    #[arg(short, long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    #[command(flatten)]
    pub host: Host,
    /// File to restore to; "-" is standard output [default: -]
    #[arg(short, long, value_name = "OUT")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Manifest {
    /// Path of the database on its source host
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub host: Host,
    /// File to write to; "-" is standard output [default: -]
    #[arg(short, long, value_name = "OUT")]
    pub out: Option<PathBuf>,
    /// Print what the manifest says, as JSON (so does --json)
    #[arg(long)]
    pub decode: bool,
}

#[derive(Debug, Args)]
pub struct ManifestName {
    /// Path of the database on its source host
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub host: Host,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// A host, or a directory or database of one
    #[arg(value_name = "HOST[/PATH]")]
    pub name: Option<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
