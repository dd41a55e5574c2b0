//! Why a file is not replicated: decided by `vfs`, told by `pragma` and `status`.

use std::fmt;

/// Why a file is not replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreplicated {
    /// The configuration names no spool or no target.
    NotConfigured,
    /// A journal, a temporary file.
    NotADatabase,
    /// A device or the like.
    NotARegularFile,
    /// The connection can't write.
    ReadOnly,
    /// The connection's URI says so.
    ByParameter(&'static str),
    /// The globs of the configuration leave it out.
    Excluded,
    /// The code that tracks it panicked.
    Bug,
}

impl fmt::Display for Unreplicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreplicated::NotConfigured => f.write_str(
                "the configuration (VERNEUIL_CONFIG) has no replication_spooling_dir or no writable replication_targets",
            ),
            Unreplicated::NotADatabase => f.write_str("it is not a main database"),
            Unreplicated::NotARegularFile => f.write_str("it is not a regular file"),
            Unreplicated::ReadOnly => f.write_str("this connection is read-only"),
            Unreplicated::ByParameter(name) => write!(f, "this connection's URI has {name}=1"),
            Unreplicated::Excluded => f.write_str(
                "the key replicate of the configuration (VERNEUIL_CONFIG) leaves it out: see its include and exclude",
            ),
            Unreplicated::Bug => f.write_str("Verneuil's own code failed (see the log); reopen the connection"),
        }
    }
}
