//! Lock levels of an open file, through `locks`; called through `mod`.
//!
//! **Forked children.** A lock that an inherited descriptor seems to hold is the parent's. `verneuil-dbfile` opens each such descriptor
//! anew in the child, so that the parent's locks end with the parent; where it can't (no /proc), the two still share their locks,
//! and an unlock through it would drop the parent's. So a child never locks or unlocks through one:
//!
//! | the child asks for             | it gets                                                                                |
//! |--------------------------------|----------------------------------------------------------------------------------------|
//! | a lower level, fewer slots     | bookkeeping only                                                                       |
//! | a lock, holding nothing        | the file is opened again by its path; if it is the same, locks are taken on that         |
//! | a lock in WAL mode, holding SHARED but no slots: between transactions | the same, for the shared memory, too; SHARED is taken anew first |
//! | a lock in a transaction that was open at the fork | BUSY: the transaction is the parent's                                  |
//!
//! The inherited descriptor is left without an unlock, and closed when nobody holds a lock on the file. What a child may write is in
//! `forked`.

use super::{Descriptor, UnixFile};
use crate::forked::{WriterNote, is_forked};
use crate::locks::{LockFailure, Locks};
use nix::fcntl::OFlag;
use std::io;
use std::sync::Arc;
use verneuil_abi::{Code, LockLevel, Result};
use verneuil_dbfile::Pooled;

impl UnixFile {
    pub(super) fn raise_lock(&mut self, level: LockLevel) -> Result<()> {
        if self.parts.locks.is_none() || level <= self.lock_level() {
            return Ok(());
        }
        self.take_over_after_fork()?;
        // In WAL mode these are asked for by who believes to be the last connection, and will delete log and shared memory.
        // Whoever is attached has a SHARED lock that forbids it, unless a rogue close() in their process dropped it.
        if level > LockLevel::Shared && self.shm.as_ref().is_some_and(|shm| shm.is_shared()) {
            return Err(Code::BUSY);
        }
        let parts = &mut self.parts;
        let Some(locks) = &mut parts.locks else {
            return Ok(());
        };
        let result = locks.raise(&**parts.descriptor, level);
        self.note_writing();
        result.map_err(|failure| self.lock_failed(failure))
    }

    /// In a forked process: notes whether this connection holds a write lock of its own.
    pub(super) fn note_writing(&mut self) {
        if !is_forked() {
            return;
        }
        let by_level =
            !is_inherited(&self.parts.descriptor) && self.lock_level() >= LockLevel::Reserved;
        let by_slot = self
            .shm
            .as_ref()
            .is_some_and(|shm| !shm.is_inherited() && shm.holds_write_slot());
        match (by_level || by_slot, self.path()) {
            (true, Some(path)) if self.writer_note.is_none() => {
                self.writer_note = Some(WriterNote::new(path));
            }
            (true, Some(_)) => {}
            _ => self.writer_note = None,
        }
    }

    pub(super) fn lower_lock(&mut self, level: LockLevel) -> Result<()> {
        let parts = &mut self.parts;
        let Some(locks) = &mut parts.locks else {
            return Ok(());
        };
        if is_inherited(&parts.descriptor) {
            locks.forget(level);
            return Ok(());
        }
        let result = locks.lower(&**parts.descriptor, level);
        self.note_writing();
        result.map_err(|failure| self.lock_failed(failure))
    }

    pub(super) fn is_reserved_by_other(&mut self) -> Result<bool> {
        let Some(locks) = &self.parts.locks else {
            return Ok(false);
        };
        match locks.reserved_by_other(&**self.parts.descriptor) {
            Ok(held) => Ok(held),
            Err(errno) => {
                Err(self.failed(Code::IOERR_CHECKRESERVEDLOCK, "lock query", &errno.into()))
            }
        }
    }

    /// Remembers the cause of a lock that was not taken. BUSY is everyday life, not a failure.
    fn lock_failed(&mut self, failure: LockFailure) -> Code {
        if failure.code != Code::BUSY {
            return self.failed(failure.code, "lock", &failure.errno.into());
        }
        failure.code
    }

    /// Before a lock is taken: in a forked child, replaces inherited descriptors by own ones, if that can be done.
    ///
    /// # Errors
    /// `BUSY` in a transaction that is the parent's, `IOERR_LOCK`, `IOERR_SHMLOCK`; everything is as before.
    pub(super) fn take_over_after_fork(&mut self) -> Result<()> {
        let shm_is_inherited = self.shm.as_ref().is_some_and(|shm| shm.is_inherited());
        if !is_inherited(&self.parts.descriptor) && !shm_is_inherited {
            return Ok(());
        }
        let holds_slots = self.shm.as_ref().is_some_and(|shm| shm.holds_slots());
        let is_between_transactions = match self.lock_level() {
            LockLevel::None => true,
            LockLevel::Shared => self.shm.is_some(),
            _ => false,
        };
        if holds_slots || !is_between_transactions {
            return Err(Code::BUSY);
        }
        if is_inherited(&self.parts.descriptor) {
            self.reopen()?;
        }
        // Under SHARED nobody deletes log and shared memory: if this is still the same file, so is the log.
        if let Some(shm) = &mut self.shm
            && let Err(failure) = shm.take_over()
        {
            return Err(self.shm_failed(failure));
        }
        Ok(())
    }

    /// Opens the database once more, and takes the level that is held (SHARED at most) with the new descriptor.
    fn reopen(&mut self) -> Result<()> {
        let (own, locks) = match self.open_again() {
            Ok(Some(again)) => again,
            Ok(None) => return Ok(()),
            Err((code, error)) => {
                return Err(match error {
                    Some(error) => self.failed(code, "open again after a fork", &error),
                    None => code,
                });
            }
        };
        self.parts.locks = Some(locks);
        self.parts.descriptor = Arc::new(Descriptor::Database(own));
        Ok(())
    }

    #[allow(clippy::type_complexity)] // private, and taken apart at once
    fn open_again(
        &self,
    ) -> std::result::Result<Option<(Pooled, Locks)>, (Code, Option<io::Error>)> {
        let (Descriptor::Database(inherited), Some(path)) = (&*self.parts.descriptor, self.path())
        else {
            return Ok(None);
        };
        let access = if self.parts.is_writable {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let own = verneuil_dbfile::open(path, access | OFlag::O_NOFOLLOW, 0)
            .map_err(|error| (Code::IOERR_LOCK, Some(error)))?;
        if own.id() != inherited.id() {
            let error = io::Error::other("another file has taken its place; reconnect");
            return Err((Code::IOERR_LOCK, Some(error)));
        }
        let mut locks = Locks::new(self.lock_bytes());
        if self.lock_level() == LockLevel::Shared
            && let Err(failure) = locks.raise(&own, LockLevel::Shared)
        {
            let error = (failure.code != Code::BUSY).then(|| failure.errno.into());
            return Err((failure.code, error));
        }
        Ok(Some((own, locks)))
    }
}

fn is_inherited(descriptor: &Descriptor) -> bool {
    match descriptor {
        Descriptor::Database(pooled) => pooled.is_inherited(),
        Descriptor::Other(_) => false,
    }
}
