//! Forked children of a test; used by `fork` and `fork_child`.
//!
//! Each test forks this process, which has threads: the tests run one after another, so that no lock of SQLite's or of ours is held by
//! somebody who doesn't exist in the child, except where a test means it.

use super::{Peer, answer, linux};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rusqlite::Connection;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forked child that waits for a byte before it acts, and says when it is done.
pub struct ForkedChild {
    /// Its process number.
    pub pid: nix::unistd::Pid,
    pipe: UnixStream,
}

impl ForkedChild {
    /// Forks. The child runs `body` once it is told to, and ends with whether it returned true.
    pub fn new(body: impl FnOnce() -> bool) -> ForkedChild {
        let (here, mut there) = UnixStream::pair().unwrap();
        // SAFETY: the child runs `body` and leaves by `_exit`. Nobody else uses SQLite or the pool now (see `alone`), and glibc makes
        // allocation safe in a forked child.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => ForkedChild {
                pid: child,
                pipe: here,
            },
            ForkResult::Child => {
                let told = there.read_exact(&mut [0]).is_ok();
                let done = told
                    && std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
                        .unwrap_or(false);
                // SAFETY: ends the process at once.
                unsafe { nix::libc::_exit(i32::from(!done)) }
            }
        }
    }

    /// Lets it act, and waits for its end.
    pub fn act(mut self) -> bool {
        self.pipe.write_all(&[1]).unwrap();
        matches!(waitpid(self.pid, None), Ok(WaitStatus::Exited(_, 0)))
    }
}

/// A database of one row, and a connection through `linux`.
pub fn database(dir: &Path, journal_mode: &str) -> (PathBuf, Connection) {
    let path = dir.join("x.db");
    let db = linux(&path);
    db.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(
        answer(&db, &format!("PRAGMA journal_mode={journal_mode}")),
        journal_mode
    );
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    (path, db)
}

/// Another process with a stock connection.
pub fn third_process(path: &Path) -> Peer {
    let mut other = Peer::start("unix", path);
    other.run("PRAGMA busy_timeout=0");
    other
}

/// How many rows there are.
pub fn count(db: &Connection) -> String {
    answer(db, "SELECT count(*) FROM t")
}

/// The answer of a lock that somebody else holds.
pub const BUSY: &str = "error 5";
