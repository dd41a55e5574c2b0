//! What can go wrong for a reader, made by every module of this crate; `verneuilctl` prints it as it is, the mount
//! turns it into an errno. Each message is one line: what, of which object, why, what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use verneuil_format::FormatError;
use verneuil_store::StoreError;

/// Why a replica cannot be read. Nothing is left behind anywhere, unless the function says so.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// There is nowhere to read from.
    #[error(
        "there is no store to read from; name one under \"replication_targets\" in the configuration"
    )]
    NoStore,
    /// [`crate::Client::open`] was called outside a tokio runtime, which every fetch needs.
    #[error(
        "a replica client was opened outside an asynchronous runtime; this is a mistake in the program that uses it"
    )]
    NoRuntime,
    /// A listing does not end, or not before it fills the memory.
    #[error(
        "{store} lists more below {prefix} than can be held: the first {len} keys, and there are more; \
         if there are not that many databases, see what answers there"
    )]
    EndlessListing {
        /// What was to be listed.
        prefix: String,
        /// The store.
        store: String,
        /// How many keys it had listed.
        len: usize,
    },
    /// A request to the store failed; the message has the object, the cause and the remedy.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// What a store (or a file) holds where a manifest is expected.
    #[error(
        "{object} cannot be used as a manifest: {cause}; {}",
        manifest_remedy(cause)
    )]
    Manifest {
        /// The store and key, or the file.
        object: String,
        /// What is wrong with it.
        cause: FormatError,
    },
    /// A manifest that says that it belongs elsewhere: somebody copied or forged it.
    #[error(
        "{object} holds the manifest of {database}, whose key is {belongs_to}; \
         it was copied or forged, and is not used: remove it, and flush the source again"
    )]
    Misplaced {
        /// The store and key.
        object: String,
        /// Host and path in the manifest.
        database: String,
        /// The key that they have.
        belongs_to: String,
    },
    /// A part of a database is not to be had, or only damaged.
    #[error("{database}: {part}: {cause}; {}", cause.remedy())]
    Data {
        /// Host and path.
        database: String,
        /// Which part of it.
        part: String,
        /// What happened.
        cause: DataError,
    },
    /// A cache directory cannot be created.
    #[error("cache directory {}: {cause}; correct its path in the configuration, or the permissions", .directory.display())]
    Cache {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        cause: Arc<io::Error>,
    },
    /// The file to restore to cannot be written. What was there before is unchanged.
    #[error("cannot {action} {}: {cause}; {}", .path.display(), output_remedy(cause))]
    Output {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: Arc<io::Error>,
    },
    /// The file to restore to has a journal or write-ahead log.
    #[error(
        "{} is not replaced while {} exists: sqlite would apply it to the restored copy; \
         open the database once with sqlite, or remove both, or restore to another name",
        .path.display(), .beside.display()
    )]
    OutputInUse {
        /// The file.
        path: PathBuf,
        /// What stands beside it.
        beside: PathBuf,
    },
    /// The writer that was to receive the database failed.
    #[error("cannot write the restored bytes: {cause}")]
    Writer {
        /// Its reason.
        cause: Arc<io::Error>,
    },
    /// A background task ended before its work was done.
    #[error("{database}: reading was interrupted, because the program is ending")]
    Interrupted {
        /// Host and path.
        database: String,
    },
}

/// Why a frame, or what it holds, cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No store gave a good frame.
    #[error("{0}")]
    Frame(Arc<FrameError>),
    /// The frames are good, but contradict the manifest.
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// No store gave a good frame.
#[derive(Debug, Clone)]
pub struct FrameError {
    /// Key of the pack.
    pub pack_key: String,
    /// What each attempt met, in order.
    pub reports: Vec<String>,
    /// At least one store had the pack, but with other bytes than it should have.
    pub is_damaged: bool,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.pack_key)?;
        if self.reports.is_empty() {
            return f.write_str("not fetched, because the program is ending");
        }
        for (i, report) in self.reports.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; then " };
            write!(f, "{separator}{report}")?;
        }
        Ok(())
    }
}

impl DataError {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Frame(error) if error.is_damaged => {
                "the pack is damaged in the store: put it back from another copy of the store, \
                 or upload the database anew under another prefix"
            }
            Self::Frame(_) => "try again when the store answers",
            Self::Format(_) => "the replica is damaged: flush its source again",
        }
    }
}

impl ReplicaError {
    pub(crate) fn cache(directory: &Path, cause: io::Error) -> Self {
        Self::Cache {
            directory: directory.to_owned(),
            cause: Arc::new(cause),
        }
    }

    pub(crate) fn output(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Output {
            action,
            path: path.to_owned(),
            cause: Arc::new(cause),
        }
    }

    /// Whether what was asked for is not there: neither refused nor out of reach.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_not_found())
    }

    /// Whether a manifest is not what its source wrote; one of a later version is.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Manifest { cause, .. }
            if !matches!(cause, FormatError::UnknownVersion { .. }))
    }

    /// Whether the consumer of restored bytes went away (`verneuilctl restore … | head`).
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Writer { cause } if cause.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<StoreError> for ReplicaError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

fn manifest_remedy(cause: &FormatError) -> &'static str {
    match cause {
        FormatError::UnknownVersion { .. } => "install that version here",
        _ => "flush its source again to replace it",
    }
}

fn output_remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room, or restore elsewhere"
        }
        io::ErrorKind::NotFound => "create its directory first",
        _ => "check the path and its permissions",
    }
}
