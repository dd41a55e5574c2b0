//! What can stop a publication: made by `base`, `catchup` and `pass`; shown by `service` (log, last error) and `flush`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use verneuil_format::FormatError;
use verneuil_spool::SpoolError;
use verneuil_store::StoreError;

/// Why a database could not be published this time. What was committed stays in the database and in the spool, and is tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CopyError {
    /// A request to the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spool failed.
    #[error(transparent)]
    Spool(Arc<SpoolError>),
    /// The database file can't be read.
    #[error("cannot read the database {}: {source}; check that it is there and readable", path.display())]
    Database {
        /// Which database.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A limit of the format.
    #[error(
        "cannot describe the database: {0}; this is a limit of the format or damage in the store"
    )]
    Format(#[from] FormatError),
    /// An object that the last manifest refers to is missing or damaged. The next try uploads the database afresh.
    #[error("the store's last manifest can't be built upon: {cause}; everything is uploaded again")]
    BaseLost {
        /// What is wrong with which object.
        cause: String,
    },
    /// Somebody else writes the manifest of this database.
    #[error(
        "another source publishes {key} (instance {other}, generation {generation}): give one of the two hosts a `hostname` of its own, then restart this one"
    )]
    Claimed {
        /// Key of the manifest.
        key: String,
        /// The other's instance id, in hex.
        other: String,
        /// Generation of its manifest.
        generation: u64,
    },
    /// The manifest in the store is not the one that was read, and no other source's: a PUT of a copier that was killed took effect late, or the store
    /// has lost it.
    #[error("the manifest has changed in the store since it was read: {0}")]
    Overtaken(StoreError),
    /// A background thread was lost.
    #[error("a worker thread of the copier failed: {0}; this is a bug, please report it")]
    Worker(String),
}

impl CopyError {
    /// For `map_err`: the database file at `path` can't be read.
    pub(crate) fn database(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Database {
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

impl From<SpoolError> for CopyError {
    fn from(error: SpoolError) -> Self {
        Self::Spool(Arc::new(error))
    }
}

/// What keeps a database from being published for the moment. Nobody failed; somebody has to finish first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// A writer died in the middle of a transaction.
    #[error(
        "its journal is hot: a writer died in the middle of a transaction; open the database once with sqlite, which rolls it back"
    )]
    HotJournal,
    /// Somebody holds PENDING or EXCLUSIVE.
    #[error("a write transaction is open: end it and try again")]
    Writing,
    /// The file changed under every look at it.
    #[error("it changes faster than it can be read: try again when its writers leave a gap")]
    Moving,
    /// The database is in WAL mode.
    #[error(
        "it is in WAL mode, which is not replicated: PRAGMA journal_mode=DELETE makes it replicable"
    )]
    Wal,
}

/// Why a flush can't say that everything is in the store.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// A publication failed.
    #[error("{0}")]
    Failed(CopyError),
    /// Something was in the way for as long as a flush waits.
    #[error("{0}")]
    Blocked(Blocked),
    /// The spool is not usable, so that nobody knows what is pending.
    #[error("it is not replicated at the moment: {0}")]
    Unreplicated(String),
    /// Another process serves the database, and did not get it done.
    #[error("another process is its copier and has not published what was pending after {waited_s} s{}", last_error.as_ref().map(|e| format!("; its last error: {e}")).unwrap_or_default())]
    OtherCopier {
        /// How long the flush waited, in seconds.
        waited_s: u64,
        /// What that process said last.
        last_error: Option<String>,
    },
    /// It took longer than whoever asked would wait.
    #[error("not all of it is there after {waited_ms} ms{}; it goes on in the background", last_error.as_ref().map(|e| format!("; the last error: {e}")).unwrap_or_default())]
    TimedOut {
        /// How long the caller waited, in milliseconds.
        waited_ms: u128,
        /// What went wrong at the last attempt, if anything.
        last_error: Option<String>,
    },
    /// Some targets have all, and others not.
    #[error("{} of {count} targets lack data: {}", failed.len(), failed.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; "))]
    Targets {
        /// Which, and why.
        failed: Vec<(String, FlushError)>,
        /// Number of all targets.
        count: usize,
    },
    /// The database file is gone.
    #[error("the database file is gone; the store keeps the last snapshot that was uploaded")]
    Gone,
    /// The copier of this process has ended.
    #[error("the copier of this process has stopped: {0}")]
    Stopped(String),
}

impl FlushError {
    /// What a flush of `count` targets comes to, of which these have failed.
    ///
    /// # Errors
    /// Unless there are none.
    pub(crate) fn of_targets(
        mut failed: Vec<(String, FlushError)>,
        count: usize,
    ) -> Result<(), FlushError> {
        // What is wrong with the database itself is the same for all.
        let is_local = |error: &FlushError| {
            matches!(error, Self::Gone | Self::Blocked(_) | Self::Unreplicated(_))
        };
        match failed.len() {
            0 => Ok(()),
            _ if count == 1 || failed.iter().all(|(_, error)| is_local(error)) => {
                Err(failed.swap_remove(0).1)
            }
            _ => Err(Self::Targets { failed, count }),
        }
    }
}

impl From<&CopyError> for FlushError {
    fn from(error: &CopyError) -> Self {
        match error {
            CopyError::Database { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::Gone
            }
            other => Self::Failed(other.clone()),
        }
    }
}
