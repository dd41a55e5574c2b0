//! The manifest that the next one is built upon, as it is in the store, and the objects it refers to; used by `pass` and `catchup`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use verneuil_config::TargetConfig;
use verneuil_format::limits::NODE_LEN_MAX_BYTES;
use verneuil_format::{
    CHUNK_LEN_BYTES, Change, ChunkId, ChunkIndex, ChunkSource, Entry, FrameRef, Generation,
    HEAD_LEN_BYTES, Head, Identity, LookupError, Manifest, NextState, Node, NodeId, NodeRef, Pack,
    PackBuilder, PageIds, PatchBudget, Stored, UpdateError, Updated, assemble, chunk_len,
    decode_frame, manifest_key, pack_key,
};
use verneuil_spool::{Database, TargetId};
use verneuil_store::{Condition, ETag, ErrorKind, GetOptions, Got, Space, Store, StoreError};

use crate::error::CopyError;
use crate::requests;

/// Requests of one publication that are under way at once: enough to hide the latency of a store, few enough that 4 MiB each stay small.
pub(crate) const REQUESTS_AT_ONCE: usize = 4;
/// Decoded nodes kept per database, 80 KiB each: the chunk list of 4 GiB. Beyond, they are read again when needed.
const NODES_MAX: usize = 64;
/// Changed chunks whose pages are remembered per database, some hundred bytes each (2 KiB with the smallest pages): more than can have patches.
/// What is not remembered is read again before a patch of it is believed.
pub(crate) const PAGES_MAX: usize = 64;

/// The last manifest, and what was loaded of its chunk list.
#[derive(Debug)]
pub(crate) struct Base {
    key: String,
    manifest: Manifest,
    /// Version of the manifest in the store; `None` while there is none.
    etag: Option<ETag>,
    /// Some other spool has published it: one that this host had before it was wiped, or another host's.
    is_strange: bool,
    nodes: HashMap<NodeId, Arc<Node>>,
    /// The pages of contents that were published last, the newest at the end.
    pages: VecDeque<(ChunkId, PageIds)>,
    /// It refers to nothing, because what the store's manifest refers to is lost.
    afresh: bool,
}

impl Base {
    /// Copier step 1: loads the last manifest. `published` is the generation of the last one that this spool has published there (0: none).
    ///
    /// The flag says whether the manifest is that one (or the next, whose answer was lost), so that the log can be replayed over it.
    /// Otherwise everything has to be compared with it.
    ///
    /// # Errors
    /// [`CopyError::Claimed`] if this spool has published, and what is there now is another source's.
    pub(crate) async fn load(
        store: &Store,
        identity: Identity,
        published: u64,
    ) -> Result<(Self, bool), CopyError> {
        let key = manifest_key(&identity.host, &identity.path);
        let mut body = read_manifest(store, &key).await?;
        if let Some((bytes, _)) = &body
            && let Err(error) = Manifest::decode(bytes)
        {
            // It may have been damaged on its way, and to upload everything is dear.
            tracing::warn!(key, %error, "the manifest in the store is read once more");
            body = read_manifest(store, &key).await?;
        }
        let Some((body, etag)) = body else {
            let manifest = Manifest::empty_after(identity, Generation(published));
            return Ok((
                Self {
                    key,
                    manifest,
                    etag: None,
                    is_strange: false,
                    nodes: HashMap::new(),
                    pages: VecDeque::new(),
                    afresh: false,
                },
                false,
            ));
        };
        let (manifest, is_ours, is_strange) = match Manifest::decode(&body) {
            Ok(found) => {
                let generation = found.generation().0;
                let same_instance = found.identity().instance == identity.instance;
                if published > 0 && !same_instance {
                    return Err(claimed(&key, &found));
                }
                let is_ours =
                    published > 0 && (generation == published || generation == published + 1);
                (found.with_identity(identity), is_ours, !same_instance)
            }
            Err(error) => {
                tracing::warn!(key, %error, "the manifest in the store is damaged: the database is uploaded afresh");
                (
                    Manifest::empty_after(
                        identity,
                        Generation(generation_of(&body).0.max(published)),
                    ),
                    false,
                    true,
                )
            }
        };
        Ok((
            Self {
                key,
                manifest,
                etag: Some(etag),
                is_strange,
                nodes: HashMap::new(),
                pages: VecDeque::new(),
                afresh: false,
            },
            is_ours,
        ))
    }

    /// The manifest in the store (or an empty one).
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the store has it, by this spool. If not, it is published though nothing has changed: what this spool says that it has published must
    /// bear its instance id, or the next copier takes it for another source's.
    pub(crate) fn is_published(&self) -> bool {
        self.etag.is_some() && !self.is_strange && !self.afresh && self.manifest.generation().0 > 0
    }

    /// Forgets what the store's manifest refers to, so that the next one names only what is uploaded from now on. Generations go on.
    pub(crate) fn start_afresh(&mut self) {
        self.manifest =
            Manifest::empty_after(self.manifest.identity().clone(), self.manifest.generation());
        self.nodes.clear();
        self.afresh = true;
    }

    /// Whether nothing was published since [`Self::start_afresh`].
    pub(crate) fn is_afresh(&self) -> bool {
        self.afresh
    }

    /// Ids of the current content of these chunks (`None` beyond the end).
    pub(crate) async fn chunk_ids(
        &mut self,
        store: &Store,
        indexes: &[u32],
    ) -> Result<Vec<Option<ChunkId>>, CopyError> {
        loop {
            let missing = {
                let mut ids = Vec::with_capacity(indexes.len());
                // Neighbours miss the same node.
                let mut missing = BTreeSet::new();
                for &index in indexes {
                    match self.manifest.chunk(ChunkIndex(index), &self.nodes) {
                        Ok(view) => ids.push((view.len > 0).then_some(view.id)),
                        Err(LookupError::Missing(nodes)) => missing.extend(nodes),
                        Err(LookupError::Format(error)) => return Err(lost(error)),
                    }
                }
                if missing.is_empty() {
                    return Ok(ids);
                }
                missing
            };
            self.load_nodes(store, missing.into_iter().collect())
                .await?;
        }
    }

    /// The manifest after this one, with what has to be uploaded before it. `local` gives a chunk of the database file as it is now.
    pub(crate) async fn next(
        &mut self,
        store: &Store,
        next: &mut NextState,
        budget: PatchBudget,
        local: impl Fn(u32, u32) -> Option<Vec<u8>>,
    ) -> Result<Updated, CopyError> {
        let mut loaded: HashMap<ChunkId, Bytes> = HashMap::new();
        loop {
            let chunks = AtHand {
                loaded: &loaded,
                pages: &self.pages,
            };
            match self.manifest.update(next, &self.nodes, &chunks, budget) {
                Ok(updated) => {
                    self.remember_pages(next);
                    return Ok(updated);
                }
                Err(UpdateError::NeedNodes(nodes)) => self.load_nodes(store, nodes).await?,
                Err(UpdateError::NeedChunks(needed)) => {
                    let needed = self.evict_local(store, next, needed, &local).await?;
                    for (id, raw) in load_chunks(store, needed).await? {
                        loaded.insert(id, raw);
                    }
                }
                Err(UpdateError::Format(error)) => return Err(error.into()),
                Err(error @ UpdateError::WrongLength { .. }) => {
                    return Err(CopyError::Worker(error.to_string()));
                }
            }
        }
    }

    /// For the patches of the next publication.
    fn remember_pages(&mut self, next: &NextState) {
        let newest = next
            .changes
            .values()
            .rev()
            .filter_map(|change| match change {
                Change::Bytes { bytes, .. } => Some(bytes),
                Change::Stored(_) => None,
            });
        let page_size = next.source.page_size;
        let pages = newest
            .take(PAGES_MAX)
            .map(|bytes| (ChunkId::of(bytes), PageIds::of(bytes, page_size)));
        self.remember(pages.collect());
    }

    /// Spares a request before a chunk with this content is patched.
    pub(crate) fn remember(&mut self, pages: Vec<(ChunkId, PageIds)>) {
        for known in pages {
            self.pages.retain(|(id, _)| *id != known.0);
            self.pages.push_back(known);
        }
        let surplus = self.pages.len().saturating_sub(PAGES_MAX);
        self.pages.drain(..surplus);
    }

    /// Patched chunks that are to be stored whole, and that the file still holds as the manifest describes them, need not be fetched to be put
    /// together: they go into packs as they are. Returns the others, and those that are to be patched.
    async fn evict_local(
        &self,
        store: &Store,
        next: &mut NextState,
        needed: Vec<(ChunkIndex, Entry)>,
        local: &impl Fn(u32, u32) -> Option<Vec<u8>>,
    ) -> Result<Vec<(ChunkIndex, Entry)>, CopyError> {
        let (mut builder, mut ids, mut rest) = (PackBuilder::new(), Vec::new(), Vec::new());
        for (index, entry) in needed {
            let view = match self.manifest.chunk(index, &self.nodes) {
                Ok(view)
                    if !next.changes.contains_key(&index)
                        && !builder.is_full()
                        && view.len == chunk_len(next.source.file_len, index) =>
                {
                    view
                }
                _ => {
                    rest.push((index, entry));
                    continue;
                }
            };
            match local(index.0, view.len).filter(|bytes| ChunkId::of(bytes) == view.id) {
                Some(bytes) => ids.push((index, view.id, builder.push(&bytes)?)),
                None => rest.push((index, entry)),
            }
        }
        if ids.is_empty() {
            return Ok(rest);
        }
        let pack = builder.finish();
        for (index, id, slot) in ids {
            if let Some(at) = pack.frames.get(slot) {
                next.changes.insert(
                    index,
                    Change::Stored(Entry {
                        id,
                        stored: Stored::Frame(*at),
                    }),
                );
            }
        }
        put_packs(store, vec![pack]).await?;
        Ok(rest)
    }

    /// Copier step 10, first part: packs, then the manifest, which must replace the one that this is (P6: a manifest names only what is there).
    pub(crate) async fn publish(
        &mut self,
        store: &Store,
        updated: Updated,
    ) -> Result<(), CopyError> {
        put_packs(store, updated.packs).await?;
        let body = Bytes::from(updated.manifest.encode()?);
        let condition = match &self.etag {
            Some(etag) => Condition::Matches(etag.clone()),
            None => Condition::Absent,
        };
        let etag = match requests::put(store, Space::Manifests, &self.key, body, condition).await {
            Ok(etag) => etag,
            Err(error) if error.kind == ErrorKind::PreconditionFailed => {
                self.recognise_own(store, &updated.manifest, error).await?
            }
            Err(error) => return Err(error.into()),
        };
        self.manifest = updated.manifest;
        self.etag = Some(etag);
        self.is_strange = false;
        self.afresh = false;
        if self.nodes.len() + updated.nodes.len() > NODES_MAX {
            self.nodes.clear();
        }
        self.nodes.extend(
            updated
                .nodes
                .into_iter()
                .map(|(reference, node)| (reference.id, node)),
        );
        Ok(())
    }

    /// After a refused PUT: an earlier attempt of it may have succeeded and its answer been lost. Then the manifest there is this one.
    async fn recognise_own(
        &self,
        store: &Store,
        ours: &Manifest,
        refused: StoreError,
    ) -> Result<ETag, CopyError> {
        let got = requests::get(store, Space::Manifests, &self.key, GetOptions::default()).await;
        let (body, etag) = match got {
            Ok(Got::Object { body, etag, .. }) => (body, etag),
            Ok(Got::NotModified) => return Err(refused.into()),
            // The store has lost it since it was read: to be begun anew.
            Err(error) if error.is_not_found() && self.etag.is_some() => {
                return Err(CopyError::Overtaken(refused));
            }
            Err(error) => return Err(error.into()),
        };
        if self.etag.as_ref() == Some(&etag) {
            // Nothing has changed since it was read: not the condition was at fault, and trying again at once changes nothing.
            return Err(refused.into());
        }
        let theirs = Manifest::decode(&body)?;
        if theirs == *ours {
            return Ok(etag);
        }
        if theirs.identity().instance == ours.identity().instance {
            // Ours too, from an earlier publication that looked like a failure: to be built upon.
            return Err(CopyError::Overtaken(refused));
        }
        Err(claimed(&self.key, &theirs))
    }

    /// The first chunk that the manifest patches and that can't be put together from what is in the store. Its nodes have to be loaded.
    pub(crate) async fn damaged_patch(&self, store: &Store) -> Result<Option<u32>, CopyError> {
        for index in 0..self.manifest.chunk_count() {
            let Ok(view) = self.manifest.chunk(ChunkIndex(index), &self.nodes) else {
                continue;
            };
            let stored = match (view.patch, view.entry.stored) {
                (None, _) => continue,
                (Some(_), Stored::Zero) => Vec::new(),
                (Some(_), Stored::Frame(at)) => {
                    get_frame(store, at, CHUNK_LEN_BYTES as usize).await?
                }
            };
            if assemble(&view, stored).is_err() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    async fn load_nodes(&mut self, store: &Store, nodes: Vec<NodeRef>) -> Result<(), CopyError> {
        // A whole chunk list at once is more than the bound; it is emptied again after the publication.
        let loaded: Vec<(NodeId, Arc<Node>)> = stream::iter(nodes)
            .map(|reference| async move {
                let raw = get_frame(store, reference.at, NODE_LEN_MAX_BYTES).await?;
                let node = Node::decode(&reference, &raw).map_err(lost)?;
                Ok::<_, CopyError>((reference.id, Arc::new(node)))
            })
            .buffer_unordered(REQUESTS_AT_ONCE)
            .try_collect()
            .await?;
        self.nodes.extend(loaded);
        Ok(())
    }
}

/// What there is of chunks without asking the store.
struct AtHand<'a> {
    loaded: &'a HashMap<ChunkId, Bytes>,
    pages: &'a VecDeque<(ChunkId, PageIds)>,
}

impl ChunkSource for AtHand<'_> {
    fn stored(&self, id: &ChunkId) -> Option<Bytes> {
        self.loaded.stored(id)
    }

    fn pages(&self, id: &ChunkId) -> Option<&PageIds> {
        let known = self.pages.iter().rev().find(|(known, _)| known == id);
        known.map(|(_, pages)| pages)
    }
}

/// A manifest and its version; `None` if there is none.
async fn read_manifest(store: &Store, key: &str) -> Result<Option<(Bytes, ETag)>, CopyError> {
    match requests::get(store, Space::Manifests, key, GetOptions::default()).await {
        Ok(Got::Object { body, etag, .. }) => Ok(Some((body, etag))),
        // An unconditional GET is never answered "not modified"; a store that does is treated as one that has no manifest.
        Ok(Got::NotModified) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Uploads packs; when it returns, all of them are in the store.
pub(crate) async fn put_packs(store: &Store, packs: Vec<Pack>) -> Result<(), CopyError> {
    stream::iter(packs)
        .map(|pack| async move {
            // Content-addressed: writing it again writes the same.
            requests::put(
                store,
                Space::Chunks,
                &pack_key(pack.id),
                Bytes::from(pack.body),
                Condition::None,
            )
            .await
            .map(drop)
        })
        .buffer_unordered(REQUESTS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(())
}

async fn load_chunks(
    store: &Store,
    needed: Vec<(ChunkIndex, Entry)>,
) -> Result<Vec<(ChunkId, Bytes)>, CopyError> {
    let frames = needed
        .into_iter()
        .filter_map(|(_, entry)| match entry.stored {
            Stored::Frame(frame) => Some((entry, frame)),
            Stored::Zero => None,
        });
    stream::iter(frames)
        .map(|(entry, frame)| async move {
            let raw = get_frame(store, frame, CHUNK_LEN_BYTES as usize).await?;
            entry.verify(&raw).map_err(lost)?;
            Ok((entry.id, Bytes::from(raw)))
        })
        .buffer_unordered(REQUESTS_AT_ONCE)
        .try_collect()
        .await
}

async fn get_frame(
    store: &Store,
    frame: FrameRef,
    raw_len_max: usize,
) -> Result<Vec<u8>, CopyError> {
    let range = u64::from(frame.offset)..u64::from(frame.offset) + u64::from(frame.len);
    let body = match requests::get(
        store,
        Space::Chunks,
        &pack_key(frame.pack),
        GetOptions::range(range),
    )
    .await
    {
        Ok(Got::Object { body, .. }) => body,
        Ok(Got::NotModified) => Bytes::new(),
        Err(error) if error.is_not_found() => return Err(lost(error)),
        Err(error) => return Err(error.into()),
    };
    decode_frame(&body, raw_len_max).map_err(|error| {
        lost(format!(
            "{} at {}: {error}",
            pack_key(frame.pack),
            frame.offset
        ))
    })
}

fn claimed(key: &str, theirs: &Manifest) -> CopyError {
    CopyError::Claimed {
        key: key.to_owned(),
        other: theirs
            .identity()
            .instance
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        generation: theirs.generation().0,
    }
}

/// Which target of a database this is: a hash of where its manifest goes.
pub(crate) fn target_id(target: &TargetConfig, db: &Database) -> TargetId {
    let key = manifest_key(&db.info().hostname, db.path().as_os_str().as_bytes());
    let name = format!("{}\n{key}", target.describe());
    let [a, b, c, d, e, f, g, h, ..] = ChunkId::of(name.as_bytes()).0;
    TargetId(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

fn lost(cause: impl std::fmt::Display) -> CopyError {
    CopyError::BaseLost {
        cause: cause.to_string(),
    }
}

fn generation_of(damaged: &[u8]) -> Generation {
    let head = damaged.get(..HEAD_LEN_BYTES).unwrap_or(damaged);
    Head::decode(head).map_or(Generation(0), |head| head.generation)
}
