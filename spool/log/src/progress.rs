//! How much of a database waits in the spool: for whoever waits for another process' copier, and for status. Reads what `writer`, `drain` and `ledger` change.

use std::sync::atomic::Ordering::{Acquire, SeqCst};

use crate::control::{CC_UNKNOWN, LogHead};
use crate::drain::process_lives;
use crate::error::SpoolError;
use crate::folder::Folder;
use crate::sync::fence;
use crate::target::{TargetId, TargetRecord, read_records};

/// What the spool of a database holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the next record goes.
    pub head: LogHead,
    /// When the first record of the last log that has any was committed, in nanoseconds since the epoch.
    pub pending_since_ns: Option<i64>,
    /// Epoch: odd while a transaction writes, or after a writer died.
    pub epoch: u64,
    /// A connection of ours keeps EXCLUSIVE between its transactions: nobody else can commit.
    pub is_kept_exclusive: bool,
    /// Change counter after the last transaction of ours, if there was one.
    pub last_cc: Option<u32>,
    /// Oldest generation whose log is still there, if it is older than the current one.
    pub sealed: Option<u32>,
    /// Bytes of all logs that are there.
    pub logs_len_bytes: u64,
    /// Whether chunks wait to be claimed by the copier.
    pub todo: bool,
    /// Number of chunks that are claimed and in no target's record yet; `None` for all.
    pub inflight: Option<u64>,
    /// Whether any chunk is dirty.
    pub dirty: bool,
    /// Grows whenever the copier gets on.
    pub beats: u64,
    /// What was sent to each target, and what it lacks beside logs, `todo` and `inflight`.
    pub targets: Vec<TargetProgress>,
}

/// One target's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetProgress {
    /// Which target.
    pub id: TargetId,
    /// Its record.
    pub record: TargetRecord,
}

impl Progress {
    /// Whether the current log holds what was committed, or chunks wait that no target's record tells about.
    pub fn is_anything_pending(&self) -> bool {
        self.head.len_bytes > 0 || self.sealed.is_some() || self.todo || self.inflight != Some(0)
    }

    /// The record of a target.
    pub fn target(&self, id: TargetId) -> Option<&TargetRecord> {
        self.targets
            .iter()
            .find(|target| target.id == id)
            .map(|target| &target.record)
    }
}

impl Folder {
    pub(crate) fn progress(&self) -> Result<Progress, SpoolError> {
        let control = &self.control;
        // Before everything else: a writer that has begun by then has looked for what others committed, and that is seen below.
        let epoch = control.epoch();
        fence(SeqCst);
        let head = control.head();
        let header = control.map.header();
        // Logs before bits before records: what leaves one of them is in the next one by then, until it is published.
        let generations = self.log_generations()?;
        let sealed = generations
            .iter()
            .copied()
            .find(|generation| *generation < head.generation);
        let logs_len_bytes = generations
            .iter()
            .filter_map(|generation| std::fs::symlink_metadata(self.log_path(*generation)).ok())
            .map(|meta| meta.len())
            .sum();
        fence(SeqCst);
        let (mut todo, mut dirty, mut inflight) = (header.todo_all.load(Acquire) != 0, false, 0);
        control.each_segment(|_, segment| {
            for word in 0..segment.dirty.len() {
                todo |= segment.todo[word].load(Acquire) != 0;
                dirty |= segment.dirty[word].load(Acquire) != 0;
            }
        })?;
        // To-do goes into flight before it stops being to-do.
        fence(SeqCst);
        control.each_segment(|_, segment| {
            for word in &segment.inflight {
                inflight += u64::from(word.load(Acquire).count_ones());
            }
        })?;
        let inflight = (header.inflight_all.load(Acquire) == 0).then_some(inflight);
        fence(SeqCst);
        let page_id = control.page_id();
        let targets = read_records(self.dir())?
            .into_iter()
            .map(|(id, mut record)| {
                if record.page_id != page_id {
                    record.forget_page(page_id);
                }
                TargetProgress { id, record }
            })
            .collect();
        Ok(Progress {
            head,
            pending_since_ns: Some(control.pending_since_ns()).filter(|at_ns| *at_ns > 0),
            epoch,
            is_kept_exclusive: process_lives(control.exclusive_owner()),
            last_cc: known_cc(control.last_cc()),
            sealed,
            logs_len_bytes,
            todo,
            inflight,
            dirty,
            beats: header.beats.load(Acquire),
            targets,
        })
    }
}

/// A change counter of the control page, if it is one.
pub(crate) fn known_cc(cc: u64) -> Option<u32> {
    (cc != CC_UNKNOWN).then_some(cc as u32)
}
