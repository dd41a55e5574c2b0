//! The spool's side of one connection: forwards the hooks of `file` to `verneuil-spool`'s `Writer`, and keeps
//! whatever goes wrong there away from SQLite.

use crate::Replication;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use verneuil_dbfile::journal_is_hot;
use verneuil_spool::{Database, Writer};

/// One connection to a replicated database.
pub(crate) struct Connection {
    writer: Writer,
    replication: Arc<dyn Replication>,
    /// The name that SQLite derives the journal's from.
    path: PathBuf,
    /// Trouble that was logged already; each is logged once when it comes and once when it goes.
    known_trouble: Option<String>,
}

impl Connection {
    pub(crate) fn new(
        database: Arc<Database>,
        replication: Arc<dyn Replication>,
        path: PathBuf,
    ) -> Connection {
        let mut connection = Connection {
            writer: Writer::new(database),
            replication,
            path,
            known_trouble: None,
        };
        connection.tell_trouble();
        connection
    }

    /// Has this connection written since the last end of a transaction?
    pub(crate) fn is_writing(&self) -> bool {
        self.writer.is_active()
    }

    /// A write is about to reach the file (writer steps 1–4).
    pub(crate) fn will_write(&mut self, file: &File, offset: u64, len: usize) {
        if !self.writer.is_active() {
            self.writer.begin(file);
        }
        self.writer.will_write(offset, len as u64);
    }

    /// A change of the file's length is about to happen (writer steps 1–4).
    pub(crate) fn will_set_len(&mut self, file: &File, len: u64) {
        if !self.writer.is_active() {
            self.writer.begin(file);
        }
        self.writer.will_truncate(len);
    }

    /// Looks, still under EXCLUSIVE, whether the transaction that ends now left its journal behind. Asked before the
    /// downgrade: after it, the next writer's journal could be taken for ours.
    pub(crate) fn journal_is_hot(&self) -> io::Result<bool> {
        journal_is_hot(&self.path)
    }

    /// The transaction is over and the lock is SHARED (writer steps 5–7).
    pub(crate) fn end(&mut self, file: &File, journal_is_hot: io::Result<bool>) {
        self.writer.end(file, || journal_is_hot);
        self.tell_trouble();
    }

    /// The write lock goes away without an end: a failed roll-back, a connection that is torn down. Nothing is logged,
    /// and the odd epoch tells whoever comes next.
    pub(crate) fn abandon(&mut self) {
        self.writer.abandon();
    }

    /// Uploads what is committed.
    pub(crate) fn flush(&self) -> Result<(), String> {
        self.replication.flush(self.writer.database())
    }

    /// Logs that replication stopped, or goes on.
    fn tell_trouble(&mut self) {
        let trouble = self.writer.database().trouble();
        if trouble == self.known_trouble {
            return;
        }
        let db = self.writer.database().path().display();
        match &trouble {
            Some(reason) => {
                tracing::error!(%db, reason, "the database works on, but is not replicated")
            }
            None => tracing::warn!(%db, "the database is replicated again"),
        }
        self.known_trouble = trouble;
    }
}

/// Runs the spool's code so that a bug in it can't fail SQLite's call: none after a panic.
///
/// Whoever gets none must stop tracking that connection. Nothing wrong is published then: the epoch stays odd, and the
/// change counter of the next commit differs from the last one that was spooled, which makes the copier read the whole
/// file (writer steps 1 and 3).
pub(crate) fn fenced<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(panic) => {
            std::mem::forget(panic);
            tracing::error!(
                "bug: a panic in the spool; this connection is not replicated any more"
            );
            None
        }
    }
}
