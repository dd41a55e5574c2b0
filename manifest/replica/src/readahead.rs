//! Notices sequential scans from the chunks that a snapshot is asked for; [`crate::snapshot`] tells it what was read
//! and prefetches what it answers.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Scans followed at the same time in one snapshot: a few readers that share it, or a join of a few tables.
const STREAMS_MAX: usize = 8;
/// Successive chunks before the first prefetch: two steps in order are rarely chance, one often is.
const STEPS_BEFORE_PREFETCH: u32 = 2;
/// First window. 256 KiB: about what one round trip to an object store costs anyway.
const WINDOW_MIN_CHUNKS: u32 = 4;
/// Largest window: one whole pack, the most that one GET can bring.
pub(crate) const WINDOW_MAX_CHUNKS: u32 = 64;

#[derive(Debug, Clone, Copy)]
struct Stream {
    /// The last chunk that was read.
    last: u32,
    steps: u32,
    window: u32,
    /// First chunk that was not prefetched yet.
    ahead: u32,
    /// When it was last used, in reads of this snapshot.
    used: u64,
}

/// The scans seen in one snapshot.
#[derive(Debug)]
pub(crate) struct Readahead {
    window_max: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    reads: u64,
}

impl Readahead {
    /// `window_max` chunks at most are prefetched at once (0: never).
    pub(crate) fn new(window_max: u32) -> Self {
        Self {
            window_max: window_max.min(WINDOW_MAX_CHUNKS),
            state: Mutex::default(),
        }
    }

    /// Chunks `first..=last` are being read: which ones should be fetched before they are asked for? The answer may
    /// pass the end of the file. Never waits: a read that finds the state busy is not counted.
    pub(crate) fn note(&self, first: u32, last: u32) -> Option<Range<u32>> {
        if self.window_max == 0 {
            return None;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        state.reads += 1;
        let now = state.reads;
        let known = state
            .streams
            .iter_mut()
            .find(|s| s.last == first || s.last.checked_add(1) == Some(first));
        let Some(stream) = known else {
            state.start(Stream {
                last,
                steps: 0,
                window: WINDOW_MIN_CHUNKS.min(self.window_max),
                ahead: last.saturating_add(1),
                used: now,
            });
            return None;
        };
        stream.used = now;
        if last <= stream.last {
            return None;
        }
        stream.last = last;
        stream.steps = stream.steps.saturating_add(1);
        if stream.steps < STEPS_BEFORE_PREFETCH {
            return None;
        }
        let next = last.saturating_add(1);
        let in_hand = stream.ahead.saturating_sub(next);
        if in_hand > stream.window / 2 {
            return None;
        }
        let start = stream.ahead.max(next);
        let end = next.saturating_add(stream.window).max(start);
        stream.ahead = end;
        stream.window = stream.window.saturating_mul(2).min(self.window_max);
        (start < end).then_some(start..end)
    }
}

impl State {
    fn start(&mut self, stream: Stream) {
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            *oldest = stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_prefetched_once_and_without_gaps() {
        let readahead = Readahead::new(WINDOW_MAX_CHUNKS);
        let mut ahead_of = None;
        for chunk in 10..500 {
            if let Some(range) = readahead.note(chunk, chunk) {
                if let Some(end) = ahead_of {
                    assert_eq!(range.start, end, "a gap or an overlap");
                }
                assert!(range.start > chunk && range.len() <= 2 * WINDOW_MAX_CHUNKS as usize);
                ahead_of = Some(range.end);
            }
        }
        assert!(ahead_of.expect("a scan is noticed") > 500);
    }

    #[test]
    fn random_reads_prefetch_nothing() {
        let readahead = Readahead::new(WINDOW_MAX_CHUNKS);
        for i in 0..1000_u32 {
            let chunk = i.wrapping_mul(2_654_435_761) % 1_000_000;
            assert_eq!(readahead.note(chunk, chunk), None);
        }
    }

    #[test]
    fn two_scans_at_once_are_both_noticed() {
        let readahead = Readahead::new(16);
        let (mut low, mut high) = (0, 0);
        for i in 0..100 {
            low += readahead.note(i, i).map_or(0, |r| r.len());
            high += readahead
                .note(10_000 + i, 10_000 + i)
                .map_or(0, |r| r.len());
        }
        assert!(low >= 95 && high >= 95, "{low} {high}");
    }

    #[test]
    fn reading_one_chunk_again_and_again_is_no_scan() {
        let readahead = Readahead::new(16);
        assert!((0..100).all(|_| readahead.note(7, 7).is_none()));
    }

    #[test]
    fn the_last_chunk_number_does_not_overflow() {
        let readahead = Readahead::new(16);
        for chunk in u32::MAX - 5..=u32::MAX {
            readahead.note(chunk, chunk);
        }
    }
}
