//! The local half of replication: control page and change log, written by commits and drained by a copier.
// (API first; bodies follow in minutes.)

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use verneuil_config::{SpoolConfig, TargetConfig};

/// A spool directory. Cheap to make and clone: nothing is touched before a database is opened.
#[derive(Clone, Debug)]
pub struct Spool { _config: SpoolConfig }
impl Spool {
    /// The spool that the configuration describes. Touches no file.
    pub fn new(config: &SpoolConfig) -> Self { Self { _config: config.clone() } }
}
/// What is recorded beside a database, so that its spool can be flushed without the application.
#[derive(Clone, Debug)]
pub struct DatabaseInfo {
    /// Name of this host in the store.
    pub hostname: String,
    /// Where the database is replicated to.
    pub targets: Vec<TargetConfig>,
}
/// One replicated database in this process: shared by its connections and the copier.
#[derive(Debug)]
pub struct Database { path: PathBuf }
impl Database {
    /// The database at `path` (absolute, canonical). Never fails: if the spool can't be used, the database is unreplicated
    /// ([`Database::trouble`] says why) and the spool is tried again at later transactions.
    pub fn open(_spool: &Spool, path: &Path, _info: DatabaseInfo) -> Arc<Self> { Arc::new(Self { path: path.to_owned() }) }
    /// Its absolute, canonical path.
    pub fn path(&self) -> &Path { &self.path }
    /// Why the last transaction was not spooled, or `None` while all is well.
    pub fn trouble(&self) -> Option<String> { None }
    /// Sets what to call when something becomes pending; called from the thread that commits, at most once per quiet-to-pending transition.
    pub fn set_waker(&self, _waker: Arc<dyn Fn() + Send + Sync>) {}
}
/// The write side of one connection: hooks that follow its transactions. None of them can fail for the caller.
#[derive(Debug)]
pub struct Writer { _db: Arc<Database> }
impl Writer {
    /// A writer for one connection to `db`.
    pub fn new(db: Arc<Database>) -> Self { Self { _db: db } }
    /// The database it writes.
    pub fn database(&self) -> &Arc<Database> { &self._db }
    /// Whether a transaction has begun and neither ended nor been abandoned.
    pub fn is_active(&self) -> bool { false }
    /// First `xWrite`/`xTruncate` of a transaction, under EXCLUSIVE, before it reaches the file (writer steps 1 to 3).
    pub fn begin(&mut self, _file: &File) {}
    /// Before a write of `len` bytes at `offset` reaches the file (step 4).
    pub fn will_write(&mut self, _offset: u64, _len: u64) {}
    /// Before the file is truncated *or extended* to `new_len` bytes (step 4).
    pub fn will_truncate(&mut self, _new_len: u64) {}
    /// End of the transaction, after the downgrade from EXCLUSIVE to SHARED and before SHARED is released (steps 5 to 7). No-op unless active.
    /// `journal_hot` tells whether a journal with content is left (then nothing is logged).
    pub fn end(&mut self, _file: &File, _journal_hot: impl FnOnce() -> io::Result<bool>) {}
    /// The lock goes from a write lock straight to NONE, or the journal could not be finalised: log nothing, leave the dirty bits and the odd epoch. No-op unless active.
    pub fn abandon(&mut self) {}
}
