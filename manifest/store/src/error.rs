//! Why a request to a store failed: made by the backends, judged by the retry loop in `retry`, and
//! shown as it is by copier, replica and `verneuilctl`.

use std::fmt;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// The bucket, or the root directory, does not exist.
    StoreMissing,
    /// The condition of a `put` does not hold: the object changed, exists, or is gone. Also the
    /// answer to a retried `put` whose first answer was lost: look at the object before giving up.
    PreconditionFailed,
    /// No credentials, wrong ones, or no permission.
    Denied,
    /// The store asks for fewer requests.
    Throttled,
    /// The store cannot be reached, or failed.
    Unavailable,
    /// No complete answer within the time limit. The request may still take effect.
    TimedOut,
    /// The request can never succeed: a bad key, a wrong region, an operation the store lacks.
    BadRequest,
    /// The disk of a directory store failed or is full.
    Io,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Setting up the connection; sends nothing.
    Open,
    /// Writing an object.
    Put,
    /// Reading an object or a range of it.
    Get,
    /// Asking for an object's version and length.
    Head,
    /// Listing keys.
    List,
    /// Removing an object.
    Delete,
    /// Creating a bucket.
    CreateBucket,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Put => "write",
            Self::Get => "read",
            Self::Head => "look up",
            Self::List => "list",
            Self::Delete => "delete",
            Self::CreateBucket => "create bucket",
        })
    }
}

/// A request failed, for good or after all its attempts. Holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {object}: {cause}{}; {}", Attempts(*attempts), self.hint())]
pub struct StoreError {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// What was asked for.
    pub operation: Operation,
    /// Of which object, in which store: `s3://bucket/key at http://…`, or a path.
    pub object: String,
    /// What the store or the system said.
    pub cause: String,
    /// How many times it was tried.
    pub attempts: u32,
    /// What the user can do, where more is known than `kind` says.
    pub(crate) remedy: Option<&'static str>,
}

impl StoreError {
    pub(crate) fn new(
        kind: ErrorKind,
        operation: Operation,
        object: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            object: object.into(),
            cause: cause.into(),
            attempts: 1,
            remedy: None,
        }
    }

    pub(crate) fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Io
        )
    }

    /// Whether what was asked for does not exist, be it the object or the whole store.
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind, ErrorKind::NotFound | ErrorKind::StoreMissing)
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        if let Some(remedy) = self.remedy {
            return remedy;
        }
        match self.kind {
            ErrorKind::NotFound => "check the name, and that it has been replicated to this store",
            ErrorKind::StoreMissing => {
                "create it, correct the configuration, or let the first upload create it"
            }
            ErrorKind::PreconditionFailed => {
                "somebody else wrote this object: check that no other host uses the same host name"
            }
            ErrorKind::Denied => {
                "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, \
                 or the machine's role) and that they permit this on the bucket"
            }
            ErrorKind::Throttled => "lower copier.requests_per_second, or wait",
            ErrorKind::Unavailable => "check the endpoint and the network; it may just be down",
            ErrorKind::TimedOut => "check the network, or raise request_timeout_ms",
            ErrorKind::BadRequest => "correct the configuration of this store",
            ErrorKind::Io => "check the disk: free space, permissions, mount",
        }
    }
}

struct Attempts(u32);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            n => write!(f, " (after {n} attempts)"),
        }
    }
}
