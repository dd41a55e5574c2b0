//! Sets of chunk numbers, by words: a writer's own dirty chunks, and what the copier needs. Shaped like the control page's bitmaps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::AcqRel;

use crate::layout::{SEGMENT_CHUNKS, SEGMENT_WORDS};
use crate::sync::{AtomicU64, scaled};

/// Length of a chunk: the unit of tracking, hashing and storing.
pub const CHUNK_LEN_BYTES: u64 = scaled(65_536, 128);

/// How many chunks a file of `len_bytes` has.
pub(crate) fn chunk_count(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(CHUNK_LEN_BYTES)
}

/// Length of chunk `index` in a file of `file_len_bytes`: 0 beyond its end.
pub(crate) fn chunk_len(file_len_bytes: u64, index: u32) -> u32 {
    file_len_bytes
        .saturating_sub(u64::from(index) * CHUNK_LEN_BYTES)
        .min(CHUNK_LEN_BYTES) as u32
}

/// A set of chunk numbers; its size in memory follows the part of the file that it touches, a bit per chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkSet {
    segments: BTreeMap<u32, Box<[u64; SEGMENT_WORDS]>>,
    len: u64,
}

impl ChunkSet {
    /// Number of chunks in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `chunk` is in the set.
    pub fn contains(&self, chunk: u32) -> bool {
        let bit = chunk % SEGMENT_CHUNKS;
        self.segments
            .get(&(chunk / SEGMENT_CHUNKS))
            .is_some_and(|words| words[bit as usize / 64] >> (bit % 64) & 1 == 1)
    }

    /// Adds one chunk.
    pub fn insert(&mut self, chunk: u32) {
        self.insert_range(chunk, chunk);
    }

    /// Adds `first..=last`, a word at a time.
    pub fn insert_range(&mut self, first: u32, last: u32) {
        for k in first / SEGMENT_CHUNKS..=last / SEGMENT_CHUNKS {
            let from = first.max(k * SEGMENT_CHUNKS) % SEGMENT_CHUNKS;
            let to = if k == last / SEGMENT_CHUNKS {
                last % SEGMENT_CHUNKS
            } else {
                SEGMENT_CHUNKS - 1
            };
            let words = self.words(k);
            let mut added = 0;
            for_each_mask(from, to, |word, mask| {
                added += u64::from((mask & !words[word]).count_ones());
                words[word] |= mask;
            });
            self.len += added;
        }
    }

    /// Adds the chunks of a word of segment `k`'s bitmap.
    pub(crate) fn insert_word(&mut self, k: u32, word: usize, bits: u64) {
        if bits != 0 {
            let words = self.words(k);
            let added = (bits & !words[word]).count_ones();
            words[word] |= bits;
            self.len += u64::from(added);
        }
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (k, words) in other.segments() {
            for (word, bits) in words.iter().enumerate() {
                self.insert_word(k, word, *bits);
            }
        }
    }

    /// Removes all of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (k, words) in &mut self.segments {
            let Some(others) = other.segments.get(k) else {
                continue;
            };
            for (word, gone) in words.iter_mut().zip(others.iter()) {
                self.len -= u64::from((*word & gone).count_ones());
                *word &= !gone;
            }
        }
    }

    /// The chunks in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.iter().flat_map(|(k, words)| {
            let first = k * SEGMENT_CHUNKS;
            (0..SEGMENT_CHUNKS)
                .filter(|bit| words[*bit as usize / 64] >> (bit % 64) & 1 == 1)
                .map(move |bit| first + bit)
        })
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = (u32, &[u64; SEGMENT_WORDS])> {
        self.segments.iter().map(|(k, words)| (*k, &**words))
    }

    fn words(&mut self, k: u32) -> &mut [u64; SEGMENT_WORDS] {
        self.segments
            .entry(k)
            .or_insert_with(|| Box::new([0; SEGMENT_WORDS]))
    }
}

/// Sets bits `from..=to` of a shared bitmap.
pub(crate) fn set_bits(words: &[AtomicU64; SEGMENT_WORDS], from: u32, to: u32) {
    for_each_mask(from, to, |word, mask| {
        words[word].fetch_or(mask, AcqRel);
    });
}

fn for_each_mask(from: u32, to: u32, mut f: impl FnMut(usize, u64)) {
    for word in from / 64..=to / 64 {
        let low = if word == from / 64 { from % 64 } else { 0 };
        let high = if word == to / 64 { to % 64 } else { 63 };
        f(word as usize, (u64::MAX << low) & (u64::MAX >> (63 - high)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_ranges_holds_exactly_their_chunks(ranges in proptest::collection::vec((0u32..20_000, 0u32..300), 0..20)) {
            let mut set = ChunkSet::default();
            let mut expected = BTreeSet::new();
            for (first, more) in ranges {
                set.insert_range(first, first + more);
                expected.extend(first..=first + more);
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), expected.len() as u64);
            let mut rest = set.clone();
            let mut odd = ChunkSet::default();
            expected.iter().filter(|chunk| *chunk % 2 == 1).for_each(|chunk| odd.insert(*chunk));
            odd.insert(1 << 20);
            rest.subtract(&odd);
            prop_assert_eq!(rest.iter().collect::<Vec<_>>(), expected.iter().copied().filter(|chunk| chunk % 2 == 0).collect::<Vec<_>>());
            prop_assert_eq!(rest.len(), rest.iter().count() as u64);
            for probe in [0, 63, 64, 4_095, 4_096, 20_299] {
                prop_assert_eq!(set.contains(probe), expected.contains(&probe));
            }
        }
    }
}
