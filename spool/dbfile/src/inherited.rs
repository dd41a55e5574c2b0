//! Descriptors that a forked child gets from its parent, opened anew before the child does anything else: called by the handler of `fork`, told
//! by `pool`, and by whoever makes an [`Unshared`], which ones there are.
//!
//! A descriptor and its inherited copy are one open file, and OFD locks last until the last copy is closed. A parent that is killed in the
//! midst of a transaction would leave its locks to children that know nothing of them. So the child replaces each copy, under its
//! number, by a fresh one of the same file, without locks.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

/// Descriptors from this number on are not noted, and stay the parent's in a child: the table takes 8 KiB, and few programs are
/// allowed more.
const MAX_NOTED: usize = 65_536;

/// A bit for each descriptor. A fixed table, because a handler must neither lock nor allocate.
static NOTED: [AtomicU64; MAX_NOTED / 64] = [const { AtomicU64::new(0) }; MAX_NOTED / 64];

fn place_of(fd: c_int) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((NOTED.get(fd / 64)?, 1 << (fd % 64)))
}

/// Notes a descriptor that was opened.
pub(crate) fn note(fd: c_int) {
    if let Some((word, bit)) = place_of(fd) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// Forgets a descriptor that is about to be closed.
pub(crate) fn forget(fd: c_int) {
    if let Some((word, bit)) = place_of(fd) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// A file whose locks end with this process: a forked child gets a descriptor of the same file without them. For lock files; a database's
/// descriptors are the pool's.
#[derive(Debug)]
pub struct Unshared(File);

impl Unshared {
    /// Before any lock is taken through it.
    pub fn new(file: File) -> Self {
        // The handler must be there.
        crate::fork::generation();
        note(file.as_raw_fd());
        Self(file)
    }
}

impl Deref for Unshared {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        forget(self.0.as_raw_fd());
    }
}

/// Replaces each noted descriptor by one of its own for this process. One that can't be opened (there is no /proc, or it is not allowed
/// any more) stays the parent's.
///
/// Nothing but atomics and system calls: it runs in a forked child of a process with threads.
pub(crate) fn reopen_all() {
    for (index, word) in NOTED.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != 0 {
            let fd = index * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            reopen(fd);
        }
    }
}

fn reopen(fd: usize) {
    let path = proc_path(fd);
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // below MAX_NOTED
    let fd = fd as c_int;
    // SAFETY: system calls on a descriptor of this process, with a path that ends with a NUL. The child has no other thread that could
    // use the descriptor meanwhile, and no POSIX locks yet that a close could drop. errno is put back, because fork() has succeeded.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags >= 0 {
            let access = flags & libc::O_ACCMODE;
            // O_NONBLOCK: whatever was opened as a database, don't wait for it.
            let quiet = libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
            let own = libc::open(path.as_ptr(), access | quiet);
            if own >= 0 {
                libc::dup3(own, fd, libc::O_CLOEXEC);
                libc::close(own);
            }
        }
        *libc::__errno_location() = errno;
    }
}

/// `/proc/self/fd/<fd>`, without allocating.
fn proc_path(fd: usize) -> [c_char; 24] {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut path = [0; 24];
    for (to, from) in path.iter_mut().zip(PREFIX) {
        *to = from.cast_signed();
    }
    let digits = fd.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = fd;
    for to in path[PREFIX.len()..PREFIX.len() + digits].iter_mut().rev() {
        *to = b'0'.cast_signed() + (rest % 10) as c_char;
        rest /= 10;
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Five seconds of looks.
    const LOOKS_MAX: u32 = 1_000;

    #[test]
    fn a_child_has_no_part_in_the_lock_of_a_file_that_is_not_shared() {
        use nix::sys::wait::waitpid;
        use nix::unistd::{ForkResult, fork};
        use std::io::{Read, Write};
        use std::os::unix::net::UnixStream;
        use std::time::Duration;
        let path = std::env::temp_dir().join(format!("verneuil-unshared-{}", std::process::id()));
        let create = || {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let held = Unshared::new(create().unwrap());
        held.try_lock().unwrap();
        let (mut here, mut there) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls only, and leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop(here);
                // Has its own descriptors by now; lives until its parent hangs up.
                let status = there.write_all(&[1]).and_then(|()| there.read(&mut [0]));
                let status = i32::from(status.is_err());
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                drop(there);
                here.read_exact(&mut [0]).unwrap();
                // As if the parent were killed: closed without an unlock.
                let other = create().unwrap();
                assert!(other.try_lock().is_err());
                drop(held);
                // A child of another test, just forked, may not have its own descriptors yet.
                let mut free = other.try_lock();
                for _ in 0..LOOKS_MAX {
                    if free.is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                    free = other.try_lock();
                }
                drop(here);
                waitpid(child, None).unwrap();
                std::fs::remove_file(&path).unwrap();
                free.unwrap();
            }
        }
    }

    #[test]
    fn paths_of_descriptors_are_spelled_out() {
        for fd in [0, 3, 10, 99, 100, 65_535] {
            let path = proc_path(fd);
            let text: Vec<u8> = path
                .iter()
                .take_while(|byte| **byte != 0)
                .map(|byte| byte.cast_unsigned())
                .collect();
            assert_eq!(text, format!("/proc/self/fd/{fd}").into_bytes());
        }
    }

    #[test]
    fn descriptors_beyond_the_table_are_left_alone() {
        assert!(place_of(65_535).is_some());
        assert!(place_of(65_536).is_none() && place_of(-1).is_none());
    }
}
