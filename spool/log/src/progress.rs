//! How much of a database waits in the spool: for whoever waits for another process' copier, and for status. Reads what `writer` and `drain` change.

use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::fence;

use crate::control::{CC_UNKNOWN, LogHead};
use crate::error::SpoolError;
use crate::folder::Folder;

/// What the spool of a database holds at one moment, for whoever waits for another process' copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the next record goes.
    pub head: LogHead,
    /// Epoch: odd while a transaction writes, or after a writer died.
    pub epoch: u64,
    /// Epoch whose leftovers have been published.
    pub settled_epoch: u64,
    /// Change counter after the last transaction of ours, if there was one.
    pub last_cc: Option<u32>,
    /// Oldest generation whose log is still there, if it is older than the current one.
    pub sealed: Option<u32>,
    /// Whether chunks wait to be claimed by the copier.
    pub todo: bool,
    /// Number of chunks that are claimed and not yet published; `None` for all.
    pub inflight: Option<u64>,
    /// Whether any chunk is dirty.
    pub dirty: bool,
    /// Generation of the last published manifest.
    pub published_generation: u64,
    /// Change counter in that manifest, if there is one.
    pub published_cc: Option<u32>,
    /// Grows whenever the copier gets on.
    pub beats: u64,
}

impl Folder {
    pub(crate) fn progress(&self) -> Result<Progress, SpoolError> {
        let control = &self.control;
        fence(SeqCst);
        let head = control.head();
        let header = control.map.header();
        // The logs before the bits: a generation that is gone by now had its chunks put in flight before, if it was not published.
        let sealed = self
            .log_generations()?
            .into_iter()
            .find(|generation| *generation < head.generation);
        fence(SeqCst);
        let (mut todo, mut dirty, mut inflight) = (header.todo_all.load(Acquire) != 0, false, 0);
        control.each_segment(|_, segment| {
            for word in 0..segment.dirty.len() {
                todo |= segment.todo[word].load(Acquire) != 0;
                dirty |= segment.dirty[word].load(Acquire) != 0;
                inflight += u64::from(segment.inflight[word].load(Acquire).count_ones());
            }
        })?;
        Ok(Progress {
            head,
            epoch: control.epoch(),
            settled_epoch: header.settled_epoch.load(Acquire),
            last_cc: known_cc(control.last_cc()),
            sealed,
            todo,
            inflight: (header.inflight_all.load(Acquire) == 0).then_some(inflight),
            dirty,
            published_generation: header.published_generation.load(Acquire),
            published_cc: known_cc(header.published_cc.load(Acquire)),
            beats: header.beats.load(Acquire),
        })
    }
}

/// A change counter of the control page, if it is one.
pub(crate) fn known_cc(cc: u64) -> Option<u32> {
    (cc != CC_UNKNOWN).then_some(cc as u32)
}
