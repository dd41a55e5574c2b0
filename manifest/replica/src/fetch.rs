//! Frames from the stores: neighbours in one range GET, every frame verified, a damaged one read once more, the next
//! store tried after that. [`crate::frames`] (cached) and [`crate::restore`] (uncached) call this.

use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use verneuil_format::limits::NODE_LEN_MAX_BYTES;
use verneuil_format::{
    CHUNK_LEN_BYTES, ChunkId, FormatError, FrameRef, Node, NodeId, NodeRef, decode_frame, pack_key,
};
use verneuil_store::{GetOptions, Got, Space, Store};

use crate::error::FrameError;

/// A point read or a scan fetches up to this much that nobody asked for rather than send another request: about a
/// millisecond of transfer.
pub(crate) const GAP_READ_BYTES: u32 = 32 * 1024;
/// The same for a restore, where throughput counts: with at most this much between two frames that are needed, a pack
/// of which most is needed comes whole.
pub(crate) const GAP_RESTORE_BYTES: u32 = 256 * 1024;
/// Longest range GET, frames compressed: a whole pack.
const RUN_LEN_MAX_BYTES: u64 = 4 << 20;
/// A damaged frame (or manifest) may have been damaged on its way: it is read once more.
pub(crate) const READS_PER_STORE: usize = 2;

/// Something that is stored as a frame.
pub(crate) trait Content: Copy + Send + Sync + 'static {
    /// Names the content: a hash of it.
    type Id: Copy + Eq + Hash + Send + Sync + 'static;
    /// The content.
    type Value: Clone + Send + Sync + 'static;

    fn id(&self) -> Self::Id;
    fn at(&self) -> FrameRef;
    /// 64 hexadecimal digits.
    fn name(&self) -> String;
    /// The content of `frame`, if it is the one that the id names.
    fn verify(&self, frame: &[u8]) -> Result<Self::Value, FormatError>;
    /// What a value occupies in memory.
    fn weight_bytes(value: &Self::Value) -> u32;
}

/// The stored version of a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredChunk {
    pub(crate) id: ChunkId,
    pub(crate) at: FrameRef,
}

impl Content for StoredChunk {
    type Id = ChunkId;
    type Value = Bytes;

    fn id(&self) -> ChunkId {
        self.id
    }

    fn at(&self) -> FrameRef {
        self.at
    }

    fn name(&self) -> String {
        self.id.to_hex()
    }

    fn verify(&self, frame: &[u8]) -> Result<Bytes, FormatError> {
        let mut raw = decode_frame(frame, CHUNK_LEN_BYTES as usize)?;
        if ChunkId::of(&raw) != self.id {
            return Err(FormatError::WrongStored { id: self.id });
        }
        raw.shrink_to_fit();
        Ok(raw.into())
    }

    fn weight_bytes(value: &Bytes) -> u32 {
        u32::try_from(value.len())
            .unwrap_or(u32::MAX)
            .saturating_add(128)
    }
}

impl Content for NodeRef {
    type Id = NodeId;
    type Value = Arc<Node>;

    fn id(&self) -> NodeId {
        self.id
    }

    fn at(&self) -> FrameRef {
        self.at
    }

    fn name(&self) -> String {
        self.id.to_hex()
    }

    fn verify(&self, frame: &[u8]) -> Result<Arc<Node>, FormatError> {
        let raw = decode_frame(frame, NODE_LEN_MAX_BYTES)?;
        Node::decode(self, &raw).map(Arc::new)
    }

    fn weight_bytes(value: &Arc<Node>) -> u32 {
        let entries = match &**value {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(slots) => slots.len(),
        };
        u32::try_from(entries)
            .unwrap_or(u32::MAX)
            .saturating_mul(96)
            .saturating_add(128)
    }
}

/// A verified value and the frame that it came from.
pub(crate) type Fetched<C> = (<C as Content>::Value, Bytes);

/// The stores, in the order in which they are tried, and the limit on requests under way.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stores: Vec<Store>,
    gets: Semaphore,
}

/// Groups what is wanted into range GETs: within one pack, at most `gap_max_bytes` apart, at most a pack long.
pub(crate) fn plan_runs<C: Content>(mut wants: Vec<C>, gap_max_bytes: u32) -> Vec<Vec<C>> {
    wants.sort_by_key(Content::at);
    let mut runs: Vec<Vec<C>> = Vec::new();
    // Where the current run starts and ends.
    let (mut start, mut end) = (0_u64, 0_u64);
    for want in wants {
        let at = want.at();
        let at_end = u64::from(at.offset) + u64::from(at.len);
        match runs.last_mut() {
            Some(run)
                if run[0].at().pack == at.pack
                    && u64::from(at.offset) <= end + u64::from(gap_max_bytes)
                    && at_end.max(end) - start <= RUN_LEN_MAX_BYTES =>
            {
                run.push(want);
                end = end.max(at_end);
            }
            _ => {
                runs.push(vec![want]);
                (start, end) = (u64::from(at.offset), at_end);
            }
        }
    }
    runs
}

impl Source {
    pub(crate) fn new(stores: Vec<Store>, concurrency: usize) -> Self {
        Self {
            stores,
            gets: Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    /// Fetches one run of [`plan_runs`]; the results are in its order.
    pub(crate) async fn fetch_run<C: Content>(
        &self,
        run: &[C],
    ) -> Vec<Result<Fetched<C>, Arc<FrameError>>> {
        let Some(first) = run.first() else {
            return Vec::new();
        };
        let key = pack_key(first.at().pack);
        let mut good: Vec<Option<Fetched<C>>> = vec![None; run.len()];
        let mut reports: Vec<Vec<String>> = vec![Vec::new(); run.len()];
        let mut is_damaged = vec![false; run.len()];
        'stores: for store in &self.stores {
            for _ in 0..READS_PER_STORE {
                let wants: Vec<(usize, C)> = (0..run.len())
                    .filter(|&i| good[i].is_none())
                    .map(|i| (i, run[i]))
                    .collect();
                if wants.is_empty() {
                    break 'stores;
                }
                match self.read(store, &key, &wants).await {
                    Err(report) => {
                        // The store has done its own retries.
                        wants
                            .iter()
                            .for_each(|&(i, _)| reports[i].push(report.clone()));
                        break;
                    }
                    Ok(results) => {
                        for (i, result) in results {
                            match result {
                                Ok(fetched) => good[i] = Some(fetched),
                                Err(cause) => {
                                    tracing::warn!(store = store.describe(), key, %cause, "damaged frame");
                                    reports[i].push(format!("{}: {cause}", store.describe()));
                                    is_damaged[i] = true;
                                }
                            }
                        }
                    }
                }
            }
        }
        good.into_iter()
            .zip(reports)
            .zip(is_damaged)
            .map(|((good, mut reports), is_damaged)| {
                reports.dedup();
                good.ok_or_else(|| {
                    Arc::new(FrameError {
                        pack_key: key.clone(),
                        reports,
                        is_damaged,
                    })
                })
            })
            .collect()
    }

    /// One range GET over all of `wants`, and the verdict on each of its frames.
    async fn read<C: Content>(
        &self,
        store: &Store,
        key: &str,
        wants: &[(usize, C)],
    ) -> Result<Vec<(usize, Result<Fetched<C>, FormatError>)>, String> {
        let ends = |c: &C| u64::from(c.at().offset) + u64::from(c.at().len);
        let start = wants
            .iter()
            .map(|(_, c)| u64::from(c.at().offset))
            .min()
            .unwrap_or(0);
        let end = wants.iter().map(|(_, c)| ends(c)).max().unwrap_or(0);
        let body = {
            // Never closed; were it, the limit would be off and nothing else.
            let _permit = self.gets.acquire().await.ok();
            match store
                .get(Space::Chunks, key, GetOptions::range(start..end))
                .await
            {
                Ok(Got::Object { body, .. }) => body,
                Ok(Got::NotModified) => {
                    return Err(format!("{}: no bytes in the answer", store.describe()));
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        let wants = wants.to_vec();
        // Up to 64 chunks to decompress and hash: milliseconds, too long for a thread that serves others.
        tokio::task::spawn_blocking(move || {
            let verdict = |want: &C| {
                let from =
                    usize::try_from(u64::from(want.at().offset) - start).unwrap_or(usize::MAX);
                let to = from.saturating_add(want.at().len as usize);
                let Some(frame) = body.get(from..to) else {
                    return Err(FormatError::Truncated {
                        what: "pack",
                        have: start + body.len() as u64,
                        need: ends(want),
                    });
                };
                let value = want.verify(frame)?;
                Ok((value, Bytes::copy_from_slice(frame)))
            };
            wants.iter().map(|(i, want)| (*i, verdict(want))).collect()
        })
        .await
        .map_err(|_| "not verified, because the program is ending".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verneuil_format::PackId;

    fn want(pack: u8, offset: u32, len: u32) -> StoredChunk {
        StoredChunk {
            id: ChunkId([0; 32]),
            at: FrameRef {
                pack: PackId([pack; 32]),
                offset,
                len,
            },
        }
    }

    #[test]
    fn neighbours_share_a_request_and_distant_frames_do_not() {
        let wants = vec![
            want(1, 300, 100),
            want(1, 100, 200),
            want(2, 0, 50),
            want(1, 100_000, 100),
            want(1, 0, 100),
        ];
        let lens =
            |gap| -> Vec<usize> { plan_runs(wants.clone(), gap).iter().map(Vec::len).collect() };
        assert_eq!(lens(0), [3, 1, 1]);
        assert_eq!(lens(GAP_RESTORE_BYTES), [4, 1]);
    }

    #[test]
    fn no_request_is_longer_than_a_pack() {
        let wants = (0..100).map(|i| want(1, i * 100_000, 100_000)).collect();
        let runs = plan_runs(wants, 0);
        assert!(runs.len() >= 3);
        assert!(
            runs.iter()
                .all(|run| run.len() as u64 * 100_000 <= RUN_LEN_MAX_BYTES)
        );
    }
}
