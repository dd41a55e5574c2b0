//! Several sealed generations in a row, seen as one: what a target that was busy meanwhile has to be told. Made by `ledger` from `replay`s, used by
//! `verneuil-copier`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::chunks::chunk_count;
use crate::error::SpoolError;
use crate::replay::Replay;
use crate::spans::Spans;

/// Generations in the order in which they were sealed, without a gap.
///
/// Each generation begins a chunk that it changes with a full image, so the last one that changes a chunk says all about it.
#[derive(Clone, Debug, Default)]
pub struct Replays {
    list: Vec<Arc<Replay>>,
    /// Which of them says how a chunk looks.
    last_of: BTreeMap<u32, usize>,
}

impl Replays {
    pub(crate) fn new(list: Vec<Arc<Replay>>) -> Self {
        let mut last_of = BTreeMap::new();
        for (at, replay) in list.iter().enumerate() {
            last_of.extend(replay.changed().map(|chunk| (chunk, at)));
        }
        Self { list, last_of }
    }

    fn last(&self) -> Option<&Replay> {
        self.list
            .iter()
            .rev()
            .find(|replay| replay.records() > 0)
            .map(Arc::as_ref)
    }

    /// Number of transactions.
    pub fn records(&self) -> u64 {
        self.list.iter().map(|replay| replay.records()).sum()
    }

    /// The chunks that they change and that lie below the file's end afterwards, in ascending order.
    pub fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        let end = self.file_len().map_or(0, chunk_count);
        self.last_of
            .keys()
            .copied()
            .take_while(move |chunk| u64::from(*chunk) < end)
    }

    /// Length of the file after the last record; `None` without records.
    pub fn file_len(&self) -> Option<u64> {
        self.last()?.file_len()
    }

    /// Change counter after the last record; `None` without records.
    pub fn change_counter(&self) -> Option<u32> {
        self.last()?.change_counter()
    }

    /// Page size after the last record, in bytes; `None` without records.
    pub fn page_size(&self) -> Option<u32> {
        self.last()?.page_size()
    }

    /// When the last transaction was committed, in nanoseconds since the epoch; `None` without records.
    pub fn commit_time_ns(&self) -> Option<i64> {
        self.last()?.commit_time_ns()
    }

    /// Which bytes of `chunk` their transactions wrote.
    pub fn written(&self, chunk: u32) -> Vec<Range<u32>> {
        let mut spans = Spans::default();
        for replay in &self.list {
            replay
                .written(chunk)
                .iter()
                .for_each(|span| spans.insert(span.clone()));
        }
        spans.as_slice().to_vec()
    }

    /// The whole content of `chunk` after the last record.
    ///
    /// # Errors
    /// When the log can't be read any more.
    pub fn bytes(&self, chunk: u32) -> Result<Vec<u8>, SpoolError> {
        match self.last_of.get(&chunk).and_then(|at| self.list.get(*at)) {
            Some(replay) => replay.bytes(chunk),
            None => Ok(Vec::new()),
        }
    }
}
