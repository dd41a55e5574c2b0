//! In a forked process only: which databases it writes to itself, so that it leaves the journals and logs of its parent's transactions alone;
//! asked by `file` before it writes a journal or log, and by `vfs` before it opens or deletes one.
//!
//! SQLite in a child may hold what it takes for an open transaction, which is the parent's. If it rolls that back (closing the
//! connection is enough) it deletes the parent's journal; if it goes on, it writes into the parent's journal or log. Who writes these
//! legitimately holds RESERVED or more on the database, or slot 0 of its shared memory, with a lock of its own.
//!
//! In a process that was not forked, everything here is one comparison.

use crate::permissions::database_of;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use verneuil_dbfile::fork::generation;
use verneuil_dbfile::{ForkLocal, LockBytes, probe_locks};

/// How many connections of this process hold a write lock of their own, by database.
static WRITERS: ForkLocal<Mutex<HashMap<PathBuf, usize>>> = ForkLocal::new(Mutex::default);

fn writers() -> MutexGuard<'static, HashMap<PathBuf, usize>> {
    WRITERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Was this process forked since it first opened a database?
pub(crate) fn is_forked() -> bool {
    generation() != 0
}

/// While it lives, a connection of this process holds a write lock of its own on a database.
#[derive(Debug)]
pub(crate) struct WriterNote {
    database: PathBuf,
    generation: u64,
}

impl WriterNote {
    pub(crate) fn new(database: &Path) -> WriterNote {
        *writers().entry(database.to_owned()).or_default() += 1;
        WriterNote {
            database: database.to_owned(),
            generation: generation(),
        }
    }
}

impl Drop for WriterNote {
    fn drop(&mut self) {
        // An inherited one counts in the parent.
        if self.generation != generation() {
            return;
        }
        let mut writers = writers();
        if let Some(count) = writers.get_mut(&self.database) {
            *count -= 1;
            if *count == 0 {
                writers.remove(&self.database);
            }
        }
    }
}

/// Does this process write to the database itself?
pub(crate) fn writes_itself(database: &Path) -> bool {
    writers().contains_key(database)
}

/// Is this the journal of somebody else's transaction? Looks at the locks on the database beside it.
pub(crate) fn is_others_journal(journal: &Path, bytes: LockBytes) -> bool {
    if !is_forked() {
        return false;
    }
    let Some(database) = database_of(journal) else {
        return false;
    };
    if writes_itself(database) {
        return false;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    verneuil_dbfile::open(database, flags, 0)
        .and_then(|file| probe_locks(&*file, bytes))
        .is_ok_and(|locks| locks.reserved || locks.pending_or_exclusive())
}

/// What a refusal is logged with.
pub(crate) fn refusal() -> io::Error {
    io::Error::other("it belongs to a transaction that was open at a fork; reconnect in the child")
}
