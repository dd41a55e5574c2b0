//! Reads chunks from the database file in slices, with no lock, and uploads what the store does not have (copier steps 4 to 7); driven by `pass`.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use verneuil_dbfile::{LockBytes, Pooled};
use verneuil_format::{
    CHUNK_LEN_BYTES, Change, ChunkId, ChunkIndex, Entry, NextState, Pack, PackBuilder, PageIds,
    Stored, chunk_count, chunk_len,
};
use verneuil_spool::{ChunkSet, Ledger, SpoolError};
use verneuil_store::Store;

use crate::base::{Base, PAGES_MAX, REQUESTS_AT_ONCE, put_packs};
use crate::error::{Blocked, CopyError};
use crate::look::Look;

/// A slice is as much as a pack holds. It is halved whenever a writer spoils it, so that a busy database needs short gaps only.
const SLICE_CHUNKS_MAX: usize = 64;
/// How long one slice is tried before the pass gives up for now. Writers are not delayed by it, but uploaded slices are read again.
const SLICE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries of a slice: about a tick of the file system's clock.
const SLICE_PAUSE: Duration = Duration::from_millis(1);

/// The file that is read, and what vouches for it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) path: Arc<Path>,
    pub(crate) file: Arc<Pooled>,
    pub(crate) bytes: LockBytes,
}

impl Source {
    pub(crate) fn look(&self) -> Result<Result<Look, Blocked>, CopyError> {
        Look::take(self.ledger.lock(), self.bytes, &self.path, &self.file)
    }

    /// `len` bytes of a chunk as they are now, whatever state that is; `None` if they can't be read.
    pub(crate) fn chunk(&self, index: u32, len: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file
            .read_exact_at(&mut bytes, u64::from(index) * u64::from(CHUNK_LEN_BYTES))
            .ok()?;
        Some(bytes)
    }
}

/// Which chunks are needed from the file. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    All,
    /// Ascending.
    Chunks(Arc<[u32]>),
}

impl Need {
    pub(crate) fn contains(&self, chunk: u32) -> bool {
        match self {
            Self::All => true,
            Self::Chunks(chunks) => chunks.binary_search(&chunk).is_ok(),
        }
    }

    /// Up to `len_max` needed chunks at or after `from`, below `end`.
    fn batch(&self, from: u32, end: u32, len_max: usize) -> Vec<u32> {
        match self {
            Self::All => (from..end).take(len_max).collect(),
            Self::Chunks(chunks) => {
                let start = chunks.partition_point(|chunk| *chunk < from);
                chunks[start..]
                    .iter()
                    .copied()
                    .take(len_max)
                    .take_while(|chunk| *chunk < end)
                    .collect()
            }
        }
    }
}

/// Chunks that catch-ups have uploaded and no manifest names yet. Outlives an attempt that comes to nothing: what is read again unchanged is not
/// uploaded again.
pub(crate) type Uploaded = BTreeMap<u32, Entry>;

/// What is uploaded of a state that could not be published.
pub(crate) fn uploaded_of(next: NextState) -> Uploaded {
    let entry = |(index, change): (ChunkIndex, Change)| match change {
        Change::Stored(entry) => Some((index.0, entry)),
        Change::Bytes { .. } => None,
    };
    next.changes.into_iter().filter_map(entry).collect()
}

/// What a chunk of the file turned out to be.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// The same as in the base manifest.
    AsBase,
    /// This, which is in the store.
    Stored(Entry),
}

/// The chunks that were read.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    pub(crate) read: ChunkSet,
    /// Those of them that are not as in the base: they are in [`Uploaded`].
    pub(crate) changed: ChunkSet,
    /// The file after the last slice.
    pub(crate) last: Look,
}

impl CaughtUp {
    /// Together with what was read after it, which is newer.
    pub(crate) fn and(mut self, later: Self) -> Self {
        self.changed.subtract(&later.read);
        self.changed.extend(&later.changed);
        self.read.extend(&later.read);
        self.last = later.last;
        self
    }
}

/// One slice as it was read: chunk number and bytes, and the look after it.
type Slice = (Vec<(u32, Vec<u8>)>, Look);

/// Why a slice does not count.
enum Spoiled {
    /// The file's clock has to tick first, so that a later change will show.
    Unsettled,
    /// Somebody wrote while it was read.
    Changed,
    /// Something is in the way, or (in quiet mode) has moved since the first slice.
    Blocked(Blocked),
}

/// Copier step 4: reads all that is needed. In quiet mode (`quiet`: the look before the first slice) nothing may move from slice to slice.
pub(crate) async fn read(
    source: &Source,
    store: &Store,
    base: &mut Base,
    need: &Need,
    quiet: Option<Look>,
    uploaded: &mut Uploaded,
) -> Result<Result<CaughtUp, Blocked>, CopyError> {
    let (mut read, mut changed) = (ChunkSet::default(), ChunkSet::default());
    let mut uploads = FuturesUnordered::new();
    let mut pending = Packing::default();
    let mut slice_chunks = SLICE_CHUNKS_MAX;
    let mut from = 0;
    loop {
        let (slice, last) = match read_slice(source, need, from, &mut slice_chunks, quiet).await? {
            Ok(slice) => slice,
            Err(blocked) => return Ok(Err(blocked)),
        };
        let indexes: Vec<u32> = slice.iter().map(|(index, _)| *index).collect();
        let ids = base.chunk_ids(store, &indexes).await?;
        let known: Vec<Known> = indexes
            .iter()
            .zip(ids)
            .map(|(index, base)| Known {
                base,
                uploaded: uploaded.get(index).copied(),
            })
            .collect();
        let slice_len = slice.len();
        let packed;
        let page_size = last.header.page_size;
        (pending, packed) = blocking(move || pending.add(slice, &known, Some(page_size))).await??;
        base.remember(packed.pages);
        for (index, content) in packed.settled {
            read.insert(index);
            if let Content::Stored(entry) = content {
                changed.insert(index);
                uploaded.insert(index, entry);
            }
        }
        let is_end = slice_len == 0;
        let full = if is_end {
            std::mem::take(&mut pending).finish().into_iter().collect()
        } else {
            packed.full
        };
        for (pack, entries) in full {
            uploads.push(async move { put_packs(store, vec![pack]).await.map(|()| entries) });
        }
        while uploads.len() >= if is_end { 1 } else { REQUESTS_AT_ONCE } {
            match uploads.next().await {
                Some(entries) => {
                    for (index, entry) in entries? {
                        read.insert(index);
                        changed.insert(index);
                        uploaded.insert(index, entry);
                    }
                }
                None => break,
            }
        }
        if is_end {
            return Ok(Ok(CaughtUp {
                read,
                changed,
                last,
            }));
        }
        if !source.ledger.lock().is_current() {
            // Whoever made the new folder can't copy before this lock is given up.
            return Err(SpoolError::replaced(&source.path).into());
        }
        from = indexes.last().map_or(from, |last| last + 1);
        source.ledger.lock().beat();
    }
}

/// Reads the next slice; an empty one says that there is nothing more to read, under the same conditions.
async fn read_slice(
    source: &Source,
    need: &Need,
    from: u32,
    slice_chunks: &mut usize,
    quiet: Option<Look>,
) -> Result<Result<Slice, Blocked>, CopyError> {
    let deadline = Instant::now() + SLICE_PATIENCE;
    loop {
        let (source, need, len_max) = (source.clone(), need.clone(), *slice_chunks);
        let spoiled =
            match blocking(move || try_slice(&source, &need, from, len_max, quiet)).await?? {
                Ok(slice) => {
                    *slice_chunks = (*slice_chunks * 2).min(SLICE_CHUNKS_MAX);
                    return Ok(Ok(slice));
                }
                Err(spoiled) => spoiled,
            };
        let blocked = match spoiled {
            Spoiled::Blocked(Blocked::Writing) => Blocked::Writing,
            Spoiled::Blocked(blocked) => return Ok(Err(blocked)),
            Spoiled::Unsettled => Blocked::Moving,
            Spoiled::Changed => {
                *slice_chunks = (*slice_chunks / 2).max(1);
                Blocked::Moving
            }
        };
        if Instant::now() >= deadline {
            return Ok(Err(blocked));
        }
        tokio::time::sleep(SLICE_PAUSE).await;
    }
}

fn try_slice(
    source: &Source,
    need: &Need,
    from: u32,
    len_max: usize,
    quiet: Option<Look>,
) -> Result<Result<Slice, Spoiled>, CopyError> {
    let before = match source.look()? {
        Ok(look) => look,
        Err(blocked) => return Ok(Err(Spoiled::Blocked(blocked))),
    };
    if quiet.is_some_and(|reference| !reference.same_state(&before)) {
        return Ok(Err(Spoiled::Blocked(Blocked::Moving)));
    }
    if !before.is_settled() {
        return Ok(Err(Spoiled::Unsettled));
    }
    let end = u32::try_from(chunk_count(before.len)).unwrap_or(u32::MAX);
    let mut slice = Vec::new();
    for index in need.batch(from, end, len_max) {
        let mut bytes = vec![0; chunk_len(before.len, ChunkIndex(index)) as usize];
        match source
            .file
            .read_exact_at(&mut bytes, u64::from(index) * u64::from(CHUNK_LEN_BYTES))
        {
            Ok(()) => slice.push((index, bytes)),
            // It was truncated under us: the next look says so.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Spoiled::Changed));
            }
            Err(error) => return Err(CopyError::database(&source.path)(error)),
        }
    }
    Ok(match source.look()? {
        Ok(after) if after.same_state(&before) => Ok((slice, after)),
        Ok(_) | Err(Blocked::Writing) => Err(Spoiled::Changed),
        Err(blocked) => Err(Spoiled::Blocked(blocked)),
    })
}

/// Chunks on their way into a pack.
#[derive(Default)]
struct Packing {
    builder: Option<PackBuilder>,
    /// Chunk number, id and slot in the pack.
    slots: Vec<(u32, ChunkId, usize)>,
}

/// A pack to upload, and the entries that hold once it is there.
type PackedEntries = (Pack, Vec<(u32, Entry)>);

/// What became of a slice.
struct Packed {
    settled: Vec<(u32, Content)>,
    full: Vec<PackedEntries>,
    /// Of the first chunks of the file: all of a small database, and the header of any.
    pages: Vec<(ChunkId, PageIds)>,
}

/// What is known of a chunk before it is read.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Its id in the base.
    base: Option<ChunkId>,
    /// What an earlier attempt has uploaded of it.
    uploaded: Option<Entry>,
}

impl Packing {
    /// Hashes a slice; what is not in the store goes into the pack. With a page size, pages are remembered.
    fn add(
        mut self,
        slice: Vec<(u32, Vec<u8>)>,
        known: &[Known],
        page_size: Option<u32>,
    ) -> Result<(Self, Packed), CopyError> {
        let mut packed = Packed {
            settled: Vec::new(),
            full: Vec::new(),
            pages: Vec::new(),
        };
        for ((index, bytes), known) in slice.into_iter().zip(known) {
            let id = ChunkId::of(&bytes);
            if let (Some(page_size), true) = (page_size, (index as usize) < PAGES_MAX) {
                packed.pages.push((id, PageIds::of(&bytes, page_size)));
            }
            if known.base == Some(id) {
                packed.settled.push((index, Content::AsBase));
            } else if let Some(entry) = known.uploaded.filter(|entry| entry.id == id) {
                packed.settled.push((index, Content::Stored(entry)));
            } else if bytes.iter().all(|byte| *byte == 0) {
                packed.settled.push((
                    index,
                    Content::Stored(Entry {
                        id,
                        stored: Stored::Zero,
                    }),
                ));
            } else {
                let mut builder = self.builder.take().unwrap_or_default();
                self.slots.push((index, id, builder.push(&bytes)?));
                let is_full = builder.is_full();
                self.builder = Some(builder);
                if is_full {
                    packed.full.extend(std::mem::take(&mut self).finish());
                }
            }
        }
        Ok((self, packed))
    }

    fn finish(self) -> Option<PackedEntries> {
        let pack = self.builder?.finish();
        let entries = self
            .slots
            .into_iter()
            .filter_map(|(index, id, slot)| {
                Some((
                    index,
                    Entry {
                        id,
                        stored: Stored::Frame(*pack.frames.get(slot)?),
                    },
                ))
            })
            .collect();
        Some((pack, entries))
    }
}

/// Packs and uploads chunks, whose bytes `bytes` gives: for what is too much to keep in memory.
pub(crate) async fn upload_all(
    store: &Store,
    chunks: Vec<u32>,
    bytes: impl Fn(u32) -> Result<Vec<u8>, CopyError> + Clone + Send + 'static,
) -> Result<Vec<(u32, Entry)>, CopyError> {
    let mut entries = Vec::with_capacity(chunks.len());
    for slice in chunks.chunks(SLICE_CHUNKS_MAX) {
        let (slice, bytes) = (slice.to_vec(), bytes.clone());
        let packed = blocking(move || {
            let known = vec![Known::default(); slice.len()];
            let slice = slice
                .into_iter()
                .map(|chunk| Ok((chunk, bytes(chunk)?)))
                .collect::<Result<_, CopyError>>()?;
            let (rest, mut packed) = Packing::default().add(slice, &known, None)?;
            packed.full.extend(rest.finish());
            Ok::<_, CopyError>(packed)
        })
        .await??;
        for (index, content) in packed.settled {
            if let Content::Stored(entry) = content {
                entries.push((index, entry));
            }
        }
        for (pack, packed_entries) in packed.full {
            put_packs(store, vec![pack]).await?;
            entries.extend(packed_entries);
        }
    }
    Ok(entries)
}

/// Runs what reads, hashes or compresses on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CopyError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CopyError::Worker(error.to_string()))
}
