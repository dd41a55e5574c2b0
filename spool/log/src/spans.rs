//! Which bytes of each chunk a transaction has written: kept by `writer`, encoded by `record`, merged over records by `replay`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::chunks::CHUNK_LEN_BYTES;

/// More spans than this in one chunk are kept as the one span that covers them (128 pages of 512 bytes fit into a chunk, so at most
/// 64 separate ones: the limit only meets writers of odd sizes).
pub(crate) const SPANS_PER_CHUNK_MAX: usize = 128;

/// Sorted, disjoint, non-adjacent byte ranges within one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<Range<u32>>);

impl Spans {
    /// The ranges in ascending order.
    pub fn as_slice(&self) -> &[Range<u32>] {
        &self.0
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        // Writes mostly come in order: look from the back.
        let after = self
            .0
            .iter()
            .rposition(|span| span.start <= range.end)
            .map_or(0, |at| at + 1);
        let mut before = after;
        let mut merged = range;
        while before > 0 && self.0[before - 1].end >= merged.start {
            before -= 1;
            merged = merged.start.min(self.0[before].start)..merged.end.max(self.0[before].end);
        }
        self.0.splice(before..after, [merged]);
        if self.0.len() > SPANS_PER_CHUNK_MAX {
            self.0 = self.cover().into_iter().collect();
        }
    }

    /// The smallest range that covers all.
    pub fn cover(&self) -> Option<Range<u32>> {
        Some(self.0.first()?.start..self.0.last()?.end)
    }

    /// The ranges as far as they lie below `len_bytes`.
    pub fn clipped(&self, len_bytes: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.0
            .iter()
            .filter(move |span| span.start < len_bytes)
            .map(move |span| span.start..span.end.min(len_bytes))
    }
}

/// Adds the byte range `start..end` of the file to the spans of the chunks that it touches.
pub(crate) fn insert_file_range(chunks: &mut BTreeMap<u32, Spans>, start: u64, end: u64) {
    let mut at = start;
    while at < end {
        let chunk = at / CHUNK_LEN_BYTES;
        let stop = end.min((chunk + 1) * CHUNK_LEN_BYTES);
        let first = chunk * CHUNK_LEN_BYTES;
        // The caller has checked that chunk numbers fit.
        chunks
            .entry(chunk as u32)
            .or_default()
            .insert((at - first) as u32..(stop - first) as u32);
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_cover_exactly_the_bytes_inserted(ranges in proptest::collection::vec((0u32..2_000, 0u32..200), 0..60)) {
            let mut spans = Spans::default();
            let mut bytes = vec![false; 2_200];
            for (start, len) in ranges {
                spans.insert(start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            let mut seen = vec![false; 2_200];
            let mut last_end = None;
            for span in spans.as_slice() {
                prop_assert!(span.start < span.end);
                prop_assert!(last_end.is_none_or(|end| span.start > end), "sorted and not adjacent");
                last_end = Some(span.end);
                seen[span.start as usize..span.end as usize].fill(true);
            }
            prop_assert_eq!(seen, bytes);
        }
    }

    #[test]
    fn a_file_range_is_split_at_chunk_boundaries() {
        let mut chunks = BTreeMap::new();
        insert_file_range(&mut chunks, CHUNK_LEN_BYTES - 10, 2 * CHUNK_LEN_BYTES + 5);
        let got: Vec<_> = chunks
            .iter()
            .map(|(chunk, spans)| (*chunk, spans.cover()))
            .collect();
        assert_eq!(
            got,
            [
                (0, Some(65_526..65_536)),
                (1, Some(0..65_536)),
                (2, Some(0..5))
            ]
        );
        assert!(
            chunks
                .values()
                .all(|spans: &Spans| spans.as_slice().len() == 1)
        );
    }
}
