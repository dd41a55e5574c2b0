//! Lock requests on a live file, forwarded by `fs`; what must wait is answered by `advance`, `refresh` or its deadline.
//!
//! A request for the SHARED range begins a read transaction. It waits only
//! - while the kernel drops pages (an advance is under way), or
//! - up to `DRAIN_WAIT` if a newer snapshot is ready and other readers hold the present one, or
//! - up to `FRESH_WAIT` if nobody has looked at the store for a while, because nobody read.
//!
//! It is always granted in the end: on the newest snapshot if the wait was long enough, else on the present one.

use std::sync::Arc;

use nix::errno::Errno;
use tokio::time::Instant;

use super::{LiveFile, State};
use crate::fs::Reply;
use crate::locks::{LockKind, LockRequest};
use crate::options::{DRAIN_PAUSE_MAX, DRAIN_WAIT, FRESH_WAIT};
use crate::source::Source;

/// A lock request without an answer.
pub(super) struct Waiting {
    handle: u64,
    request: LockRequest,
    /// `None`: when the advance ends.
    deadline: Option<Instant>,
    reply: Reply<()>,
}

/// An answer, to be given after the mutex is free.
pub(super) type Answer = Box<dyn FnOnce() + Send>;

enum Decision {
    Grant,
    Wait(Option<Instant>),
}

impl<S: Source> LiveFile<S> {
    /// `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK`, `F_OFD_SETLKW`: they differ only when locks conflict, and read locks don't.
    pub fn set_lock(self: &Arc<Self>, handle: u64, request: LockRequest, reply: Reply<()>) {
        let now = Instant::now();
        let result = {
            let mut state = self.lock();
            state.touch(now);
            if !state.becomes_locking(handle) {
                Err(Errno::EBADF)
            } else {
                match request.kind {
                    // The kernel refuses write locks on what is open for reading only, before it asks.
                    LockKind::Write => Err(Errno::EACCES),
                    LockKind::Unlock => {
                        state
                            .locks
                            .unlock(request.owner, request.start, request.end);
                        self.try_advance(&mut state);
                        Ok(())
                    }
                    LockKind::Read => {
                        state.lockers.insert(request.pid);
                        match self.decide(&mut state, &request, now) {
                            Decision::Grant => state.locks.lock(handle, &request),
                            Decision::Wait(deadline) => {
                                state.queue.push(Waiting {
                                    handle,
                                    request,
                                    deadline,
                                    reply,
                                });
                                drop(state);
                                self.answer_at(deadline);
                                return;
                            }
                        }
                    }
                }
            }
        };
        reply(result);
    }

    fn decide(
        self: &Arc<Self>,
        state: &mut State<S::Snapshot>,
        request: &LockRequest,
        now: Instant,
    ) -> Decision {
        if !request.touches_shared() || state.locks.shared_by(request.owner) {
            return Decision::Grant;
        }
        if state.advancing || self.try_advance(state) {
            return Decision::Wait(None);
        }
        if state.ready.is_some() {
            return match state.drain_after {
                Some(after) if now < after => Decision::Grant,
                _ => Decision::Wait(Some(now + DRAIN_WAIT)),
            };
        }
        if self.is_stale(state, now) {
            self.wake.notify_one();
            return Decision::Wait(Some(now + FRESH_WAIT));
        }
        Decision::Grant
    }

    fn answer_at(self: &Arc<Self>, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let file = self.clone();
        self.shared.runtime.spawn(async move {
            tokio::time::sleep_until(deadline).await;
            file.answer_overdue();
        });
    }

    fn answer_overdue(&self) {
        let answers = {
            let mut state = self.lock();
            if state.advancing {
                return; // its end answers all
            }
            let now = Instant::now();
            let is_due =
                |waiting: &mut Waiting| waiting.deadline.is_none_or(|deadline| deadline <= now);
            let due: Vec<Waiting> = state.queue.extract_if(.., is_due).collect();
            if !due.is_empty() && state.ready.is_some() {
                state.drain_after = Some(now + state.drain_pause);
                state.drain_pause = (2 * state.drain_pause).min(DRAIN_PAUSE_MAX);
            }
            state.grant(due)
        };
        for answer in answers {
            answer();
        }
    }

    /// `F_GETLK`, `F_OFD_GETLK`: the lock in the way, if there is one.
    ///
    /// # Errors
    /// `EBADF` for a handle that is not open.
    pub fn get_lock(
        &self,
        handle: u64,
        request: &LockRequest,
    ) -> Result<Option<LockRequest>, Errno> {
        let state = self.lock();
        if !state.handles.contains_key(&handle) {
            return Err(Errno::EBADF);
        }
        Ok(state.locks.conflict(request))
    }
}

impl<N> State<N> {
    /// Grants all of `waiting`.
    pub(super) fn grant(&mut self, waiting: Vec<Waiting>) -> Vec<Answer> {
        waiting
            .into_iter()
            .map(
                |Waiting {
                     handle,
                     request,
                     reply,
                     ..
                 }| {
                    let result = self.locks.lock(handle, &request);
                    Box::new(move || reply(result)) as Answer
                },
            )
            .collect()
    }

    /// After a look at the store that found nothing newer: nothing to wait for.
    pub(super) fn grant_if_current(&mut self) -> Vec<Answer> {
        if self.advancing || self.ready.is_some() {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.queue);
        self.grant(waiting)
    }

    /// Ends requests of an owner or a handle that is gone.
    pub(super) fn cancel(&mut self, owner: Option<u64>, handle: Option<u64>) -> Vec<Answer> {
        let is_gone = |w: &mut Waiting| Some(w.request.owner) == owner || Some(w.handle) == handle;
        let gone: Vec<Waiting> = self.queue.extract_if(.., is_gone).collect();
        gone.into_iter()
            .map(|w| Box::new(move || (w.reply)(Err(Errno::EINTR))) as Answer)
            .collect()
    }
}
