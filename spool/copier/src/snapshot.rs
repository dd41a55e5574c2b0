//! Puts together what `catchup` read and what the log replays into the next state of the database (the end of copier step 8); called by `pass`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use verneuil_format::{Change, ChunkIndex, Entry, NextState, SourceState, Written};
use verneuil_spool::{ChunkSet, Replays};
use verneuil_store::Store;

use crate::base::Base;
use crate::catchup::{self, CaughtUp, Uploaded, blocking};
use crate::error::CopyError;

/// Changed chunks that are kept in memory whole (16 MiB); what a generation changes beyond is packed and uploaded as it is read.
const CHUNKS_IN_MEMORY_MAX: usize = 256;

/// The next state, or `None` if it is the one that the base describes.
///
/// Ordinarily the log overrides what was read: it holds every commit since before the first slice. In quiet mode nothing was committed since,
/// so what was read is newer than any record.
pub(crate) async fn compose(
    store: &Store,
    base: &mut Base,
    caught: Option<CaughtUp>,
    replay: Replays,
    quiet: bool,
    uploaded: &mut Uploaded,
) -> Result<Option<NextState>, CopyError> {
    let replay = Arc::new(replay);
    let (read, changed, look) = match caught {
        Some(caught) => (caught.read, caught.changed, Some(caught.last)),
        None => (ChunkSet::default(), ChunkSet::default(), None),
    };
    let replayed: Vec<u32> = replay
        .chunks()
        .filter(|chunk| !quiet || !read.contains(*chunk))
        .collect();
    let is_changed = |(chunk, _): &(u32, Entry)| changed.contains(*chunk);
    // Moved, for there may be millions; the rest is an earlier attempt's, and stale.
    let entries = std::mem::take(uploaded).into_iter().filter(is_changed);
    let mut changes: BTreeMap<ChunkIndex, Change> = entries
        .map(|(chunk, entry)| (ChunkIndex(chunk), Change::Stored(entry)))
        .collect();
    if replayed.len() > CHUNKS_IN_MEMORY_MAX {
        let replay = replay.clone();
        for (chunk, entry) in
            catchup::upload_all(store, replayed, move |chunk| Ok(replay.bytes(chunk)?)).await?
        {
            changes.insert(ChunkIndex(chunk), Change::Stored(entry));
        }
    } else {
        let replay = replay.clone();
        let bytes = blocking(move || {
            replayed
                .into_iter()
                .map(|chunk| Ok((chunk, replay.bytes(chunk)?, replay.written(chunk))))
                .collect::<Result<Vec<_>, CopyError>>()
        })
        .await??;
        for (chunk, bytes, written) in bytes {
            // Ranges are relative to the base only if nothing else changed the chunk since.
            let written = if read.contains(chunk) {
                Written::Unknown
            } else {
                Written::Ranges(written)
            };
            changes.insert(
                ChunkIndex(chunk),
                Change::Bytes {
                    bytes: Bytes::from(bytes),
                    written,
                },
            );
        }
    }

    let before = *base.manifest().source();
    let mut source = before;
    if let Some(look) = look {
        source.file_len = look.len;
        source.page_size = look.header.page_size;
        source.change_counter = look.header.change_counter;
        (source.mtime_ns, source.ctime_ns) = (look.mtime_ns, look.ctime_ns);
    }
    if let (false, Some(file_len), Some(page_size), Some(counter)) = (
        quiet,
        replay.file_len(),
        replay.page_size(),
        replay.change_counter(),
    ) {
        (source.file_len, source.page_size, source.change_counter) = (file_len, page_size, counter);
        source.mtime_ns = replay.commit_time_ns().unwrap_or(source.mtime_ns);
        source.ctime_ns = source.mtime_ns;
    }
    let is_published = base.is_published();
    if is_published && changes.is_empty() && is_same(&source, &before) {
        return Ok(None);
    }
    source.taken_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos() as i64);
    Ok(Some(NextState { source, changes }))
}

fn is_same(a: &SourceState, b: &SourceState) -> bool {
    (a.file_len, a.page_size, a.change_counter) == (b.file_len, b.page_size, b.change_counter)
}
