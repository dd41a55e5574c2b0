//! The move of an inode to a newer snapshot, started by `locking`, `handles` and `refresh`, carried out by `notify`.
//!
//! The order, each step for a reason:
//!
//! 1. Under the mutex, when no lock covers the SHARED range and nobody pins the snapshot: set *advancing* and swap the
//!    view. From here on every read is served from the new snapshot, and no SHARED lock is granted.
//! 2. On the notifier's thread, since the kernel waits there for reads in flight: end those that hold pages which are
//!    about to go (readahead of a transaction that is over; it may wait for the store), then invalidate each changed
//!    range, page 0 and everything between the old and the new end.
//! 3. Store the last page if the length changed: it extends the size that the kernel knows, where an `fstat` that raced
//!    with the invalidation may have kept the old one (seen: "malformed" in a reader that trusted it).
//! 4. Clear *advancing* and answer the lock requests that queued up.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use super::{LiveFile, Ready, State};
use crate::kernel::Kernel;
use crate::options::{DRAIN_PAUSE_MIN, INVALIDATIONS_MAX};
use crate::source::{Snapshot, Source};
use crate::view::View;

/// What is dropped around byte 0 whatever has changed: sqlite reads the change counter there.
const FIRST_PAGE: Range<u64> = 0..4_096;

impl<S: Source> LiveFile<S> {
    /// Starts an advance if a newer snapshot is ready and nobody depends on the present one.
    pub(super) fn try_advance(self: &Arc<Self>, state: &mut State<S::Snapshot>) -> bool {
        if state.advancing
            || state.ready.is_none()
            || state.locks.shared()
            || self.is_pinned(state, Instant::now())
        {
            return false;
        }
        let Some(Ready {
            snapshot,
            changed,
            header,
            tail,
        }) = state.ready.take()
        else {
            return false;
        };
        let old_len = state.view.as_ref().map_or(0, |view| view.len());
        let new_len = snapshot.head().len;
        let dropped = invalidations(changed, old_len, new_len);
        let view = Arc::new(View::new(
            snapshot,
            state.header.next(&header),
            state.next_view,
        ));
        let tail = tail.map(|(offset, bytes)| (offset, view.patched(offset, bytes)));
        state.next_view += 1;
        state.view = Some(view);
        state.blocked_since = None;
        state.drain_after = None;
        state.drain_pause = DRAIN_PAUSE_MIN;
        state.head = None;
        state.advancing = true;

        let ended: Vec<_> = {
            let overlaps = |range: &Range<u64>| {
                dropped
                    .iter()
                    .any(|d| d.start < range.end && range.start < d.end)
            };
            state
                .misses
                .extract_if(|_, miss| overlaps(miss.range()))
                .map(|(_, miss)| miss)
                .collect()
        };
        let file = self.clone();
        self.shared.notify.data(move |kernel| {
            for miss in ended {
                miss.end();
            }
            file.tell(kernel, &dropped, tail);
            file.finish_advance();
        });
        true
    }

    fn tell(&self, kernel: &dyn Kernel, dropped: &[Range<u64>], tail: Option<(u64, Vec<u8>)>) {
        let mut result = dropped
            .iter()
            .try_for_each(|range| kernel.invalidate_data(self.ino, range.clone()));
        if let (Ok(()), Some((offset, bytes))) = (&result, &tail) {
            result = kernel.store(self.ino, *offset, bytes);
        }
        if let Err(error) = result {
            // Only an unmounted file system refuses; its readers are gone.
            tracing::warn!(file = %self, %error, "the kernel refused to drop pages");
        }
    }

    fn finish_advance(self: &Arc<Self>) {
        let answers = {
            let mut state = self.lock();
            state.advancing = false;
            let waiting = std::mem::take(&mut state.queue);
            let answers = state.grant(waiting);
            // Only if nobody came: those who waited read this snapshot, and the next waits for them.
            self.try_advance(&mut state);
            answers
        };
        self.settled.notify_waiters();
        for answer in answers {
            answer();
        }
    }
}

/// What the kernel must drop, sorted and merged.
fn invalidations(mut ranges: Vec<Range<u64>>, old_len: u64, new_len: u64) -> Vec<Range<u64>> {
    ranges.push(FIRST_PAGE);
    if old_len != new_len {
        ranges.push(old_len.min(new_len)..old_len.max(new_len));
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    if merged.len() > INVALIDATIONS_MAX {
        merged = vec![0..old_len.max(new_len).max(FIRST_PAGE.end)];
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_0_and_what_lies_between_the_ends_are_always_dropped() {
        assert_eq!(invalidations(vec![], 8_192, 8_192), [0..4_096]);
        assert_eq!(
            invalidations(vec![65_536..131_072], 131_072, 200_000),
            [0..4_096, 65_536..200_000]
        );
        assert_eq!(
            invalidations(vec![], 200_000, 131_072),
            [0..4_096, 131_072..200_000]
        );
    }

    #[test]
    fn too_many_ranges_become_one() {
        let ranges = (1..=INVALIDATIONS_MAX as u64)
            .map(|i| i * 131_072..i * 131_072 + 65_536)
            .collect();
        assert_eq!(invalidations(ranges, 1 << 30, 1 << 30), [0..1 << 30]);
    }
}
