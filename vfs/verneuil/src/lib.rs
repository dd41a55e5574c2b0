//! The `verneuil` VFS: the `linux` VFS of `verneuil-unix` plus tracking of what each transaction writes, for
//! `verneuil-spool`. `verneuil_vfs` registers it and brings the copier, behind the trait [`Replication`].
//!
//! In order: `vfs` (which files are replicated), `file` (the hooks on an open file), `connection` (the spool's side
//! of one connection, fenced off so that it can never fail the host), `pragma` (what users can ask).
//!
//! Whatever happens to the spool, a call of SQLite's gets the answer that the `linux` VFS would give.

#![forbid(unsafe_code)]

mod connection;
pub mod file;
mod pragma;
pub mod vfs;

use std::sync::Arc;
use verneuil_config::TargetConfig;
use verneuil_spool::{Database, Spool};

pub use file::TrackedFile;
pub use vfs::TrackingVfs;

/// Who carries spooled transactions to the store.
pub trait Replication: Send + Sync {
    /// From now on, uploads what is spooled for this database. Returns at once; called at each open.
    fn serve(&self, database: &Arc<Database>);

    /// Uploads all that is committed now, and returns when every target has it.
    ///
    /// # Errors
    /// What is left and why, in words for the user.
    fn flush(&self, database: &Arc<Database>) -> Result<(), String>;
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
    /// Who carries them there.
    pub replication: Arc<dyn Replication>,
}
