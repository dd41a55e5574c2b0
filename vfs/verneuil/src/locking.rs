//! Which locking mode a connection is in, which SQLite does not tell: learned from what follows the end of a transaction. Kept by
//! `connection`.
//!
//! In normal locking mode SQLite unlocks to SHARED as soon as a journal is finalised, the file cut to its length and
//! `SQLITE_FCNTL_COMMIT_PHASETWO` sent (for commits). In `locking_mode=EXCLUSIVE` no unlock comes; the next call is one of the next
//! transaction, or a read, at any later time.
//!
//! | mode      | a finished transaction ends                                       | learned when                               |
//! |-----------|-------------------------------------------------------------------|--------------------------------------------|
//! | Unknown   | at once, under EXCLUSIVE                                          | at the start; after a `PRAGMA locking_mode` |
//! | Normal    | after the downgrade that follows, so that others may read         | a downgrade followed the last end          |
//! | Exclusive | at once, under EXCLUSIVE                                          | any other call followed                    |
//!
//! A connection that was Normal and is followed by another call than the downgrade ends its transaction late, at that call: nothing can have
//! changed in between.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often a `PRAGMA locking_mode` was seen in this process, on any file: it may change the mode of every database of its connection.
static PRAGMAS: AtomicU64 = AtomicU64::new(0);

/// A `PRAGMA locking_mode` was seen.
pub(crate) fn pragma_was_seen() {
    PRAGMAS.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Unknown,
    Normal,
    Exclusive,
}

/// What happened to the last transaction since EXCLUSIVE was taken or that transaction began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// It goes on, or there is none.
    Open,
    /// Its journal is finalised, or SQLite said that it is committed.
    Finished,
    /// It was ended under EXCLUSIVE, which is still held.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Locking {
    pub(crate) mode: Mode,
    pub(crate) since: Since,
    pragmas: u64,
}

impl Locking {
    pub(crate) fn new() -> Locking {
        Locking {
            mode: Mode::Unknown,
            since: Since::Open,
            pragmas: PRAGMAS.load(Ordering::Relaxed),
        }
    }

    /// A transaction begins.
    pub(crate) fn begin(&mut self) {
        let pragmas = PRAGMAS.load(Ordering::Relaxed);
        if self.pragmas != pragmas {
            self.pragmas = pragmas;
            self.mode = Mode::Unknown;
        }
        self.since = Since::Open;
    }
}
