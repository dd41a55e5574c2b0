//! One change of one byte-range lock of an open file (OFD): what `locks` and `shm` are made of.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::os::fd::AsFd;
use verneuil_abi::Code;

/// The kinds of lock that the kernel knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    Unlock,
}

/// One non-blocking change of the locks on `len` bytes from `start`; 0 bytes are all bytes.
pub(crate) fn set(fd: &impl AsFd, kind: Kind, range: (u64, u64)) -> Result<(), Errno> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&flock(kind, range))).map(drop)
}

/// What somebody else holds on those bytes: one of their locks, or `Unlock` if there is none.
pub(crate) fn held_by_others(fd: &impl AsFd, range: (u64, u64)) -> Result<Kind, Errno> {
    let mut probe = flock(Kind::Write, range);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(match i32::from(probe.l_type) {
        libc::F_UNLCK => Kind::Unlock,
        libc::F_RDLCK => Kind::Read,
        _ => Kind::Write,
    })
}

/// The code for a lock that was not taken: the same errnos mean "busy" as in `unix`.
pub(crate) fn code_of(errno: Errno, otherwise: Code) -> Code {
    match errno {
        Errno::EACCES
        | Errno::EAGAIN
        | Errno::ETIMEDOUT
        | Errno::EBUSY
        | Errno::EINTR
        | Errno::ENOLCK => Code::BUSY,
        Errno::EPERM => Code::PERM,
        _ => otherwise,
    }
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
