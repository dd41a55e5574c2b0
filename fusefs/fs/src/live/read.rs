//! Reads of a live file, forwarded by `fs`: from memory on the caller's thread, else by a task that answers later.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::LiveFile;
use super::handles::Served;
use crate::fs::Reply;
use crate::source::Source;
use crate::view::View;

/// A read that waits for the store. An advance ends it if the kernel is about to drop the page that it would fill.
pub(super) struct Miss {
    range: Range<u64>,
    reply: ReplyOnce,
}

/// What a reader hears when a chunk can't be had whole from any store. Not `EIO`: SQLite takes that for a damaged database ("malformed"),
/// and there is nothing wrong with this one.
const NOT_TO_BE_HAD: Errno = Errno::EREMOTEIO;

type ReplyOnce = Arc<Mutex<Option<Reply<Vec<u8>>>>>;

impl Miss {
    pub fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Answers now. It is readahead for a transaction that is over, so nobody sees the error; a page that is still
    /// wanted is asked for again.
    pub fn end(&self) {
        if let Some(reply) = take(&self.reply) {
            reply(Err(Errno::EIO));
        }
    }
}

impl<S: Source> LiveFile<S> {
    /// Reads up to `len` bytes, fewer only at the end of the file; past the page cache if `is_direct`.
    pub fn read(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        len: usize,
        is_direct: bool,
        reply: Reply<Vec<u8>>,
    ) {
        loop {
            let served = {
                let mut state = self.lock();
                state.used_since_check = true;
                let end = offset.saturating_add(len as u64);
                self.view_for(&mut state, handle, end, is_direct)
            };
            let Served { view, fills_pages } = match served {
                Ok(served) => served,
                Err(errno) => return reply(Err(errno)),
            };
            if let Some(bytes) = view.read_cached(offset, len) {
                return reply(Ok(bytes));
            }
            let mut state = self.lock();
            if fills_pages
                && state
                    .view
                    .as_ref()
                    .is_none_or(|present| present.number != view.number)
            {
                continue; // the inode moved between the two looks
            }
            let reply = Arc::new(Mutex::new(Some(reply)));
            let id = fills_pages.then(|| {
                let id = state.next_miss;
                state.next_miss += 1;
                let range = offset..offset.saturating_add(len as u64);
                state.misses.insert(
                    id,
                    Miss {
                        range,
                        reply: reply.clone(),
                    },
                );
                id
            });
            drop(state);
            return self.fetch(id, view, offset, len, reply);
        }
    }

    fn fetch(
        self: &Arc<Self>,
        id: Option<u64>,
        view: Arc<View<S::Snapshot>>,
        offset: u64,
        len: usize,
        reply: ReplyOnce,
    ) {
        let file = self.clone();
        self.shared.runtime.spawn(async move {
            // The semaphore is never closed.
            let _permit = file.shared.reads.acquire().await;
            let result = view.read(offset, len).await.map_err(|error| {
                tracing::error!(file = %file, offset, len, %error, "read failed");
                NOT_TO_BE_HAD
            });
            if let Some(id) = id {
                file.lock().misses.remove(&id);
            }
            if let Some(reply) = take(&reply) {
                reply(result);
            }
        });
    }
}

fn take(reply: &ReplyOnce) -> Option<Reply<Vec<u8>>> {
    reply.lock().unwrap_or_else(PoisonError::into_inner).take()
}
