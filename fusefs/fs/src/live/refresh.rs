//! Looking at the store on behalf of a live file, and preparing what it finds for `advance`.
//!
//! A file is *watched* while it is open, and a little longer for readers that reopen it. What is being read is compared
//! with the store every refresh interval; what is open but quiet less and less often; what is closed, never.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{LiveFile, Ready, State};
use crate::header::HEADER_LEN_BYTES;
use crate::options::{
    FRESH_WAIT, LINGER, PREFETCH_LEN_BYTES, PREFETCH_LOOKS_MAX, PREFETCH_WAIT, PREFETCHES_MAX,
    QUIET_REFRESH_MAX, RETIRE_AFTER,
};
use crate::source::{Loaded, Snapshot, Source, SourceError};

/// Pages of this size or larger start at multiples of it.
const PAGE_LEN_BYTES: u64 = 4_096;

enum Demand {
    /// Nobody has it open.
    None,
    /// Open, and not read since the last look.
    Quiet,
    /// Read since the last look, or reopened all the time.
    Busy,
}

impl<S: Source> LiveFile<S> {
    /// Starts the refresher unless it runs.
    pub(super) fn watch(self: &Arc<Self>, state: &mut State<S::Snapshot>) {
        if !state.watched {
            state.watched = true;
            self.shared.runtime.spawn(self.clone().refresh_while_open());
        }
    }

    /// True if the store was not asked lately, and is not failing to answer right now.
    pub(super) fn is_stale(&self, state: &State<S::Snapshot>, now: Instant) -> bool {
        let Some(started) = state.check_started else {
            return true;
        };
        let age = now.duration_since(started);
        age > 2 * self.shared.options.refresh_interval && !(state.check_running && age > FRESH_WAIT)
    }

    async fn refresh_while_open(self: Arc<Self>) {
        let base = self.shared.options.refresh_interval;
        let slowest = QUIET_REFRESH_MAX.max(base);
        let mut pause = base;
        let mut next_check = Instant::now() + pause;
        let mut failing = false;
        loop {
            let next_event = self
                .retires_at()
                .map_or(next_check, |at| at.min(next_check));
            let woken = tokio::select! {
                () = tokio::time::sleep_until(next_event) => false,
                () = self.wake.notified() => true,
            };
            self.retire_if_blocked();
            if !woken && Instant::now() < next_check {
                continue;
            }
            match self.demand() {
                Demand::None => return,
                Demand::Quiet => pause = (2 * pause).min(slowest),
                Demand::Busy => pause = base,
            }
            let mut wait = pause;
            match self.check().await {
                Ok(_) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(file = %self, "refresh works again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(file = %self, %error, "refresh failed, readers stay on the last snapshot");
                    }
                    wait = pause.max(Duration::from_secs(1));
                }
            }
            next_check = Instant::now() + wait;
        }
    }

    fn demand(&self) -> Demand {
        let mut state = self.lock();
        if state.handles.is_empty() && state.queue.is_empty() && !state.advancing {
            if state.last_used.elapsed() < LINGER {
                return Demand::Busy;
            }
            state.watched = false;
            let ino = self.ino;
            // The kernel was told to keep the attributes for as long as they are watched.
            self.shared.notify.data(move |kernel| {
                if let Err(error) = kernel.invalidate_attributes(ino) {
                    tracing::debug!(ino, %error, "the kernel kept attributes");
                }
            });
            return Demand::None;
        }
        match std::mem::take(&mut state.used_since_check) {
            true => Demand::Busy,
            false => Demand::Quiet,
        }
    }

    fn retires_at(&self) -> Option<Instant> {
        match self.is_retired() {
            true => None,
            false => self.lock().blocked_since.map(|since| since + RETIRE_AFTER),
        }
    }

    fn retire_if_blocked(&self) {
        if self.retires_at().is_some_and(|at| at <= Instant::now()) {
            self.retired.store(true, Ordering::Relaxed);
            tracing::debug!(file = %self, "readers did not drain, new openers get a fresh inode");
            self.shared
                .notify
                .name(self.place.parent, self.place.name.clone());
        }
    }

    /// Asks the store for something newer and gets the file ready for it; false if the store has no such database.
    ///
    /// # Errors
    /// The store's; the file serves what it served.
    pub(super) async fn check(self: &Arc<Self>) -> Result<bool, SourceError> {
        let asked = Instant::now();
        let _turn = self.checking.lock().await;
        {
            let state = self.lock();
            if state.check_started.is_some_and(|started| started > asked) && state.view.is_some() {
                return Ok(state.exists); // somebody else asked after us
            }
        }
        // The semaphore is never closed.
        let _permit = self.shared.refreshes.acquire().await;
        let newest = {
            let mut state = self.lock();
            state.check_started = Some(Instant::now());
            state.check_running = true;
            state.newest.clone()
        };
        let result = self.load(newest.as_ref()).await;
        let answers = {
            let mut state = self.lock();
            state.check_running = false;
            if let Ok(exists) = result {
                state.exists = exists;
            }
            self.try_advance(&mut state); // a pin may have expired
            state.grant_if_current()
        };
        for answer in answers {
            answer();
        }
        result
    }

    async fn load(
        self: &Arc<Self>,
        newest: Option<&Arc<S::Snapshot>>,
    ) -> Result<bool, SourceError> {
        match self
            .shared
            .source
            .load(&self.place.host, &self.place.path, newest)
            .await?
        {
            Loaded::Unchanged => Ok(true),
            Loaded::New(snapshot) => self.prepare(snapshot).await.map(|()| true),
            Loaded::Missing => {
                let mut state = self.lock();
                if std::mem::take(&mut state.newest).is_some() {
                    tracing::info!(file = %self, "the store has no such database any more");
                }
                self.shared
                    .notify
                    .name(self.place.parent, self.place.name.clone());
                Ok(false)
            }
        }
    }

    /// Fetches all that the advance to `snapshot` will need.
    async fn prepare(self: &Arc<Self>, snapshot: Arc<S::Snapshot>) -> Result<(), SourceError> {
        let new_len = snapshot.head().len;
        let header = snapshot.read(0, HEADER_LEN_BYTES).await?;
        // Repeated if the file advanced to an earlier snapshot meanwhile; once, since only a check makes one ready.
        loop {
            let (base, told_len) = {
                let state = self.lock();
                (state.view.clone(), state.told_len)
            };
            let changed = match &base {
                Some(view) => view.snapshot.diff(&snapshot).await?,
                None => Vec::new(),
            };
            let same_len = base.as_ref().is_some_and(|view| view.len() == new_len);
            let is_same = same_len && changed.is_empty();
            let tail = if new_len == 0 || (same_len && told_len == Some(new_len)) {
                None
            } else {
                let start = (new_len - 1) / PAGE_LEN_BYTES * PAGE_LEN_BYTES;
                Some((start, snapshot.read(start, PAGE_LEN_BYTES as usize).await?))
            };
            if let Some(view) = &base {
                let _ = tokio::time::timeout(
                    PREFETCH_WAIT,
                    prefetch(&*view.snapshot, &*snapshot, &changed),
                )
                .await;
            }

            let mut state = self.lock();
            if state.view.as_ref().map(|view| view.number) != base.as_ref().map(|view| view.number)
            {
                continue;
            }
            state.newest = Some(snapshot.clone());
            if is_same {
                state.ready = None;
                state.blocked_since = None;
            } else {
                state.ready = Some(Ready {
                    snapshot,
                    changed,
                    header,
                    tail,
                });
                state.blocked_since.get_or_insert_with(Instant::now);
                self.try_advance(&mut state);
            }
            return Ok(());
        }
    }
}

/// Fetches what changed of what was in memory: the next transaction of a warm reader asks for just that. Failures
/// don't matter, the read itself will tell.
async fn prefetch<N: Snapshot>(old: &N, new: &N, changed: &[Range<u64>]) {
    let new_len = new.head().len;
    let chunks = changed
        .iter()
        .flat_map(|range| (range.start..range.end.min(new_len)).step_by(PREFETCH_LEN_BYTES));
    let was_in_memory = |start: &u64| {
        old.read_cached(*start, 1)
            .is_some_and(|bytes| !bytes.is_empty())
            && new.read_cached(*start, 1).is_none()
    };
    for start in chunks
        .take(PREFETCH_LOOKS_MAX)
        .filter(was_in_memory)
        .take(PREFETCHES_MAX)
    {
        let _ = new.read(start, PREFETCH_LEN_BYTES).await;
    }
}
