//! The seam between the file system and the replicas: `replica.rs` implements it over the store, tests in memory.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

/// A failure of the store or of the data in it; the text names the object, the operation and the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// What a directory entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory of the source host that holds databases, at any depth.
    Directory,
    /// A database.
    Database,
}

/// One name in a directory, as the store tells it: not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component of the path.
    pub name: Vec<u8>,
    /// Directory or database.
    pub kind: EntryKind,
}

/// What `stat` needs to know about a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the database file, in bytes.
    pub len: u64,
    /// When the snapshot was taken, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// The answer to a conditional load.
#[derive(Debug)]
pub enum Loaded<N> {
    /// The store still holds the snapshot that the caller has.
    Unchanged,
    /// A snapshot that the caller does not have.
    New(Arc<N>),
    /// The store has no such database.
    Missing,
}

/// Where databases come from.
pub trait Source: Send + Sync + 'static {
    /// One committed state of a database.
    type Snapshot: Snapshot;

    /// Names of all hosts that replicate something.
    fn hosts(&self) -> impl Future<Output = Result<Vec<String>, SourceError>> + Send;

    /// Entries of directory `dir` (absolute) of `host`; empty if there is no such directory.
    fn list(
        &self,
        host: &str,
        dir: &[u8],
    ) -> impl Future<Output = Result<Vec<Entry>, SourceError>> + Send;

    /// Length and time of the newest snapshot without loading it; `None` if there is no such database.
    fn head(
        &self,
        host: &str,
        path: &[u8],
    ) -> impl Future<Output = Result<Option<Head>, SourceError>> + Send;

    /// The newest snapshot, unless it is the `known` one.
    fn load(
        &self,
        host: &str,
        path: &[u8],
        known: Option<&Arc<Self::Snapshot>>,
    ) -> impl Future<Output = Result<Loaded<Self::Snapshot>, SourceError>> + Send;
}

/// One committed state of a database; every byte it returns has been verified.
pub trait Snapshot: Send + Sync + 'static {
    /// Length and time.
    fn head(&self) -> Head;

    /// The bytes of a range from memory, cut at the end of the file; `None` if they must be fetched. Never blocks.
    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>>;

    /// The bytes of a range, cut at the end of the file.
    fn read(
        &self,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Vec<u8>, SourceError>> + Send;

    /// Ranges that may differ in `newer`; what lies beyond the end of the shorter file is included.
    fn diff(
        &self,
        newer: &Self,
    ) -> impl Future<Output = Result<Vec<Range<u64>>, SourceError>> + Send;
}
