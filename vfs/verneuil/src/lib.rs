//! The `verneuil` VFS: the `linux` VFS of `verneuil-unix` plus tracking of what each transaction writes, for
//! `verneuil-spool`. `verneuil_vfs` registers it and brings the copier, behind the trait [`Replication`].
//!
//! In order: `vfs` (which files are replicated), `why` (why others are not), `file` (the hooks on an open file), `seat` (where they and the
//! journal's find the connection), `connection` (the spool's side of one, fenced off so that it can never fail the host), `locking` and `wal`
//! (which modes SQLite is in), `pragma` (what users can ask).
//!
//! Whatever happens to the spool, a call of SQLite's gets the answer that the `linux` VFS would give.

#![forbid(unsafe_code)]

mod connection;
pub mod file;
mod locking;
mod pragma;
mod seat;
pub mod vfs;
mod wal;
pub mod why;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use verneuil_config::{JournalWal, ReplicateConfig, TargetConfig};
use verneuil_spool::{Database, Ended, Spool};

pub use file::TrackedFile;
pub use vfs::TrackingVfs;
pub use why::Unreplicated;

/// Who carries spooled transactions to the store.
///
/// A forked child calls the one that it has inherited: what can't be used there (threads, locks) must be made anew.
pub trait Replication: Send + Sync {
    /// From now on, uploads what is spooled for this database. Returns at once; called at each open.
    fn serve(&self, database: &Arc<Database>);

    /// Uploads all that is committed now, and returns when every target has it.
    ///
    /// # Errors
    /// What is left and why, in words for the user.
    fn flush(&self, database: &Arc<Database>) -> Result<(), String>;

    /// The same, for at most so long: `PRAGMA verneuil_flush_replication_data=on`, when the connection is closed.
    ///
    /// # Errors
    /// As for [`Replication::flush`], and that the time is over.
    fn flush_within(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String>;

    /// Waits, for at most so long, until every target has what is committed now; hurries nobody.
    ///
    /// # Errors
    /// What is left and why, in words for the user.
    fn wait(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String>;

    /// One row of JSON about the database.
    fn status(&self, database: &Arc<Database>) -> String;

    /// A write transaction has ended; the connection still holds its lock on this file, so that nobody can write. For the self-check.
    fn has_ended(&self, database: &Arc<Database>, file: &File, ended: Ended) {
        let _ = (database, file, ended);
    }

    /// A connection is being closed. For the self-check.
    fn has_closed(&self, database: &Arc<Database>) {
        let _ = database;
    }
}

/// What replicated databases need; without it the VFS is a plain one.
#[derive(Clone)]
pub struct ReplicationSetup {
    /// Where commits are spooled.
    pub spool: Spool,
    /// Under which name this host's databases are stored.
    pub hostname: String,
    /// Where they are stored.
    pub targets: Vec<TargetConfig>,
    /// Which databases these are.
    pub replicate: ReplicateConfig,
    /// What `PRAGMA journal_mode=WAL` does.
    pub journal_wal: JournalWal,
    /// How long closing a connection that flushes may take.
    pub close_limit: Duration,
    /// Who carries them there.
    pub replication: Arc<dyn Replication>,
}
