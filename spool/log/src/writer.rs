//! The write side of one connection: hooks that `verneuil-tracking` calls from sqlite's file methods. `transaction` does the work.
//!
//! Nothing here can fail or delay the application. Whatever goes wrong leaves a state that repairs itself: chunks in `todo`, or dirty bits
//! with an odd epoch; [`Database::trouble`] says what it was.
//!
//! A writer that a forked child has inherited must be forgotten there, not dropped: it is its parent's.

use std::fs::File;
use std::io;
use std::sync::Arc;

use verneuil_dbfile::fork::generation;

use crate::database::Database;
use crate::error::SpoolError;
use crate::place::Place;
use crate::transaction::Transaction;

/// A record buffer of at most this size is kept for the next transaction.
const KEPT_BUFFER_LEN_BYTES: usize = 1 << 20;

/// How [`Writer::end`] left a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was none.
    Nothing,
    /// Its record is in the log, or its chunks are to do.
    Spooled,
    /// It could not be spooled, or is left as if its writer had died: whoever comes next repairs that.
    Unspooled,
}

/// Follows the transactions of one connection. One call at a time, from any thread.
#[derive(Debug)]
pub struct Writer {
    database: Arc<Database>,
    /// Where the connection's file was when it first wrote.
    place: Option<Place>,
    state: State,
    /// `exclusive_pid` of the control page is ours.
    is_exclusive_owner: bool,
    buffer: Vec<u8>,
    /// Of the process that made it.
    generation: u64,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A transaction is going on that can't be spooled.
    Passive,
    Active(Box<Transaction>),
}

impl Writer {
    /// A writer for one connection to `database`.
    pub fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            place: None,
            state: State::Idle,
            is_exclusive_owner: false,
            buffer: Vec::new(),
            generation: generation(),
        }
    }

    /// The database that it writes.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Whether a transaction has begun and neither ended nor been abandoned.
    pub fn is_active(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Whether the connection's file is the one behind its name: what is written into another one is replicated by nobody.
    ///
    /// # Errors
    /// In words: it was renamed, deleted or replaced.
    pub fn check_place(&self, file: &File) -> Result<(), String> {
        let path = self.database.path();
        let place = match self.place {
            Some(place) => place,
            None => Place::of(file, path).map_err(|error| error.to_string())?,
        };
        place.check(file, path).map(drop)
    }

    /// The first `xWrite` or `xTruncate` of a transaction, under EXCLUSIVE, before it reaches the file (writer steps 1 to 3).
    pub fn begin(&mut self, file: &File) {
        self.begin_from(file, false);
    }

    /// The same for the transaction that takes the database out of WAL mode: the write-ahead log has been copied into the file, and its
    /// last page with a WAL header is about to be written over.
    pub fn begin_leaving_wal(&mut self, file: &File) {
        self.database.note_missed();
        self.begin_from(file, true);
    }

    fn begin_from(&mut self, file: &File, is_leaving_wal: bool) {
        debug_assert!(!self.is_active());
        self.state = match self.try_begin(file, is_leaving_wal) {
            Ok(Some(transaction)) => State::Active(Box::new(transaction)),
            Ok(None) => State::Passive,
            Err(text) => {
                self.database.note_trouble(text);
                State::Passive
            }
        };
        if matches!(self.state, State::Passive) {
            self.database.note_missed();
        }
    }

    fn try_begin(
        &mut self,
        file: &File,
        is_leaving_wal: bool,
    ) -> Result<Option<Transaction>, String> {
        let place = match self.place {
            Some(place) => place,
            None => Place::of(file, self.database.path()).map_err(|error| error.to_string())?,
        };
        self.place = Some(place);
        Transaction::begin(&self.database, file, place, is_leaving_wal)
    }

    /// Before a write of `len` bytes at `offset` reaches the file (step 4).
    pub fn will_write(&mut self, offset: u64, len: u64) {
        if let State::Active(transaction) = &mut self.state {
            transaction.will_write(offset, len);
        }
    }

    /// Before the file is cut *or extended* to `new_len` bytes (step 4).
    pub fn will_truncate(&mut self, new_len: u64) {
        if let State::Active(transaction) = &mut self.state {
            transaction.will_truncate(new_len);
        }
    }

    /// The end of the transaction, after the downgrade from EXCLUSIVE to SHARED and before SHARED is released, or while EXCLUSIVE is kept and
    /// before the next write (steps 5 to 7). Does nothing unless the writer is active. `journal_hot` says whether a journal with content is
    /// left; nothing is logged then.
    pub fn end(&mut self, file: &File, journal_hot: impl FnOnce() -> io::Result<bool>) -> Ended {
        let transaction = match std::mem::replace(&mut self.state, State::Idle) {
            State::Active(transaction) => transaction,
            State::Passive => return Ended::Unspooled,
            State::Idle => return Ended::Nothing,
        };
        match journal_hot() {
            Ok(false) => {}
            Ok(true) => {
                transaction.abandon();
                return Ended::Unspooled;
            }
            Err(error) => {
                let path = verneuil_dbfile::journal_path(self.database.path());
                self.database
                    .note_trouble(SpoolError::io("look at", &path)(error).to_string());
                transaction.abandon();
                return Ended::Unspooled;
            }
        }
        let ended = transaction.end(file, &mut self.buffer);
        if self.buffer.capacity() > KEPT_BUFFER_LEN_BYTES {
            self.buffer = Vec::new();
        }
        self.database.wake();
        ended
    }

    /// After an end under EXCLUSIVE: the lock is kept, and hides nothing until the next transaction begins.
    pub fn keep_exclusive(&mut self) {
        if let Some(folder) = self.database.folder() {
            folder.control.set_exclusive_owner(self.database.pid());
            self.is_exclusive_owner = true;
        }
    }

    /// Before EXCLUSIVE is released.
    pub fn release_exclusive(&mut self) {
        if std::mem::take(&mut self.is_exclusive_owner)
            && let Some(folder) = self.database.folder()
        {
            folder.control.set_exclusive_owner(0);
        }
    }

    /// The lock goes from a write lock straight to NONE, or the journal could not be finalised: logs nothing and leaves the dirty bits and
    /// the odd epoch as they are. Does nothing unless the writer is active.
    pub fn abandon(&mut self) {
        if let State::Active(transaction) = std::mem::replace(&mut self.state, State::Idle) {
            transaction.abandon();
            // What was written may stay (a journal that vanished later): the copier looks.
            self.database.wake();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.generation != generation() {
            // The parent's transaction goes on there.
            std::mem::forget(std::mem::replace(&mut self.state, State::Idle));
            std::mem::forget(self.database.clone());
            return;
        }
        self.release_exclusive();
        self.abandon();
    }
}
