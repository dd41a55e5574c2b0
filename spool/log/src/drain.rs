//! The copier's side of the protocol: what it may do to the control page and the logs while it holds the database's lock file. Driven step by
//! step by `verneuil-copier`.

use std::fs::TryLockError;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};

use verneuil_dbfile::Unshared;

use crate::chunks::ChunkSet;
use crate::control::LogHead;
use crate::control::Seen;
use crate::database::Database;
use crate::error::SpoolError;
use crate::folder::Folder;
use crate::layout::SEGMENT_CHUNKS;
use crate::progress::{Progress, known_cc};
use crate::replay::Replay;
use crate::spool::{open_private, remove_asides};
use crate::sync::{fence, system_call};
use crate::target::{TargetId, TargetRecord, read_records};

/// Chunks that the copier must read from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every chunk.
    All,
    /// These.
    Chunks(ChunkSet),
}

impl Default for Need {
    fn default() -> Self {
        Self::Chunks(ChunkSet::default())
    }
}

impl Need {
    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        match other {
            Self::All => *self = Self::All,
            Self::Chunks(chunks) => self.add(chunks),
        }
    }

    /// Adds these chunks.
    pub fn add(&mut self, chunks: &ChunkSet) {
        if let Self::Chunks(set) = self {
            set.extend(chunks);
        }
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Chunks(set) if set.is_empty())
    }

    /// Whether `chunk` is needed.
    pub fn contains(&self, chunk: u32) -> bool {
        match self {
            Self::All => true,
            Self::Chunks(set) => set.contains(chunk),
        }
    }
}

/// A generation that takes no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its number.
    pub generation: u32,
    /// Length of its log; `None` when the copier that sealed it didn't live to write it down.
    pub len_bytes: Option<u32>,
}

/// The right to copy one database, of which there is one among all processes. Dropping it gives it up.
#[derive(Debug)]
pub struct CopierLock {
    folder: Arc<Folder>,
    lock: Unshared,
}

impl Drop for CopierLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that was forked meanwhile and could not open the file anew.
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the copier's lock goes when its descriptor is closed");
        }
    }
}

impl Database {
    /// Tries to become the database's copier. Never waits; `None` when another copier lives, or there is no spool for now.
    ///
    /// # Errors
    /// When the lock file can't be opened or locked.
    pub fn lock_copier(&self) -> Result<Option<CopierLock>, SpoolError> {
        let Some(mut folder) = self.folder_for_writer() else {
            return Ok(None);
        };
        if !folder.is_current() {
            match self.reattach() {
                Some(attached) => folder = attached,
                None => return Ok(None),
            }
        }
        let path = folder.lock_path();
        let lock = Unshared::new(open_private(&path, false)?);
        match lock.try_lock() {
            Ok(()) => Ok(Some(CopierLock { folder, lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(SpoolError::io("lock", &path)(error)),
        }
    }
}

impl CopierLock {
    /// Whether the control page is still the one that writers see. If not, give up the lock and take it anew.
    pub fn is_current(&self) -> bool {
        self.folder.is_current()
    }

    /// Id of the spool: tells writers of one name in the store apart.
    pub fn instance_id(&self) -> [u8; 16] {
        self.folder.identity.instance_id
    }

    /// Where the next record goes.
    pub fn head(&self) -> LogHead {
        self.folder.control.head()
    }

    /// Odd while a transaction writes, or after a writer died. Behind a fence: load it after the reads that it vouches for.
    pub fn epoch(&self) -> u64 {
        fence(SeqCst);
        self.folder.control.epoch()
    }

    /// Whether a transaction of ours is going on whose process lives (as far as this process can see: one in another container counts as
    /// dead), so that the dirty bits of an odd epoch are nobody's leftovers.
    pub fn writer_lives(&self) -> bool {
        let pid = self.folder.control.map.header().writer_pid.load(Acquire);
        self.epoch() % 2 == 1 && process_lives(pid)
    }

    /// Whether the last transaction was one of this process.
    pub fn was_written_here(&self) -> bool {
        let pid = self.folder.control.map.header().writer_pid.load(Acquire);
        pid == std::process::id()
    }

    /// Whether a connection of ours keeps EXCLUSIVE between its transactions (`locking_mode=EXCLUSIVE`) and its process lives, as far as this
    /// process can see: while the epoch is even, its lock hides nothing.
    pub fn exclusive_owner_lives(&self) -> bool {
        process_lives(self.folder.control.exclusive_owner())
    }

    /// Change counter after the last transaction of ours; `None` before the first.
    pub fn last_cc(&self) -> Option<u32> {
        known_cc(self.folder.control.last_cc())
    }

    /// What is pending, for messages.
    ///
    /// # Errors
    /// As [`Database::progress`].
    pub fn progress(&self) -> Result<Progress, SpoolError> {
        self.folder.progress()
    }

    /// Copier step 2: `inflight |= todo`, then `todo &= ~claimed`. Returns what was claimed.
    ///
    /// # Errors
    /// When a segment can't be mapped; nothing is lost then: what was claimed before is in flight.
    pub fn claim(&self) -> Result<Need, SpoolError> {
        let header = self.folder.control.map.header();
        let mut claimed = Need::default();
        fence(SeqCst);
        if header.todo_all.load(Acquire) != 0 {
            header.inflight_all.store(1, Release);
            fence(SeqCst);
            header.todo_all.store(0, Release);
            claimed = Need::All;
        }
        let mut chunks = ChunkSet::default();
        self.folder.control.each_segment(|first, segment| {
            for (word, (todo, inflight)) in segment.todo.iter().zip(&segment.inflight).enumerate() {
                let bits = todo.load(Acquire);
                if bits != 0 {
                    inflight.fetch_or(bits, AcqRel);
                    todo.fetch_and(!bits, AcqRel);
                    chunks.insert_word(first / SEGMENT_CHUNKS, word, bits);
                }
            }
        })?;
        claimed.add(&chunks);
        fence(SeqCst);
        Ok(claimed)
    }

    /// Whether anything waits to be claimed. Behind a fence: the copier asks after the swap of the head (step 9).
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn has_todo(&self) -> Result<bool, SpoolError> {
        fence(SeqCst);
        let mut found = self.folder.control.map.header().todo_all.load(Acquire) != 0;
        self.folder.control.each_segment(|_, segment| {
            found |= segment.todo.iter().any(|word| word.load(Acquire) != 0)
        })?;
        Ok(found)
    }

    /// What waits to be claimed. Behind a fence.
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn todo(&self) -> Result<Need, SpoolError> {
        fence(SeqCst);
        if self.folder.control.map.header().todo_all.load(Acquire) != 0 {
            return Ok(Need::All);
        }
        self.collect(|segment, word| segment.todo[word].load(Acquire))
            .map(Need::Chunks)
    }

    /// What is claimed and not yet published.
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn inflight(&self) -> Result<Need, SpoolError> {
        fence(SeqCst);
        if self.folder.control.map.header().inflight_all.load(Acquire) != 0 {
            return Ok(Need::All);
        }
        self.collect(|segment, word| segment.inflight[word].load(Acquire))
            .map(Need::Chunks)
    }

    /// The chunks whose dirty bits are set. Behind a fence.
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn dirty(&self) -> Result<ChunkSet, SpoolError> {
        fence(SeqCst);
        self.collect(|segment, word| segment.dirty[word].load(Acquire))
    }

    fn collect(
        &self,
        load: impl Fn(&crate::layout::Segment, usize) -> u64,
    ) -> Result<ChunkSet, SpoolError> {
        let mut set = ChunkSet::default();
        self.folder.control.each_segment(|first, segment| {
            (0..segment.dirty.len()).for_each(|word| {
                set.insert_word(first / SEGMENT_CHUNKS, word, load(segment, word))
            });
        })?;
        Ok(set)
    }

    /// `inflight |= chunks`.
    pub fn add_inflight(&self, chunks: &ChunkSet) {
        // A chunk beyond what the control page describes is covered by the flag that needs no room.
        if self.folder.control.add_inflight(chunks).is_err() {
            self.need_everything();
        }
    }

    /// `inflight = all`.
    pub fn need_everything(&self) {
        self.folder
            .control
            .map
            .header()
            .inflight_all
            .store(1, Release);
        fence(SeqCst);
    }

    /// Copier step 8: prepares the next log, and ends the current generation.
    ///
    /// The head moves by compare-and-swap in place of the protocol's swap, and its old value is stored just before: a copier that finds the
    /// generation of a dead one then knows how long it was. It fails only when a writer has appended in between, so it ends.
    ///
    /// # Errors
    /// When the next log can't be made; the current generation goes on then.
    pub fn seal(&self) -> Result<Sealed, SpoolError> {
        let control = &self.folder.control;
        // Only the holder of the lock changes the generation.
        let next = control.head().generation.checked_add(1).ok_or_else(|| {
            SpoolError::unusable(
                control.map.path(),
                "has run out of generations; remove the spool's folder of this database",
            )
        })?;
        let file = self.folder.prepare_log(next)?;
        fence(SeqCst);
        loop {
            let head = control.head();
            control.set_sealed(head);
            if control.move_head(
                head,
                LogHead {
                    generation: next,
                    len_bytes: 0,
                },
            ) {
                fence(SeqCst);
                self.folder.hand_out_log(next, file);
                return Ok(Sealed {
                    generation: head.generation,
                    len_bytes: Some(head.len_bytes),
                });
            }
        }
    }

    /// Copier step 1: the sealed generation that a dead copier has left, if any. Logs that belong to no generation of this control page are
    /// removed.
    ///
    /// # Errors
    /// When the folder can't be read, or a log not be removed.
    pub fn leftover(&self) -> Result<Option<Sealed>, SpoolError> {
        let current = self.head().generation;
        let mut found = None;
        for generation in self.folder.log_generations()? {
            if generation.checked_add(1) == Some(current) {
                let sealed = self.folder.control.sealed();
                let len_bytes = (sealed.generation == generation).then_some(sealed.len_bytes);
                found = Some(Sealed {
                    generation,
                    len_bytes,
                });
            } else if generation != current {
                self.folder.remove_log(generation)?;
            }
        }
        Ok(found)
    }

    /// Reads a sealed generation whose length is known.
    ///
    /// # Errors
    /// When its log is missing or damaged, or its length unknown: every chunk must be read from the file then.
    pub fn replay(&self, sealed: Sealed) -> Result<Replay, SpoolError> {
        let path = self.folder.log_path(sealed.generation);
        let Some(len_bytes) = sealed.len_bytes else {
            return Err(SpoolError::unusable(
                &path,
                "has a length that nobody knows",
            ));
        };
        let head = LogHead {
            generation: sealed.generation,
            len_bytes,
        };
        system_call(|| Replay::read(&path, head))
    }

    /// Reads the current log; `None` while it is empty. It may lose its content when it is sealed: the caller sees to it that it isn't.
    ///
    /// # Errors
    /// When it is missing, short, or damaged.
    pub(crate) fn current_log(&self) -> Result<Option<Replay>, SpoolError> {
        let head = self.head();
        let read = || Replay::read(&self.folder.log_path(head.generation), head);
        (head.len_bytes > 0).then(read).transpose()
    }

    /// Steps 1, 3 and 9: `inflight |= its chunks` (all of them when the log is bad), then deletes the generation.
    ///
    /// # Errors
    /// When the log can't be removed.
    pub fn hand_to_inflight(&self, sealed: Sealed) -> Result<(), SpoolError> {
        let path = self.folder.log_path(sealed.generation);
        let chunks = match sealed.len_bytes {
            Some(_) => self.replay(sealed).map(|replay| replay.touched().clone()),
            None => Replay::scan_chunks(&path, sealed.generation),
        };
        match chunks {
            Ok(chunks) => self.add_inflight(&chunks),
            Err(error) => {
                tracing::warn!(%error, "a change log can't be used: the whole database will be read");
                self.need_everything();
            }
        }
        self.delete(sealed)
    }

    /// Deletes the log of a sealed generation.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn delete(&self, sealed: Sealed) -> Result<(), SpoolError> {
        self.folder.remove_log(sealed.generation)
    }

    /// The last part of step 10: `inflight = 0`.
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn clear_inflight(&self) -> Result<(), SpoolError> {
        fence(SeqCst);
        self.folder.control.each_segment(|_, segment| {
            segment
                .inflight
                .iter()
                .for_each(|word| word.store(0, Release))
        })?;
        self.folder
            .control
            .map
            .header()
            .inflight_all
            .store(0, Release);
        fence(SeqCst);
        Ok(())
    }

    /// The records of all targets that this database ever had in this spool. Those of an older control page know nothing any more.
    pub(crate) fn target_records(&self) -> Result<Vec<(TargetId, TargetRecord)>, SpoolError> {
        let page_id = self.folder.control.page_id();
        remove_asides(self.folder.dir());
        let mut records = read_records(self.folder.dir())?;
        for (_, record) in &mut records {
            if record.page_id != page_id {
                record.forget_page(page_id);
            }
        }
        Ok(records)
    }

    pub(crate) fn write_target_record(
        &self,
        target: TargetId,
        record: &TargetRecord,
    ) -> Result<(), SpoolError> {
        record.write(self.folder.dir(), target)
    }

    /// Id of the control page: a new one is another one.
    pub(crate) fn page_id(&self) -> u64 {
        self.folder.control.page_id()
    }

    /// How the database file looked when it was last found published in full.
    pub fn seen(&self) -> Option<Seen> {
        self.folder.control.seen()
    }

    /// Remembers how the database file looks, being published in full.
    pub fn set_seen(&self, seen: &Seen) {
        self.folder.control.set_seen(seen);
    }

    /// Shows whoever waits that the copier gets on.
    pub fn beat(&self) {
        self.folder.control.map.header().beats.fetch_add(1, AcqRel);
    }
}

/// Whether this process can see that one; 0 is nobody.
pub(crate) fn process_lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else {
        return false;
    };
    let probe = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    matches!(probe, Ok(()) | Err(nix::errno::Errno::EPERM))
}
