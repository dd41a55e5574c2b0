//! The client: stores, caches and the loading of manifests, one per process; the mount and `verneuilctl` open it.
//! Listing is in [`crate::listing`], reading in [`crate::snapshot`].

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use tokio::runtime::Handle;
use verneuil_config::CacheConfig;
use verneuil_format::{HEAD_LEN_BYTES, Head, Manifest, NodeRef, manifest_key};
use verneuil_store::{ETag, ErrorKind, GetOptions, Got, Space, Store, printable};

use crate::disk::DiskCache;
use crate::error::ReplicaError;
use crate::fetch::{READS_PER_STORE, Source, StoredChunk};
use crate::frames::Frames;
use crate::snapshot::{Origin, Snapshot};

/// Names that had to be read from manifests because their keys are hashed: they never change.
const HASHED_NAMES_MAX: u64 = 4096;

/// How a [`Client`] caches and fetches.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Memory for verified chunks, in bytes.
    pub memory_cache_bytes: u64,
    /// Memory for decoded nodes of chunk lists, in bytes. A leaf describes 64 MiB of database in about 100 KB.
    pub node_cache_bytes: u64,
    /// Cache directories, in the order in which they are looked into; new frames go to the first writable one.
    pub disk_caches: Vec<CacheConfig>,
    /// Range GETs under way at the same time.
    pub fetch_concurrency: usize,
}

impl Default for ClientConfig {
    /// 128 MiB of chunks, 32 MiB of nodes, no directory, 16 requests at a time.
    fn default() -> Self {
        Self {
            memory_cache_bytes: 128 << 20,
            node_cache_bytes: 32 << 20,
            disk_caches: Vec::new(),
            fetch_concurrency: 16,
        }
    }
}

/// A process's way to its replicas. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) source: Arc<Source>,
    pub(crate) chunks: Arc<Frames<StoredChunk>>,
    pub(crate) nodes: Arc<Frames<NodeRef>>,
    pub(crate) config: ClientConfig,
    pub(crate) runtime: Handle,
    pub(crate) hashed_names: moka::sync::Cache<String, (String, Vec<u8>)>,
}

/// The answer of [`Client::load`].
#[derive(Debug, Clone)]
pub enum Loaded {
    /// The known snapshot is still the newest.
    Unchanged,
    /// Another snapshot.
    New(Arc<Snapshot>),
    /// The store has no such database.
    Missing,
}

/// A manifest as a store holds it.
struct Raw {
    body: Bytes,
    etag: ETag,
    store_index: usize,
}

enum RawLoaded<T> {
    Unchanged,
    New(Raw, T),
    Missing,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("stores", &self.inner.source.stores)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the caches. Sends no request. Must be called on the tokio runtime that is to do the fetching.
    ///
    /// # Errors
    /// No store, no runtime, or a cache directory that can't be created.
    pub fn open(stores: Vec<Store>, config: ClientConfig) -> Result<Self, ReplicaError> {
        if stores.is_empty() {
            return Err(ReplicaError::NoStore);
        }
        let runtime = Handle::try_current().map_err(|_| ReplicaError::NoRuntime)?;
        let disk = Arc::new(DiskCache::open(&config.disk_caches)?);
        let source = Arc::new(Source::new(stores, config.fetch_concurrency));
        let chunks = Frames::new(
            config.memory_cache_bytes,
            Arc::clone(&disk),
            Arc::clone(&source),
            runtime.clone(),
        );
        let nodes = Frames::new(
            config.node_cache_bytes,
            disk,
            Arc::clone(&source),
            runtime.clone(),
        );
        let hashed_names = moka::sync::Cache::builder()
            .max_capacity(HASHED_NAMES_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Ok(Self {
            inner: Arc::new(Inner {
                source,
                chunks,
                nodes,
                config,
                runtime,
                hashed_names,
            }),
        })
    }

    /// Generation, length and time of the newest snapshot of the database with this key
    /// ([`verneuil_format::manifest_key`]), by one small range GET; `None` if there is no such database.
    ///
    /// # Errors
    /// A store that can't be asked, or an object that is no manifest.
    pub async fn stat(&self, key: &str) -> Result<Option<Head>, ReplicaError> {
        let range = GetOptions::range(0..HEAD_LEN_BYTES as u64);
        let head = |raw: &Raw| {
            Head::decode(&raw.body).map_err(|cause| ReplicaError::Manifest {
                object: self.object(key, raw.store_index),
                cause,
            })
        };
        match self.get_manifest(key, range, None, head).await? {
            RawLoaded::New(_, head) => Ok(Some(head)),
            RawLoaded::Missing | RawLoaded::Unchanged => Ok(None),
        }
    }

    /// The newest snapshot of the database with this key, unless `known` still is. One conditional request; no chunk
    /// is fetched. What the two snapshots have in common is in memory only once.
    ///
    /// # Errors
    /// A store that can't be asked; a manifest that is damaged, or not of this key. `known` stays usable.
    pub async fn load(
        &self,
        key: &str,
        known: Option<&Arc<Snapshot>>,
    ) -> Result<Loaded, ReplicaError> {
        let known = known.filter(|known| known.key() == Some(key));
        let check = |raw: &Raw| self.check(key, raw);
        let loaded = self.get_manifest(key, GetOptions::default(), known, check);
        let (raw, manifest) = match loaded.await? {
            RawLoaded::Unchanged => return Ok(Loaded::Unchanged),
            RawLoaded::Missing => return Ok(Loaded::Missing),
            RawLoaded::New(raw, manifest) => (raw, manifest),
        };
        // While the first store is away, another one may answer with something older: no reader goes back for that.
        let falls_back = |known: &Snapshot| {
            known
                .store_index()
                .is_some_and(|index| index < raw.store_index)
                && known.manifest().generation() >= manifest.generation()
        };
        if known.is_some_and(|known| falls_back(known)) {
            return Ok(Loaded::Unchanged);
        }
        let origin = Origin::Store {
            key: key.to_owned(),
            store_index: raw.store_index,
            etag: raw.etag,
        };
        Ok(Loaded::New(Snapshot::new(
            self.clone(),
            manifest,
            origin,
            SystemTime::now(),
        )))
    }

    /// The snapshot that a manifest at hand describes; `name` is what errors call it (the file's path).
    ///
    /// # Errors
    /// Bytes that are no manifest, or a damaged one.
    pub fn snapshot_of(&self, manifest: &[u8], name: &str) -> Result<Arc<Snapshot>, ReplicaError> {
        let manifest = Manifest::decode(manifest).map_err(|cause| ReplicaError::Manifest {
            object: name.to_owned(),
            cause,
        })?;
        Ok(Snapshot::new(
            self.clone(),
            manifest,
            Origin::Bytes,
            SystemTime::now(),
        ))
    }

    /// The bytes of the newest manifest with this key, checked; `None` if there is no such database.
    ///
    /// # Errors
    /// As [`Client::load`].
    pub async fn raw_manifest(&self, key: &str) -> Result<Option<Bytes>, ReplicaError> {
        let check = |raw: &Raw| self.check(key, raw);
        let loaded = self.get_manifest(key, GetOptions::default(), None, check);
        match loaded.await? {
            RawLoaded::New(raw, _) => Ok(Some(raw.body)),
            RawLoaded::Missing | RawLoaded::Unchanged => Ok(None),
        }
    }

    /// A GET of a manifest from the first store that has a good one: `check` says what is good. It is missing only if all stores say so.
    async fn get_manifest<T>(
        &self,
        key: &str,
        options: GetOptions,
        known: Option<&Arc<Snapshot>>,
        check: impl Fn(&Raw) -> Result<T, ReplicaError>,
    ) -> Result<RawLoaded<T>, ReplicaError> {
        let mut failure = None;
        for (store_index, store) in self.inner.source.stores.iter().enumerate() {
            let options = GetOptions {
                if_none_match: known
                    .filter(|known| known.store_index() == Some(store_index))
                    .and_then(|known| known.etag().cloned()),
                ..options.clone()
            };
            // It may have been damaged on its way.
            for _ in 0..READS_PER_STORE {
                let error = match store.get(Space::Manifests, key, options.clone()).await {
                    Ok(Got::Object { body, etag, .. }) => {
                        let raw = Raw {
                            body,
                            etag,
                            store_index,
                        };
                        match check(&raw) {
                            Ok(checked) => return Ok(RawLoaded::New(raw, checked)),
                            Err(error) => error,
                        }
                    }
                    Ok(Got::NotModified) => return Ok(RawLoaded::Unchanged),
                    Err(error) if error.kind == ErrorKind::NotFound => break,
                    Err(error) => error.into(),
                };
                let is_damaged = error.is_damage();
                if is_damaged {
                    tracing::warn!(store = store.describe(), key, %error, "damaged manifest");
                }
                failure.get_or_insert(error);
                if !is_damaged {
                    break;
                }
            }
        }
        failure.map_or(Ok(RawLoaded::Missing), Err)
    }

    fn check(&self, key: &str, raw: &Raw) -> Result<Manifest, ReplicaError> {
        let object = || self.object(key, raw.store_index);
        let manifest = Manifest::decode(&raw.body).map_err(|cause| ReplicaError::Manifest {
            object: object(),
            cause,
        })?;
        let identity = manifest.identity();
        let belongs_to = manifest_key(&identity.host, &identity.path);
        if belongs_to != key {
            return Err(ReplicaError::Misplaced {
                object: object(),
                database: database_name(&manifest),
                belongs_to,
            });
        }
        Ok(manifest)
    }

    fn object(&self, key: &str, store_index: usize) -> String {
        let store = self.inner.source.stores.get(store_index);
        format!(
            "{key} in {}",
            store.map(Store::describe).unwrap_or_default()
        )
    }
}

/// What messages call a database: its name is what a store says, and must not move the cursor of whoever reads the log.
pub(crate) fn database_name(manifest: &Manifest) -> String {
    let identity = manifest.identity();
    let host = printable(identity.host.as_bytes());
    format!("{host}:{}", printable(&identity.path))
}
