//! How commands end when they fail: one line on stderr, one exit status. Every module of this program returns
//! [`Failure`]; `main` reports it.

use std::io;
use std::process::ExitCode;

use verneuil_config::ConfigError;
use verneuil_replica::ReplicaError;
use verneuil_store::StoreError;

use crate::output;

/// Exit status of what could not be done.
const EXIT_FAILED: u8 = 1;
/// Exit status of what was not understood; clap's own.
const EXIT_USAGE: u8 = 2;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It was tried.
    #[error("{0}")]
    Failed(String),
    /// Who reads our output went away. Not worth a word.
    #[error("broken pipe")]
    BrokenPipe,
    /// A signal asked to stop; what was begun has been undone.
    #[error("interrupted, nothing was written")]
    Interrupted(u8),
}

impl Failure {
    /// Says what went wrong; the status to exit with.
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Self::BrokenPipe) {
            output::report(&self.to_string());
        }
        ExitCode::from(match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Failed(_) | Self::BrokenPipe => EXIT_FAILED,
            Self::Interrupted(signal) => 128_u8.saturating_add(*signal),
        })
    }

    /// A failure to write to standard output.
    pub fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Failed(format!("cannot write to standard output: {error}"))
        }
    }
}

impl From<ReplicaError> for Failure {
    fn from(error: ReplicaError) -> Self {
        if error.is_broken_pipe() {
            Self::BrokenPipe
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Failed(error.to_string())
    }
}
