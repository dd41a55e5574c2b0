//! One committed state of one database, as a reader sees it; [`crate::client`] makes it, [`crate::frames`] brings its
//! bytes, [`crate::restore`] copies all of it, [`crate::diff`] compares two.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::Semaphore;
use verneuil_format::{
    CHUNK_LEN_BYTES, ChunkIndex, ChunkView, FormatError, LookupError, Manifest, Node, NodeId,
    NodeRef, NodeSource, Stored, assemble,
};
use verneuil_store::ETag;

use crate::client::{Client, database_name};
use crate::error::{DataError, ReplicaError};
use crate::fetch::StoredChunk;
use crate::frames::Frames;
use crate::readahead::{Readahead, WINDOW_MAX_CHUNKS};

/// Chunks that one read brings at a time: bounds the memory of long reads.
const SEGMENT_CHUNKS: u32 = 64;
/// Part of the memory cache that one scan may prefetch: else it would evict what it has not read yet.
const PREFETCH_SHARE: u64 = 8;
/// Windows that are being prefetched for one snapshot.
const PREFETCHES_MAX: usize = 4;

/// An immutable state of a database. Dropping the last reference frees it; chunks stay in the caches.
pub struct Snapshot {
    client: Client,
    manifest: Manifest,
    origin: Origin,
    fetched_at: SystemTime,
    readahead: Readahead,
    prefetches: Arc<Semaphore>,
    me: Weak<Snapshot>,
}

/// Where a manifest came from.
#[derive(Debug)]
pub(crate) enum Origin {
    Store {
        key: String,
        store_index: usize,
        etag: ETag,
    },
    Bytes,
}

/// Nodes loaded for one lookup, on top of those that the cache has: it may evict one that the lookup still needs.
struct LoadedNodes<'a> {
    cache: &'a Frames<NodeRef>,
    loaded: HashMap<NodeId, Arc<Node>>,
}

impl NodeSource for LoadedNodes<'_> {
    fn node(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.loaded.node(id).or_else(|| self.cache.node(id))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("database", &self.database())
            .field("generation", &self.manifest.generation())
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn new(
        client: Client,
        manifest: Manifest,
        origin: Origin,
        fetched_at: SystemTime,
    ) -> Arc<Self> {
        let share =
            client.inner.config.memory_cache_bytes / PREFETCH_SHARE / u64::from(CHUNK_LEN_BYTES);
        let window_max = u32::try_from(share)
            .unwrap_or(u32::MAX)
            .min(WINDOW_MAX_CHUNKS);
        Arc::new_cyclic(|me| Self {
            client,
            manifest,
            origin,
            fetched_at,
            readahead: Readahead::new(window_max),
            prefetches: Arc::new(Semaphore::new(PREFETCHES_MAX)),
            me: me.clone(),
        })
    }

    /// Length of the database file, in bytes.
    pub fn len(&self) -> u64 {
        self.manifest.file_len()
    }

    /// Is the file empty (a database in which nothing was ever created)?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the store says about this state.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's key, when it came from a store.
    pub fn key(&self) -> Option<&str> {
        match &self.origin {
            Origin::Store { key, .. } => Some(key),
            Origin::Bytes => None,
        }
    }

    /// The store's name for this version of the manifest, when it came from a store.
    pub fn etag(&self) -> Option<&ETag> {
        match &self.origin {
            Origin::Store { etag, .. } => Some(etag),
            Origin::Bytes => None,
        }
    }

    pub(crate) fn store_index(&self) -> Option<usize> {
        match &self.origin {
            Origin::Store { store_index, .. } => Some(*store_index),
            Origin::Bytes => None,
        }
    }

    /// When the manifest was fetched (this host's clock).
    pub fn fetched_at(&self) -> SystemTime {
        self.fetched_at
    }

    /// Host and path, for messages.
    pub fn database(&self) -> String {
        database_name(&self.manifest)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The `len` bytes at `offset` (fewer at the end of the file) if they are all in memory. Never blocks, never
    /// waits, may be called on any thread; may start a prefetch.
    pub fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = self.clip(offset, len);
        if bytes.is_empty() {
            return Some(Vec::new());
        }
        let inner = &self.client.inner;
        let chunks = chunks_of(&bytes);
        let mut out = Vec::with_capacity(usize::try_from(bytes.end - bytes.start).ok()?);
        for index in chunks.clone() {
            let view = self.manifest.chunk(ChunkIndex(index), &*inner.nodes).ok()?;
            let chunk = match inner.chunks.cached(&view.id) {
                Some(chunk) => chunk,
                None => {
                    let stored = match stored_chunk(&view) {
                        Some(stored) => Some(inner.chunks.cached(&stored.id)?),
                        None => None,
                    };
                    self.current(&view, stored).ok()?
                }
            };
            append(&mut out, &chunk, index, &bytes);
        }
        self.note(&chunks);
        Some(out)
    }

    /// The `len` bytes at `offset` (fewer at the end of the file), fetched as far as necessary, all verified.
    ///
    /// # Errors
    /// A chunk that no store can give, or only damaged. A later read tries again.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ReplicaError> {
        let bytes = self.clip(offset, len);
        let mut out = Vec::with_capacity(usize::try_from(bytes.end - bytes.start).unwrap_or(0));
        if bytes.is_empty() {
            return Ok(out);
        }
        let chunks = chunks_of(&bytes);
        self.note(&chunks);
        let mut start = chunks.start;
        while start < chunks.end {
            let end = chunks.end.min(start.saturating_add(SEGMENT_CHUNKS));
            for (index, chunk) in (start..end).zip(self.chunks(start..end).await?) {
                append(&mut out, &chunk, index, &bytes);
            }
            start = end;
        }
        Ok(out)
    }

    /// Runs a lookup in chunk lists, loading the nodes that it misses.
    pub(crate) async fn lookup<T>(
        &self,
        look: impl Fn(&dyn NodeSource) -> Result<T, LookupError>,
    ) -> Result<T, ReplicaError> {
        let cache = &self.client.inner.nodes;
        let mut nodes = LoadedNodes {
            cache,
            loaded: HashMap::new(),
        };
        loop {
            let missing = match look(&nodes) {
                Ok(value) => return Ok(value),
                Err(LookupError::Missing(missing)) => missing,
                Err(LookupError::Format(cause)) => return Err(self.data_error("chunk list", cause)),
            };
            let before = nodes.loaded.len();
            for (node, outcome) in missing.iter().zip(cache.get(&missing).await) {
                let loaded = outcome.map_err(|error| ReplicaError::Data {
                    database: self.database(),
                    part: format!("node {} of the chunk list", node.id),
                    cause: DataError::Frame(error),
                })?;
                nodes.loaded.insert(node.id, loaded);
            }
            if nodes.loaded.len() == before {
                // It asks for what it has: a contradiction in the manifest, not a reason to loop.
                let cause = FormatError::Malformed {
                    what: "chunk list",
                    why: "it refers to nodes in a circle",
                };
                return Err(self.data_error("chunk list", cause));
            }
        }
    }

    /// What the manifest says about some chunks; loads the nodes of its chunk list that this needs.
    ///
    /// # Errors
    /// A node that can't be had, or one that contradicts the manifest.
    pub async fn views(&self, chunks: Range<u32>) -> Result<Vec<ChunkView<'_>>, ReplicaError> {
        let all = |nodes: &dyn NodeSource| {
            chunks
                .clone()
                .map(|i| self.manifest.chunk(ChunkIndex(i), nodes))
                .collect()
        };
        self.lookup(all).await
    }

    /// The current, verified bytes of some chunks.
    async fn chunks(&self, chunks: Range<u32>) -> Result<Vec<Bytes>, ReplicaError> {
        let cache = &self.client.inner.chunks;
        let views = self.views(chunks).await?;
        let mut current: Vec<Option<Bytes>> =
            views.iter().map(|view| cache.cached(&view.id)).collect();
        let wants: Vec<(usize, StoredChunk)> = views
            .iter()
            .enumerate()
            .filter(|&(i, _)| current[i].is_none())
            .filter_map(|(i, view)| Some((i, stored_chunk(view)?)))
            .collect();
        let frames: Vec<StoredChunk> = wants.iter().map(|(_, want)| *want).collect();
        let mut stored: HashMap<usize, Bytes> = HashMap::with_capacity(wants.len());
        for ((i, _), outcome) in wants.into_iter().zip(cache.get(&frames).await) {
            let bytes =
                outcome.map_err(|error| self.chunk_error(&views[i], DataError::Frame(error)))?;
            stored.insert(i, bytes);
        }
        let mut out = Vec::with_capacity(views.len());
        for (i, view) in views.iter().enumerate() {
            out.push(match current[i].take() {
                Some(chunk) => chunk,
                None => self
                    .current(view, stored.remove(&i))
                    .map_err(|cause| self.chunk_error(view, cause.into()))?,
            });
        }
        Ok(out)
    }

    /// The current bytes of a chunk out of its verified stored ones; patched ones are verified and kept.
    fn current(&self, view: &ChunkView<'_>, stored: Option<Bytes>) -> Result<Bytes, FormatError> {
        if let Some(stored) = &stored
            && view.patch.is_none()
            && view.entry.id == view.id
            && stored.len() == view.len as usize
        {
            return Ok(stored.clone());
        }
        let chunk = Bytes::from(assemble(view, stored.map(Vec::from).unwrap_or_default())?);
        self.client.inner.chunks.keep(view.id, chunk.clone());
        Ok(chunk)
    }

    /// Tells the readahead what is being read, and starts what it asks for.
    fn note(&self, chunks: &Range<u32>) {
        let Some(ahead) = self
            .readahead
            .note(chunks.start, chunks.end.saturating_sub(1))
        else {
            return;
        };
        let ahead = ahead.start..ahead.end.min(self.manifest.chunk_count());
        let (Some(snapshot), Ok(permit)) = (
            self.me.upgrade(),
            Arc::clone(&self.prefetches).try_acquire_owned(),
        ) else {
            return;
        };
        if ahead.is_empty() {
            return;
        }
        self.client.inner.runtime.spawn(async move {
            if let Err(error) = snapshot.chunks(ahead).await {
                // Whoever needs these bytes will be told.
                tracing::debug!(%error, "prefetch failed");
            }
            drop(permit);
        });
    }

    fn clip(&self, offset: u64, len: usize) -> Range<u64> {
        let start = offset.min(self.len());
        start..start.saturating_add(len as u64).min(self.len())
    }

    pub(crate) fn chunk_error(&self, view: &ChunkView<'_>, cause: DataError) -> ReplicaError {
        let start = view.index.start();
        ReplicaError::Data {
            database: self.database(),
            part: format!(
                "chunk {} (bytes {start} to {})",
                view.index.0,
                start + u64::from(view.len)
            ),
            cause,
        }
    }

    fn data_error(&self, part: &str, cause: FormatError) -> ReplicaError {
        ReplicaError::Data {
            database: self.database(),
            part: part.to_owned(),
            cause: cause.into(),
        }
    }
}

/// What has to be fetched for a chunk; `None`: nothing, it is (or was, before its patch) zeros.
pub(crate) fn stored_chunk(view: &ChunkView<'_>) -> Option<StoredChunk> {
    match view.entry.stored {
        Stored::Zero => None,
        Stored::Frame(at) => Some(StoredChunk {
            id: view.entry.id,
            at,
        }),
    }
}

/// The chunks that hold these bytes, which are not empty.
fn chunks_of(bytes: &Range<u64>) -> Range<u32> {
    ChunkIndex::containing(bytes.start).0..ChunkIndex::containing(bytes.end - 1).0.saturating_add(1)
}

/// Appends what `bytes` wants of chunk `index`.
fn append(out: &mut Vec<u8>, chunk: &[u8], index: u32, bytes: &Range<u64>) {
    let start = ChunkIndex(index).start();
    // Both are at most a chunk's length.
    let from = bytes.start.saturating_sub(start) as usize;
    let to = (bytes.end - start).min(chunk.len() as u64) as usize;
    out.extend_from_slice(&chunk[from.min(to)..to]);
}
