//! Open files of a live file, forwarded by `fs`, and what a handle that never locks is served.
//!
//! | handle | reads | keeps the inode from moving |
//! |---|---|---|
//! | *locking*: has set or cleared a lock | the inode's snapshot | while its lock covers SHARED |
//! | *lockless*, through the page cache | the inode's snapshot, then `EIO` | until 10 minutes from its open, if it reads beyond the header |
//! | *private*: its reads bypass the page cache | the snapshot it was opened with, for good | no |
//! | *private* that fills the page cache all the same | the inode's snapshot, then `EIO` | until 10 minutes from its open |
//!
//! sqlite opens with `O_NOFOLLOW`, reads the header, then locks: a *lockless* handle that becomes *locking* with its
//! first lock. Until then (a pool opens connections long before it uses them) it must not hold the others up. (A connection whose process already holds the lock never asks: its reads are covered by that process's
//! locks, so it does not pin.) `nolock=1` stays lockless. What opens without `O_NOFOLLOW` (`cp`, `cat`, DuckDB) is no
//! sqlite: it gets a private handle, and so neither mixes two snapshots nor holds anybody up. Only reads can bypass the
//! page cache, though: `sendfile`, `splice` and a private memory map go through it, whatever `open` was answered, and fill pages that
//! belong to every reader of the inode.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::{LiveFile, State};
use crate::fs::Reply;
use crate::options::{OPEN_CHECK_WAIT, OPEN_READ_BYTES, PIN_MAX};
use crate::source::Source;
use crate::view::View;

/// One `open`.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest {
    /// The number of the new handle.
    pub handle: u64,
    /// The thread that opens.
    pub thread: u32,
    /// Reads bypass the page cache.
    pub private: bool,
}

pub(super) struct Handle<N> {
    role: Role<N>,
    pub(super) opened: Instant,
    thread: u32,
    /// Of `thread`, when somebody has asked.
    process: Option<Option<u32>>,
}

enum Role<N> {
    Locking,
    Lockless {
        /// The snapshot of its first read.
        view_number: Option<u64>,
        /// It has read more than sqlite's open does.
        pins: bool,
    },
    Private {
        view: Arc<View<N>>,
        /// Some of it was served.
        has_read: bool,
        /// It has filled pages of the inode.
        pins: bool,
    },
}

impl<S: Source> LiveFile<S> {
    /// Opens the database on the newest snapshot; answers when it can be read.
    pub fn open(self: &Arc<Self>, request: OpenRequest, reply: Reply<()>) {
        let now = Instant::now();
        let opened = {
            let mut state = self.lock();
            state.touch(now);
            state.watched
                && !state.advancing
                && !self.is_stale(&state, now)
                && state.add_handle(request, now)
        };
        if opened {
            return reply(Ok(()));
        }
        let file = self.clone();
        self.shared
            .runtime
            .spawn(async move { reply(file.open_fresh(request).await) });
    }

    async fn open_fresh(self: &Arc<Self>, request: OpenRequest) -> Result<(), Errno> {
        let limit = match self.lock().view {
            Some(_) => OPEN_CHECK_WAIT,
            None => Duration::MAX, // the store has its own limits, and there is nothing else to serve
        };
        let file = self.clone();
        // Not dropped half way when the time is over.
        let check = self.shared.runtime.spawn(async move { file.check().await });
        let failure = match tokio::time::timeout(limit, check).await {
            Ok(Ok(Ok(true))) => None,
            Ok(Ok(Ok(false))) => return Err(Errno::ENOENT),
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the store did not answer within {limit:?}")),
        };
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let mut state = self.lock();
                if !state.advancing {
                    if !state.add_handle(request, Instant::now()) {
                        let error = failure.unwrap_or_else(|| "no snapshot".into());
                        tracing::error!(file = %self, error, "open failed");
                        return Err(Errno::EIO);
                    }
                    if let Some(error) = failure {
                        tracing::warn!(file = %self, error, "opened on the last snapshot known");
                    }
                    self.watch(&mut state);
                    return Ok(());
                }
            }
            settled.await;
        }
    }

    /// FLUSH: a process closed a descriptor.
    pub fn flush(self: &Arc<Self>, owner: u64) {
        let answers = {
            let mut state = self.lock();
            state.locks.flush(owner);
            self.try_advance(&mut state);
            state.cancel(Some(owner), None)
        };
        for answer in answers {
            answer();
        }
    }

    /// RELEASE: the handle is gone.
    pub fn release(self: &Arc<Self>, handle: u64) {
        let answers = {
            let mut state = self.lock();
            state.locks.release(handle);
            state.handles.remove(&handle);
            state.last_used = Instant::now();
            if state.handles.is_empty() {
                state.lockers.clear();
            }
            self.try_advance(&mut state);
            state.cancel(None, Some(handle))
        };
        for answer in answers {
            answer();
        }
    }

    /// True if somebody reads the present snapshot without locks.
    pub(super) fn is_pinned(&self, state: &mut State<S::Snapshot>, now: Instant) -> bool {
        let State {
            handles, lockers, ..
        } = state;
        handles.values_mut().any(|handle| {
            if now.duration_since(handle.opened) >= PIN_MAX {
                return false;
            }
            match handle.role {
                Role::Lockless { pins, .. } => {
                    pins && !handle
                        .process(self.shared.process_of)
                        .is_some_and(|process| lockers.contains(&process))
                }
                Role::Private { pins, .. } => pins,
                Role::Locking => false,
            }
        })
    }

    /// What a read through `handle` of the bytes up to `end` is served from; `is_direct` says that it bypasses the page cache.
    pub(super) fn view_for(
        &self,
        state: &mut State<S::Snapshot>,
        handle: u64,
        end: u64,
        is_direct: bool,
    ) -> Result<Served<S::Snapshot>, Errno> {
        let State {
            handles,
            lockers,
            view,
            ..
        } = state;
        let (Some(handle), Some(view)) = (handles.get_mut(&handle), view) else {
            return Err(Errno::EBADF);
        };
        if let Role::Private {
            view: own,
            has_read,
            pins,
        } = &mut handle.role
        {
            if !is_direct {
                if !*has_read {
                    *own = view.clone();
                }
                if own.number != view.number {
                    tracing::error!(file = %self, "sendfile or a memory map, through a file whose snapshot is not the present one");
                    return Err(Errno::EIO);
                }
                *pins = true;
            }
            *has_read = true;
            return Ok(Served {
                view: own.clone(),
                fills_pages: !is_direct,
            });
        }
        if let Role::Lockless { view_number, pins } = &mut handle.role {
            *pins |= end > OPEN_READ_BYTES;
            view_number.get_or_insert(view.number);
        }
        if let Role::Lockless { view_number, .. } = handle.role
            && view_number != Some(view.number)
            && !handle
                .process(self.shared.process_of)
                .is_some_and(|process| lockers.contains(&process))
        {
            tracing::error!(file = %self, limit_s = PIN_MAX.as_secs(), "a reader without locks outlived its snapshot");
            return Err(Errno::EIO);
        }
        Ok(Served {
            view: view.clone(),
            fills_pages: true,
        })
    }
}

/// What a read is served from.
pub(super) struct Served<N> {
    pub view: Arc<View<N>>,
    /// The bytes go into the page cache, where every reader of the inode finds them.
    pub fills_pages: bool,
}

impl<N> Handle<N> {
    fn process(&mut self, process_of: fn(u32) -> Option<u32>) -> Option<u32> {
        *self.process.get_or_insert_with(|| process_of(self.thread))
    }
}

impl<N> State<N> {
    /// False if there is nothing to serve.
    fn add_handle(&mut self, request: OpenRequest, now: Instant) -> bool {
        let Some(view) = &self.view else { return false };
        let role = if request.private {
            Role::Private {
                view: view.clone(),
                has_read: false,
                pins: false,
            }
        } else {
            Role::Lockless {
                view_number: None,
                pins: false,
            }
        };
        let handle = Handle {
            role,
            opened: now,
            thread: request.thread,
            process: None,
        };
        self.handles.insert(request.handle, handle);
        true
    }

    /// The first lock of a handle; false if it is not open.
    pub(super) fn becomes_locking(&mut self, handle: u64) -> bool {
        match self.handles.get_mut(&handle) {
            Some(handle) => {
                handle.role = Role::Locking;
                true
            }
            None => false,
        }
    }
}

/// Linux: the thread group of a thread.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_any_of_our_threads_is_this_process() {
        let here = std::process::id();
        assert_eq!(process_of(here), Some(here));
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw().unsigned_abs())
            .join()
            .unwrap();
        // The thread is gone, so either its id is not known any more, or it was ours.
        assert!(process_of(thread).is_none_or(|process| process == here));
        assert_eq!(process_of(u32::MAX), None);
    }
}
