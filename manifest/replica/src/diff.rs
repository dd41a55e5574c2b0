//! What differs between two snapshots of a database: the mount invalidates exactly that. The chunk lists are compared
//! by `verneuil-format`; this loads the nodes that it needs, through [`crate::snapshot`], and looks into patches.

use std::collections::BTreeSet;
use std::ops::Range;

use verneuil_format::{CHUNK_LEN_BYTES, ChunkIndex, Patch, PatchedRange};

use crate::error::ReplicaError;
use crate::snapshot::Snapshot;

/// Changed chunks whose changed pages are looked up; more are taken whole, as nobody keeps pages across such a change.
const FINE_CHUNKS_MAX: usize = 1024;

impl Snapshot {
    /// Which bytes differ in `newer` (ascending, apart, not touching): whole chunks, or the pages in them where those
    /// are known. What only one of the two has counts as different.
    ///
    /// # Errors
    /// A node of a chunk list that can't be had.
    pub async fn diff(&self, newer: &Self) -> Result<Vec<Range<u64>>, ReplicaError> {
        let chunks = newer
            .lookup(|nodes| self.manifest().diff(newer.manifest(), nodes))
            .await?;
        let len_max = self.len().max(newer.len());
        let is_fine = chunks.iter().map(ExactSizeIterator::len).sum::<usize>() <= FINE_CHUNKS_MAX;
        let mut differing: Vec<Range<u64>> = Vec::new();
        let mut add = |start: u64, end: u64| {
            let range = start.min(len_max)..end.min(len_max);
            match differing.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ if range.is_empty() => {}
                _ => differing.push(range),
            }
        };
        for range in chunks {
            if !is_fine {
                add(
                    ChunkIndex(range.start).start(),
                    ChunkIndex(range.end).start(),
                );
                continue;
            }
            for index in range.map(ChunkIndex) {
                let start = index.start();
                match self.differing_in(newer, index) {
                    None => add(start, start + u64::from(CHUNK_LEN_BYTES)),
                    Some(parts) => {
                        parts.into_iter().for_each(|(offset, len)| {
                            add(
                                start + u64::from(offset),
                                start + u64::from(offset) + len as u64,
                            );
                        });
                    }
                }
            }
        }
        Ok(differing)
    }

    /// Offset and length of the differing parts of a chunk, ascending: of two states that patch the same stored
    /// version, what only one of the patches has. `None`: any of it may differ.
    fn differing_in(&self, newer: &Self, index: ChunkIndex) -> Option<BTreeSet<(u32, usize)>> {
        // What is not in memory by now is not worth a request.
        let nodes = &*self.client().inner.nodes;
        let old = self.manifest().chunk(index, nodes).ok()?;
        let new = newer.manifest().chunk(index, nodes).ok()?;
        if old.entry.id != new.entry.id || old.len != new.len {
            return None;
        }
        let (old, new) = (ranges(old.patch), ranges(new.patch));
        let only_in_old = old.iter().filter(|range| !new.contains(*range));
        let only_in_new = new.iter().filter(|range| !old.contains(*range));
        Some(
            only_in_old
                .chain(only_in_new)
                .map(|range| (range.offset, range.bytes.len()))
                .collect(),
        )
    }
}

fn ranges(patch: Option<&Patch>) -> &[PatchedRange] {
    patch
        .map(|patch| patch.ranges.as_slice())
        .unwrap_or_default()
}
