//! Where packs and manifests live: S3 or a directory, behind one type that paces and retries; used
//! by `verneuil-copier` and `verneuil-replica`, configured by `verneuil-config`.
//!
//! - `types`: what goes in and out;
//! - `error`: what can go wrong, and what to do then;
//! - `pacer`: the limit on requests per second;
//! - `retry`: attempts, backoff and time limits, the same for every backend;
//! - `text`: what a store says, fit to be printed;
//! - `s3`, `directory`: the backends. Each method is one attempt.
//!
//! Everything must be awaited on a tokio runtime with timer and I/O enabled; connections belong to
//! the runtime on which they were made, so a `Store` serves one runtime.
#![forbid(unsafe_code)]

mod directory;
mod error;
mod pacer;
mod retry;
mod s3;
mod text;
mod types;

pub use error::{ErrorKind, Operation, StoreError};
pub use pacer::Pacer;
pub use text::printable;
pub use types::{
    Condition, ETag, GetOptions, Got, LIST_PAGE_LEN_MAX, ListPage, Listed, Meta,
    OBJECT_LEN_MAX_BYTES, Space,
};

use bytes::Bytes;
use directory::Directory;
use retry::Retry;
use s3::S3;
use std::sync::Arc;
use verneuil_config::TargetConfig;

/// How often a read of a range may find the object too short, and then long enough. Whoever sees
/// that more often is talking to a store that does not do ranges.
const GROWTH_ROUNDS_MAX: u32 = 4;

/// One store. Clones are cheap and share connections and limits.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<Backend>,
    name: Arc<str>,
    retry: Arc<Retry>,
    pacer: Arc<Pacer>,
}

#[derive(Debug)]
enum Backend {
    S3(S3),
    Directory(Directory),
}

impl Store {
    /// Sets up the store that `target` describes. Sends no request and creates nothing: a store that
    /// is away is an error of the first request.
    ///
    /// # Errors
    /// `BadRequest` if the configuration cannot be used.
    pub async fn open(target: &TargetConfig, pacer: Arc<Pacer>) -> Result<Self, StoreError> {
        let (backend, retry) = match target {
            TargetConfig::S3(config) => (
                Backend::S3(S3::open(config).await?),
                Retry::for_s3(config.request_timeout_ms, config.max_attempts),
            ),
            TargetConfig::Directory(config) => (
                Backend::Directory(Directory::open(&config.path)?),
                Retry::for_directory(),
            ),
        };
        Ok(Self {
            backend: Arc::new(backend),
            name: target.describe().into(),
            retry: Arc::new(retry),
            pacer,
        })
    }

    /// Makes what the first request to such a store would make once for the whole process; sends nothing. For processes that may fork: a
    /// fork in the middle of that would leave it half made in the child for ever.
    pub async fn prepare_process(target: &TargetConfig) {
        match target {
            TargetConfig::S3(_) => S3::prepare_process().await,
            TargetConfig::Directory(_) => {}
        }
    }

    /// The same store and connections under another limit, for work that somebody waits for.
    pub fn with_pacer(&self, pacer: Arc<Pacer>) -> Self {
        Self {
            pacer,
            ..self.clone()
        }
    }

    /// The limit that this store's requests count against.
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// The store in a few words, for logs and errors: see [`TargetConfig::describe`].
    pub fn describe(&self) -> String {
        self.name.to_string()
    }

    /// Writes an object, whole and at once, if `condition` holds. When this returns, the object is
    /// durable.
    ///
    /// # Errors
    /// `PreconditionFailed` leaves the object as it was, unless an earlier attempt of this very call
    /// had succeeded and its answer was lost: then the object holds `body`. After every other error
    /// it holds either the old or the new content.
    pub async fn put(
        &self,
        space: Space,
        key: &str,
        body: Bytes,
        condition: Condition,
    ) -> Result<ETag, StoreError> {
        let (body, condition) = (&body, &condition);
        let result = self
            .attempts(Operation::Put, space, key, move || {
                self.backend.put(space, key, body, condition)
            })
            .await;
        match result {
            Err(error)
                if error.kind == ErrorKind::StoreMissing && self.backend.creates_missing() =>
            {
                self.attempts(Operation::CreateBucket, space, "", move || {
                    self.backend.create(space)
                })
                .await?;
                self.attempts(Operation::Put, space, key, move || {
                    self.backend.put(space, key, body, condition)
                })
                .await
            }
            other => other,
        }
    }

    /// Reads an object, or a range of it.
    ///
    /// # Errors
    /// `NotFound` if there is no such object; nothing is left half read.
    pub async fn get(
        &self,
        space: Space,
        key: &str,
        options: GetOptions,
    ) -> Result<Got, StoreError> {
        let options = &options;
        if let Some(range) = &options.range
            && range.start > range.end
        {
            return Err(StoreError::new(
                ErrorKind::BadRequest,
                Operation::Get,
                self.backend.name(space, key),
                format!("the range {}..{} is backwards", range.start, range.end),
            ));
        }
        let is_empty = options.range.as_ref().is_some_and(|range| range.is_empty());
        for _ in 0..GROWTH_ROUNDS_MAX {
            // HTTP has no empty ranges.
            if !is_empty {
                let got = self
                    .attempts(Operation::Get, space, key, move || {
                        self.backend.get(space, key, options)
                    })
                    .await?;
                if let Some(got) = got {
                    return Ok(got);
                }
            }
            // The range lies beyond the end, and S3 says neither version nor length then.
            let meta = self.head(space, key).await?;
            if options.if_none_match.as_ref() == Some(&meta.etag) {
                return Ok(Got::NotModified);
            }
            let start = options.range.as_ref().map_or(0, |range| range.start);
            if is_empty || meta.len <= start {
                return Ok(Got::Object {
                    body: Bytes::new(),
                    etag: meta.etag,
                    total_len: meta.len,
                });
            }
            // It grew in between: read again.
        }
        Err(StoreError::new(
            ErrorKind::Unavailable,
            Operation::Get,
            self.backend.name(space, key),
            "the store refuses a range that lies within the object",
        ))
    }

    /// Asks for an object's version and length.
    ///
    /// # Errors
    /// `NotFound` if there is no such object.
    pub async fn head(&self, space: Space, key: &str) -> Result<Meta, StoreError> {
        self.attempts(Operation::Head, space, key, move || {
            self.backend.head(space, key)
        })
        .await
    }

    /// Lists the keys that begin with `prefix`, up to 1,000 at a time; with `delimiter`, only as far
    /// as the next `/` after `prefix`. `continuation` is the `next` of the page before.
    ///
    /// # Errors
    /// `StoreMissing` if the bucket or root directory does not exist: an empty listing would hide a
    /// misspelt name.
    pub async fn list(
        &self,
        space: Space,
        prefix: &str,
        delimiter: bool,
        continuation: Option<String>,
    ) -> Result<ListPage, StoreError> {
        self.list_at_most(space, prefix, delimiter, continuation, LIST_PAGE_LEN_MAX)
            .await
    }

    /// [`Store::list`] with pages of at most `page_len` (1 to 1,000) objects and prefixes.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_at_most(
        &self,
        space: Space,
        prefix: &str,
        delimiter: bool,
        continuation: Option<String>,
        page_len: u32,
    ) -> Result<ListPage, StoreError> {
        let page_len = page_len.clamp(1, LIST_PAGE_LEN_MAX);
        let continuation = continuation.as_deref();
        self.attempts(Operation::List, space, prefix, move || {
            self.backend
                .list(space, prefix, delimiter, continuation, page_len)
        })
        .await
    }

    /// Removes an object. Removing what is not there succeeds.
    ///
    /// # Errors
    /// The object may or may not be gone.
    pub async fn delete(&self, space: Space, key: &str) -> Result<(), StoreError> {
        self.attempts(Operation::Delete, space, key, move || {
            self.backend.delete(space, key)
        })
        .await
    }

    async fn attempts<T, F, Fut>(
        &self,
        operation: Operation,
        space: Space,
        key: &str,
        attempt: F,
    ) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let name = || self.backend.name(space, key);
        self.retry.run(&self.pacer, operation, name, attempt).await
    }
}

impl Backend {
    fn name(&self, space: Space, key: &str) -> String {
        match self {
            Self::S3(s3) => s3.name(space, key),
            Self::Directory(directory) => directory.name(key),
        }
    }

    fn creates_missing(&self) -> bool {
        match self {
            Self::S3(s3) => s3.creates_missing(),
            // A directory store makes its root in `put`.
            Self::Directory(_) => false,
        }
    }

    async fn create(&self, space: Space) -> Result<(), StoreError> {
        match self {
            Self::S3(s3) => s3.create_bucket(space).await,
            Self::Directory(_) => Ok(()),
        }
    }

    async fn put(
        &self,
        space: Space,
        key: &str,
        body: &Bytes,
        condition: &Condition,
    ) -> Result<ETag, StoreError> {
        match self {
            Self::S3(s3) => s3.put(space, key, body, condition).await,
            Self::Directory(directory) => directory.put(key, body, condition).await,
        }
    }

    /// `None`: the range begins at or beyond the end, or is empty.
    async fn get(
        &self,
        space: Space,
        key: &str,
        options: &GetOptions,
    ) -> Result<Option<Got>, StoreError> {
        match self {
            Self::S3(s3) => s3.get(space, key, options).await,
            Self::Directory(directory) => directory.get(key, options).await.map(Some),
        }
    }

    async fn head(&self, space: Space, key: &str) -> Result<Meta, StoreError> {
        match self {
            Self::S3(s3) => s3.head(space, key).await,
            Self::Directory(directory) => directory.head(key).await,
        }
    }

    async fn list(
        &self,
        space: Space,
        prefix: &str,
        delimiter: bool,
        continuation: Option<&str>,
        page_len: u32,
    ) -> Result<ListPage, StoreError> {
        match self {
            Self::S3(s3) => {
                s3.list(space, prefix, delimiter, continuation, page_len)
                    .await
            }
            Self::Directory(directory) => {
                directory
                    .list(prefix, delimiter, continuation, page_len)
                    .await
            }
        }
    }

    async fn delete(&self, space: Space, key: &str) -> Result<(), StoreError> {
        match self {
            Self::S3(s3) => s3.delete(space, key).await,
            Self::Directory(directory) => directory.delete(key).await,
        }
    }
}
