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
//! connection, in this process or another, with either kind of lock.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
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

/// The kinds of lock that the kernel knows.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Unlock,
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
        let mut probe = flock(Kind::Write, self.reserved());
        fcntl(fd, FcntlArg::F_OFD_GETLK(&mut probe))?;
        Ok(i32::from(probe.l_type) != libc::F_UNLCK)
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

/// One non-blocking change of the locks on `len` bytes from `start`; 0 bytes are all bytes.
fn set(fd: &impl AsFd, kind: Kind, range: (u64, u64)) -> Result<(), Errno> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&flock(kind, range))).map(drop)
}

#[allow(clippy::cast_possible_truncation)] // constants of the C header, all below ten
fn flock(kind: Kind, (start, len): (u64, u64)) -> libc::flock {
    let kind = match kind {
        Kind::Read => libc::F_RDLCK,
        Kind::Write => libc::F_WRLCK,
        Kind::Unlock => libc::F_UNLCK,
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.cast_signed(),
        l_len: len.cast_signed(),
        // Must be 0 for OFD locks.
        l_pid: 0,
    }
}

/// The code for a lock that was not taken: the same errnos mean "busy" as in `unix`.
fn not_taken(errno: Errno) -> LockFailure {
    let code = match errno {
        Errno::EACCES
        | Errno::EAGAIN
        | Errno::ETIMEDOUT
        | Errno::EBUSY
        | Errno::EINTR
        | Errno::ENOLCK => Code::BUSY,
        Errno::EPERM => Code::PERM,
        _ => Code::IOERR_LOCK,
    };
    LockFailure { code, errno }
}

fn unlock_failed(errno: Errno) -> LockFailure {
    LockFailure {
        code: Code::IOERR_UNLOCK,
        errno,
    }
}
