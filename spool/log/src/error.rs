//! What can go wrong in a spool. None of it ever reaches the application: see [`crate::Database::trouble`].

use std::io;
use std::path::{Path, PathBuf};

/// Why the spool could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The system refused something.
    #[error("cannot {op} {path:?}: {source}")]
    Io {
        /// What was tried, as in "open".
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the spool is not what this version, this boot and this user wrote.
    #[error("{path:?} {problem}")]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A database is longer than the control page can describe.
    #[error(
        "the database needs {chunks} chunks of 64 KiB, and at most {chunks_max} can be tracked"
    )]
    TooLarge {
        /// Chunks needed.
        chunks: u64,
        /// The limit.
        chunks_max: u64,
    },
}

impl SpoolError {
    /// For `map_err`: an I/O error of `op` on `path`.
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }

    /// The spool's folder of `database` is not the one that writers use any more.
    pub fn replaced(database: &Path) -> Self {
        Self::unusable(
            database,
            "has a new folder in the spool: the old one was removed or damaged; copying begins again there",
        )
    }

    pub(crate) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// Whether the cause is that a file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
