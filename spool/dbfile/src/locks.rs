//! The bytes on which sqlite's processes meet, and how to see who holds them without taking a lock.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Where sqlite's lock bytes are. A value and not a constant, because sqlite's own test builds move the PENDING byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockBytes {
    pending_byte: u64,
}

impl LockBytes {
    /// Length of the SHARED range in bytes.
    pub const SHARED_LEN: u64 = 510;

    /// Lock bytes that begin at `pending_byte` (0x4000_0000 in every sqlite but its test builds).
    pub const fn at(pending_byte: u64) -> Self {
        Self { pending_byte }
    }
    /// Offset of the PENDING byte.
    pub const fn pending(self) -> u64 {
        self.pending_byte
    }
    /// Offset of the RESERVED byte.
    pub const fn reserved(self) -> u64 {
        self.pending_byte + 1
    }
    /// Offset of the first byte of the SHARED range.
    pub const fn shared_first(self) -> u64 {
        self.pending_byte + 2
    }
}

impl Default for LockBytes {
    fn default() -> Self {
        Self::at(0x4000_0000)
    }
}

/// Which write locks *other* open files hold on a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockState {
    /// Somebody is about to write, and lets no new reader in.
    pub pending: bool,
    /// Somebody has announced a write; the file still holds the last committed state.
    pub reserved: bool,
    /// Somebody may be writing the file.
    pub exclusive: bool,
    /// Process that holds the lock which was found first; `None` for locks of open files (OFD), whose holder the kernel doesn't name.
    pub holder_pid: Option<i32>,
}

impl LockState {
    /// Whether the file may be in the middle of a change: PENDING or EXCLUSIVE is held.
    pub fn pending_or_exclusive(&self) -> bool {
        self.pending || self.exclusive
    }
}

/// Asks who holds write locks, as seen from `fd` (locks taken through `fd` itself don't count). One system call when nobody does.
///
/// # Errors
/// When the kernel or the file system doesn't answer `F_OFD_GETLK`; nothing is known then.
pub fn probe_locks(fd: impl AsFd, bytes: LockBytes) -> io::Result<LockState> {
    let fd = fd.as_fd();
    // A probe for reading conflicts with write locks only, which is what RESERVED, PENDING and EXCLUSIVE are.
    let all = (bytes.pending(), 2 + LockBytes::SHARED_LEN);
    let Some(first) = conflict(fd, libc::F_RDLCK, all)? else {
        return Ok(LockState::default());
    };
    // GETLK tells about one lock only: ask for each byte range by itself.
    Ok(LockState {
        pending: conflict(fd, libc::F_RDLCK, (bytes.pending(), 1))?.is_some(),
        reserved: conflict(fd, libc::F_RDLCK, (bytes.reserved(), 1))?.is_some(),
        exclusive: conflict(
            fd,
            libc::F_RDLCK,
            (bytes.shared_first(), LockBytes::SHARED_LEN),
        )?
        .is_some(),
        holder_pid: (first.l_pid > 0).then_some(first.l_pid),
    })
}

/// Whether anybody but `fd` itself holds any lock on any byte of the file.
///
/// # Errors
/// When the kernel or the file system doesn't answer `F_OFD_GETLK`.
pub fn probe_any_lock(fd: impl AsFd) -> io::Result<bool> {
    Ok(conflict(fd.as_fd(), libc::F_WRLCK, (0, 0))?.is_some())
}

/// The first lock that a lock of `kind` on `(start, len)` would meet; a length of 0 means "to the end of all files".
fn conflict(
    fd: impl AsFd,
    kind: libc::c_int,
    (start, len): (u64, u64),
) -> io::Result<Option<libc::flock>> {
    let mut probe = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(start).map_err(io::Error::other)?,
        l_len: i64::try_from(len).map_err(io::Error::other)?,
        l_pid: 0,
    };
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok((probe.l_type != libc::F_UNLCK as libc::c_short).then_some(probe))
}
