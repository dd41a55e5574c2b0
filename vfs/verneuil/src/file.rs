//! [`TrackedFile`]: an open file of the `verneuil` VFS; every call goes to `verneuil-unix`, and those that change a
//! replicated database or end its transactions are told to its `connection`, in its `seat`, first or after.
//!
//! | SQLite calls                                  | the spool hears                                                             |
//! |-----------------------------------------------|-----------------------------------------------------------------------------|
//! | xWrite, xTruncate, SIZE_HINT                  | begin, if the transaction is new; what will change; *then* the file changes |
//! | xDelete, xTruncate(0), zeros over the header of the journal | the transaction is finished                                  |
//! | COMMIT_PHASETWO                               | the transaction is finished                                                 |
//! | xUnlock(SHARED) from EXCLUSIVE                | end, *after* the downgrade: readers may go on meanwhile                     |
//! | most other calls under EXCLUSIVE              | no unlock followed: exclusive locking mode (see `locking`)                  |
//! | xUnlock(NONE) from EXCLUSIVE                  | abandon                                                                     |
//! | xClose in a transaction                       | abandon                                                                     |
//!
//! Commits, roll-backs after a spill and recoveries of hot journals all go through the same hooks. A transaction
//! that wrote nothing is never heard of.

use crate::connection::{Connection, fenced};
use crate::locking;
use crate::pragma;
use crate::seat::{self, Seat};
use crate::why::Unreplicated;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use verneuil_abi::{
    Code, DeviceCharacteristics, File, FileControl, LockLevel, Mapped, Pragma, Result, ShmLock,
    ShmRegion, ShmSlots, SyncFlags,
};
use verneuil_unix::UnixFile;

/// What a file is to the spool.
pub(crate) enum Role {
    /// A main database.
    Replicated(Arc<Seat>),
    /// The rollback journal of what may be one.
    Journal(PathBuf),
    /// Anything else.
    Unreplicated(Unreplicated),
}

/// An open file.
pub struct TrackedFile {
    inner: UnixFile,
    role: Role,
    /// How long a close may wait for the flush that was asked for.
    close_limit: Duration,
}

impl TrackedFile {
    pub(crate) fn new(inner: UnixFile, role: Role, close_limit: Duration) -> TrackedFile {
        TrackedFile {
            inner,
            role,
            close_limit,
        }
    }

    /// Tells the connection, if there is one.
    fn tell<T>(&self, hook: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        match &self.role {
            Role::Replicated(seat) => seat.tell(hook),
            Role::Journal(_) | Role::Unreplicated(_) => None,
        }
    }

    fn is_replicated(&self) -> bool {
        matches!(&self.role, Role::Replicated(seat) if seat.why_not().is_none())
    }

    /// A call that is not part of the end of a transaction.
    fn before_call(&self) {
        if self.inner.lock_level() == LockLevel::Exclusive {
            self.tell(Connection::before_call);
        }
    }

    fn size_hint(&mut self, hint: i64) -> Result<()> {
        self.before_call();
        if self.is_replicated()
            && let Some(len) = self.inner.len_after_hint(hint)?
        {
            let level = self.inner.lock_level();
            let is_wal = self.tell(|connection| connection.is_in_wal_mode());
            if level < LockLevel::Exclusive && is_wal == Some(false) {
                // A hint may be ignored. Growing the file outside of any transaction would change it behind the
                // spool's back.
                return Ok(());
            }
            self.tell(|connection| connection.will_set_len(level, len));
        }
        self.inner.file_control(FileControl::SizeHint(hint))
    }

    fn pragma(&mut self, mut pragma: Pragma<'_>) -> Result<()> {
        if pragma.is("locking_mode") {
            locking::pragma_was_seen();
            return Err(Code::NOTFOUND);
        }
        self.before_call();
        if pragma.is("journal_mode") {
            if pragma
                .argument()
                .is_some_and(|argument| crate::wal::means_wal(argument.to_bytes()))
                && self.tell(Connection::refuses_wal) == Some(true)
            {
                // SQLite goes on with a mode that it doesn't know, and answers the one in force.
                pragma.disable_argument();
            }
            return Err(Code::NOTFOUND);
        }
        match &self.role {
            Role::Replicated(seat) => pragma::answer(pragma, Ok(seat)),
            Role::Journal(_) => pragma::answer(pragma, Err(Unreplicated::NotADatabase)),
            Role::Unreplicated(reason) => pragma::answer(pragma, Err(*reason)),
        }
    }
}

/// Tells the databases of a journal that its transaction is over.
pub(crate) fn finished(journal: &std::path::Path) {
    let _ = fenced(|| seat::journal_is_finished(journal));
}

impl File for TrackedFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let done = self.inner.read(buffer, offset);
        let level = self.inner.lock_level();
        if level == LockLevel::Exclusive || (offset == 0 && done.is_ok()) {
            let read: &[u8] = if done.is_ok() { buffer } else { &[] };
            self.tell(|connection| connection.has_read(level, read, offset));
        }
        done
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let level = self.inner.lock_level();
        self.tell(|connection| connection.will_write(level, bytes, offset))
            .unwrap_or(Ok(()))?;
        self.inner.write(bytes, offset)?;
        if let Role::Journal(path) = &self.role
            && offset == 0
            && bytes.iter().all(|byte| *byte == 0)
        {
            finished(path);
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let (level, rounded_len) = (self.inner.lock_level(), self.inner.rounded_len(len));
        self.tell(|connection| connection.will_set_len(level, rounded_len));
        self.inner.truncate(len)?;
        if let Role::Journal(path) = &self.role
            && len == 0
        {
            finished(path);
        }
        Ok(())
    }

    fn sync(&mut self, flags: SyncFlags) -> Result<()> {
        self.before_call();
        self.inner.sync(flags)
    }

    fn size(&mut self) -> Result<u64> {
        // Tells nothing about the locking mode: SQLite asks before it cuts the file at the end of a commit.
        self.inner.size()
    }

    fn lock(&mut self, level: LockLevel) -> Result<()> {
        self.before_call();
        let before = self.inner.lock_level();
        self.inner.lock(level)?;
        if level == LockLevel::Exclusive && before < level {
            self.tell(|connection| connection.has_exclusive(before, self.inner.share()));
        }
        Ok(())
    }

    fn unlock(&mut self, level: LockLevel) -> Result<()> {
        if self.inner.lock_level() < LockLevel::Exclusive || level >= LockLevel::Exclusive {
            return self.inner.unlock(level);
        }
        let journal = self.tell(|connection| connection.will_unlock(level));
        // Without the downgrade there is no end: SQLite will try again, or give up the lock.
        self.inner.unlock(level)?;
        if let Some(Some(journal)) = journal {
            self.tell(|connection| connection.end(journal));
        }
        Ok(())
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        self.before_call();
        self.inner.check_reserved_lock()
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        match control {
            FileControl::CommitPhaseTwo => {
                self.tell(Connection::is_committed);
                self.inner.file_control(FileControl::CommitPhaseTwo)
            }
            FileControl::SizeHint(hint) => self.size_hint(hint),
            FileControl::Pragma(pragma) => self.pragma(pragma),
            other => {
                self.before_call();
                self.inner.file_control(other)
            }
        }
    }

    fn sector_size(&mut self) -> c_int {
        self.inner.sector_size()
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        self.inner.device_characteristics()
    }

    /// WAL mode is not replicated: a replicated database keeps its journal mode, unless the configuration allows it.
    fn offers_wal(&self) -> bool {
        match &self.role {
            Role::Replicated(seat) => seat.offers_wal(),
            Role::Journal(_) | Role::Unreplicated(_) => true,
        }
    }

    fn shm_map(&mut self, region: usize, region_len: usize, extend: bool) -> Result<ShmRegion> {
        self.inner.shm_map(region, region_len, extend)
    }

    fn shm_lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        self.inner.shm_lock(slots, how)
    }

    fn shm_barrier(&mut self) {
        self.inner.shm_barrier();
    }

    fn shm_unmap(&mut self, delete: bool) -> Result<()> {
        self.inner.shm_unmap(delete)
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        self.before_call();
        self.inner.fetch(offset, len)
    }

    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        self.inner.unfetch(offset)
    }

    fn close(mut self) -> Result<()> {
        let flush = self.tell(Connection::will_close).flatten();
        if let Some((database, replication)) = flush {
            // Not under our own lock; a failure shows in the next unlock, if it matters.
            let _ = self.inner.unlock(LockLevel::None);
            let flushed = fenced(|| replication.flush_within(&database, self.close_limit));
            if let Some(Err(reason)) = flushed {
                let db = database.path().display();
                tracing::warn!(%db, reason, "closed before everything was uploaded");
            }
        }
        // With it goes the connection's handle on the descriptor, which is to be closed now.
        self.role = Role::Unreplicated(Unreplicated::NotADatabase);
        self.inner.close()
    }
}
