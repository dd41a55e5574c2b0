//! What a user is told about a bad configuration; made by `reader` and `keys`, shown as it is by
//! the extension, `verneuilctl` and `verneuil-fs`.

use std::fmt;
use std::path::PathBuf;

/// A place in a configuration text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file, or the name of the variable or option that held the text.
    pub origin: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.origin, self.line, self.column)
    }
}

/// Why a configuration was refused. Its text is one line: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file that `@PATH` named cannot be read.
    #[error(
        "{origin}: cannot read the configuration file {path:?}: {source}; \
         correct the path after \"@\", or the file's permissions"
    )]
    File {
        /// What named the file.
        origin: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is not UTF-8.
    #[error("{origin}: the configuration is not UTF-8; save it as UTF-8")]
    NotUtf8 {
        /// The file or variable.
        origin: String,
    },
    /// The file is too long to be a configuration.
    #[error(
        "{origin}: the file is longer than {len_max_bytes} bytes; \
         it does not seem to be a configuration: correct the path after \"@\""
    )]
    TooLong {
        /// The file.
        origin: String,
        /// The limit.
        len_max_bytes: u64,
    },
    /// The text is not JSON (with comments and trailing commas).
    #[error(
        "{at}: not valid JSON: {problem}; // comments, /* */ comments and trailing commas \
         are the only extensions"
    )]
    Syntax {
        /// Where reading stopped.
        at: Position,
        /// What stands there.
        problem: String,
    },
    /// A key is unknown, repeated, missing or has a bad value.
    #[error("{at}: key {key:?}: {problem}; {remedy}")]
    Key {
        /// Where the key or its value begins.
        at: Position,
        /// The full path of the key, as in `replication_targets[0].s3.region`.
        key: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The machine has no name, and the configuration does not give one.
    #[error(
        "the machine's host name cannot be used: {cause}; \
         set the key \"hostname\" in the configuration"
    )]
    Hostname {
        /// Why not.
        cause: String,
    },
}
