//! SQLite's five lock levels as locks on byte ranges, taken and released exactly as `unix` does; used by
//! `file`.
//!
//! | from → to              | system calls, in order (R read lock, W write lock, U unlock)          | when one fails   |
//! |------------------------|-----------------------------------------------------------------------|------------------|
//! | NONE → SHARED          | R pending; R shared range; U pending                                  | stays NONE       |
//! | SHARED → RESERVED      | W reserved                                                            | stays SHARED     |
//! | RESERVED → EXCLUSIVE   | W pending (now PENDING); W shared range                               | RESERVED/PENDING |
//! | PENDING → EXCLUSIVE    | W shared range                                                        | stays PENDING    |
//! | SHARED → EXCLUSIVE     | W shared range (hot journal: two recoverers must not block each other with PENDING) | stays SHARED |
//! | above SHARED → SHARED  | R shared range; U pending and reserved                                | level unchanged  |
//! | above SHARED → NONE    | U pending and reserved; U everything                                  | see below        |
//! | SHARED → NONE          | U everything                                                          | NONE             |
//!
//! SQLite never asks for PENDING: it is what remains when the step to EXCLUSIVE fails because readers are still there,
//! and it keeps new ones out until the next attempt.
//!
//! `unix` takes POSIX locks, which belong to a process, and counts its own connections by inode. These are OFD locks,
//! which belong to an open file: each connection is alone, needs no table of inodes, and conflicts with every other
//! connection, in this process or another, with either kind of lock. What a forked child may do with them is in `file/inherited`.

use crate::ofd::{Kind, code_of, held_by_others, set};
use nix::errno::Errno;
use std::os::fd::AsFd;
use verneuil_abi::{Code, LockLevel};
use verneuil_dbfile::LockBytes;

/// What one connection holds on one database file.
#[derive(Debug)]
pub struct Locks {
    bytes: LockBytes,
    level: LockLevel,
}

/// A lock that could not be taken or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockFailure {
    /// What SQLite is told.
    pub code: Code,
    /// What the kernel said.
    pub errno: Errno,
}

impl Locks {
    /// No lock, on a file whose lock bytes are `bytes`.
    #[must_use]
    pub const fn new(bytes: LockBytes) -> Locks {
        Locks {
            bytes,
            level: LockLevel::None,
        }
    }

    /// Where the lock bytes are.
    #[must_use]
    pub const fn bytes(&self) -> LockBytes {
        self.bytes
    }

    /// Writes down a lower level without any system call: the locks were another process's, or are gone with their descriptor.
    pub fn forget(&mut self, level: LockLevel) {
        self.level = self.level.min(level);
    }

    /// The level held.
    #[must_use]
    pub const fn level(&self) -> LockLevel {
        self.level
    }

    /// Raises the level; see the table above.
    ///
    /// # Errors
    /// `BUSY` when somebody's lock is in the way, `IOERR_LOCK` or `IOERR_UNLOCK` otherwise.
    pub fn raise(&mut self, fd: &impl AsFd, level: LockLevel) -> Result<(), LockFailure> {
        if level <= self.level {
            return Ok(());
        }
        match level {
            LockLevel::Shared => self.take_shared(fd)?,
            LockLevel::Reserved => {
                set(fd, Kind::Write, self.reserved()).map_err(not_taken)?;
            }
            LockLevel::Exclusive => {
                if self.level == LockLevel::Reserved {
                    set(fd, Kind::Write, self.pending()).map_err(not_taken)?;
                    self.level = LockLevel::Pending;
                }
                set(fd, Kind::Write, self.shared()).map_err(not_taken)?;
            }
            LockLevel::None | LockLevel::Pending => {
                return Err(LockFailure {
                    code: Code::MISUSE,
                    errno: Errno::EINVAL,
                });
            }
        }
        self.level = level;
        Ok(())
    }

    fn take_shared(&mut self, fd: &impl AsFd) -> Result<(), LockFailure> {
        // PENDING is only passed through: who holds it for writing lets no new reader in.
        set(fd, Kind::Read, self.pending()).map_err(not_taken)?;
        let shared = set(fd, Kind::Read, self.shared()).map_err(not_taken);
        let passed = set(fd, Kind::Unlock, self.pending()).map_err(unlock_failed);
        shared.and(passed)
    }

    /// Lowers the level to `Shared` or `None`; see the table above.
    ///
    /// # Errors
    /// `IOERR_RDLOCK` or `IOERR_UNLOCK`; the level is what it was, except that it is `None` after a failure of the
    /// last step.
    pub fn lower(&mut self, fd: &impl AsFd, level: LockLevel) -> Result<(), LockFailure> {
        if self.level <= level {
            return Ok(());
        }
        if self.level > LockLevel::Shared {
            if level == LockLevel::Shared {
                // A write lock of ours becomes a read lock in one step: nobody can come between. BUSY would confuse
                // SQLite here.
                set(fd, Kind::Read, self.shared()).map_err(|errno| LockFailure {
                    code: Code::IOERR_RDLOCK,
                    errno,
                })?;
            }
            set(fd, Kind::Unlock, (self.bytes.pending(), 2)).map_err(unlock_failed)?;
        }
        self.level = level;
        if level == LockLevel::None {
            set(fd, Kind::Unlock, (0, 0)).map_err(unlock_failed)?;
        }
        Ok(())
    }

    /// Does anybody else hold RESERVED or more?
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reserved_by_other(&self, fd: &impl AsFd) -> Result<bool, Errno> {
        Ok(held_by_others(fd, self.reserved())? != Kind::Unlock)
    }

    fn pending(&self) -> (u64, u64) {
        (self.bytes.pending(), 1)
    }

    fn reserved(&self) -> (u64, u64) {
        (self.bytes.reserved(), 1)
    }

    fn shared(&self) -> (u64, u64) {
        (self.bytes.shared_first(), LockBytes::SHARED_LEN)
    }
}

fn not_taken(errno: Errno) -> LockFailure {
    LockFailure {
        code: code_of(errno, Code::IOERR_LOCK),
        errno,
    }
}

fn unlock_failed(errno: Errno) -> LockFailure {
    LockFailure {
        code: Code::IOERR_UNLOCK,
        errno,
    }
}
