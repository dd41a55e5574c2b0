//! The spool's side of one connection: turns the hooks of `file` into calls of `verneuil-spool`'s `Writer`, and keeps whatever goes wrong
//! there away from SQLite. Sits in a `seat`; `locking` and `wal` say what it knows about SQLite's side.

use crate::locking::{Locking, Mode, Since};
use crate::seat::{self, Seat};
use crate::wal;
use crate::{Replication, ReplicationSetup};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use verneuil_abi::{Code, LockLevel, Result};
use verneuil_config::JournalWal;
use verneuil_dbfile::fork::generation;
use verneuil_dbfile::{LockBytes, journal_is_hot, journal_path};
use verneuil_spool::{Database, DatabaseInfo, Ended, Writer};
use verneuil_unix::SharedFile;

/// What it takes to connect a file to the spool, at open and once more in a forked child.
pub(crate) struct Link {
    pub(crate) setup: Arc<ReplicationSetup>,
    /// Canonical: the database's identity.
    pub(crate) path: PathBuf,
    /// The name that SQLite derives the journal's from.
    pub(crate) name: PathBuf,
    pub(crate) file: SharedFile,
    pub(crate) lock_bytes: LockBytes,
    pub(crate) seat: Weak<Seat>,
}

/// One connection to a replicated database.
pub(crate) struct Connection {
    link: Link,
    /// None in a forked child that has not written yet.
    live: Option<Live>,
    /// Of the process that `live` belongs to.
    generation: u64,
    locking: Locking,
    /// The file's header says so, as last read or written.
    is_wal: bool,
    /// If EXCLUSIVE is held, this process has taken it: it was not inherited in a fork.
    took_exclusive: bool,
    /// EXCLUSIVE was taken without RESERVED, as SQLite does to play back a hot journal.
    is_recovering: bool,
    has_told_wal: bool,
    pub(crate) flush_on_close: bool,
}

/// What belongs to one process.
struct Live {
    writer: Writer,
    /// Trouble that was logged already; each is logged once when it comes and once when it goes.
    known_trouble: Option<String>,
}

impl Link {
    fn connect(&self) -> Live {
        let setup = &self.setup;
        let info = DatabaseInfo {
            hostname: setup.hostname.clone(),
            targets: setup.targets.clone(),
        };
        let database = Database::open(&setup.spool, &self.path, info);
        database.set_lock_bytes(self.lock_bytes);
        setup.replication.serve(&database);
        seat::register(journal_path(&self.name), self.seat.clone());
        Live {
            writer: Writer::new(database),
            known_trouble: None,
        }
    }
}

impl Connection {
    pub(crate) fn new(link: Link) -> Connection {
        let mut connection = Connection {
            live: Some(link.connect()),
            generation: generation(),
            link,
            locking: Locking::new(),
            is_wal: false,
            took_exclusive: false,
            is_recovering: false,
            has_told_wal: false,
            flush_on_close: false,
        };
        connection.tell_trouble();
        connection
    }

    /// Has this connection written since the last end of a transaction?
    pub(crate) fn is_writing(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.writer.is_active())
    }

    /// Does the file's header say WAL?
    pub(crate) fn is_in_wal_mode(&self) -> bool {
        self.is_wal
    }

    /// May SQLite use WAL mode in normal locking mode?
    pub(crate) fn offers_wal(&self) -> bool {
        self.is_wal || self.link.setup.journal_wal == JournalWal::Unreplicated
    }

    /// Comes before everything else: what a forked child has inherited is its parent's, and is neither used nor dropped.
    fn enter(&mut self) {
        let here = generation();
        if self.generation != here {
            self.generation = here;
            std::mem::forget(self.live.take());
            self.locking = Locking::new();
            self.took_exclusive = false;
            self.is_recovering = false;
        }
    }

    /// The connection's side in this process.
    fn live(&mut self) -> &mut Live {
        let link = &self.link;
        let is_wal = self.is_wal;
        self.live.get_or_insert_with(|| {
            let live = link.connect();
            live.writer.database().set_wal(is_wal);
            live
        })
    }

    /// A call comes that is not part of the end of a transaction, and EXCLUSIVE is held.
    pub(crate) fn before_call(&mut self) {
        self.enter();
        match self.locking.since {
            Since::Open => {}
            Since::Ended => self.locking.mode = Mode::Exclusive,
            Since::Finished => {
                // No unlock came: the locking mode has changed unseen. The file is as the last call left it.
                self.end_here();
                self.locking.mode = Mode::Exclusive;
            }
        }
    }

    /// EXCLUSIVE was taken on top of this level. In a forked child the file may be another descriptor now.
    pub(crate) fn has_exclusive(&mut self, before: LockLevel, file: SharedFile) {
        self.enter();
        self.link.file = file;
        self.took_exclusive = true;
        self.is_recovering = before == LockLevel::Shared;
    }

    /// These bytes were read.
    pub(crate) fn has_read(&mut self, level: LockLevel, bytes: &[u8], offset: u64) {
        if level == LockLevel::Exclusive {
            self.before_call();
        }
        self.enter();
        self.see_header(bytes, offset);
    }

    /// A write is about to reach the file (writer steps 1–4).
    ///
    /// # Errors
    /// `READONLY` for the write that would switch a replicated database to WAL mode.
    pub(crate) fn will_write(&mut self, level: LockLevel, bytes: &[u8], offset: u64) -> Result<()> {
        if level == LockLevel::Exclusive {
            self.before_call();
        }
        self.enter();
        if level == LockLevel::Exclusive && !self.took_exclusive {
            // A forked child in a transaction of its parent's: the file refuses this write.
            return Ok(());
        }
        if !self.is_writing() {
            let says_wal = wal::says_wal(bytes, offset);
            if says_wal == Some(true) && self.refuses_switch(bytes) {
                self.tell_wal();
                return Err(Code::READONLY);
            }
            // In WAL mode the main file is written by checkpoints only, which are no transactions.
            let is_checkpoint = self.is_wal && says_wal != Some(false);
            if level < LockLevel::Exclusive || is_checkpoint {
                self.live().writer.database().note_missed();
                self.see_header(bytes, offset);
                return Ok(());
            }
            self.begin();
        }
        self.live().writer.will_write(offset, bytes.len() as u64);
        self.see_header(bytes, offset);
        Ok(())
    }

    /// A change of the file's length is about to happen (writer steps 1–4).
    ///
    /// Does not tell the locking mode: after a commit SQLite cuts the file, before the unlock if there is one.
    pub(crate) fn will_set_len(&mut self, level: LockLevel, len: u64) {
        self.enter();
        if level == LockLevel::Exclusive && !self.took_exclusive {
            return;
        }
        if !self.is_writing() {
            if level < LockLevel::Exclusive || self.is_wal {
                self.live().writer.database().note_missed();
                return;
            }
            self.begin();
        }
        self.live().writer.will_truncate(len);
    }

    fn begin(&mut self) {
        self.locking.begin();
        let is_leaving_wal = std::mem::take(&mut self.is_wal);
        let file = self.link.file.clone();
        let live = self.live();
        if is_leaving_wal {
            live.writer.database().set_wal(false);
            live.writer.begin_leaving_wal(&file);
        } else {
            live.writer.begin(&file);
        }
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: the transaction is committed, its journal finalised, the file cut to its length.
    pub(crate) fn is_committed(&mut self) {
        self.enter();
        self.finish();
    }

    /// The journal was deleted, emptied, or its header zeroed. A commit may be followed by a cut of the file, which is a small transaction of its
    /// own then, ended by [`Connection::is_committed`].
    pub(crate) fn journal_is_finished(&mut self) {
        self.enter();
        self.finish();
    }

    fn finish(&mut self) {
        if !self.is_writing() {
            return;
        }
        self.locking.since = Since::Finished;
        if self.locking.mode != Mode::Normal {
            self.end_here();
        }
    }

    /// The end of a transaction under EXCLUSIVE (writer steps 5–7). Its journal is known to be finalised.
    fn end_here(&mut self) {
        let file = self.link.file.clone();
        if let Some(live) = &mut self.live {
            let ended = live.writer.end(&file, || Ok(false));
            live.writer.keep_exclusive();
            let replication = &self.link.setup.replication;
            replication.has_ended(live.writer.database(), &file, ended);
        }
        self.locking.since = Since::Ended;
        self.is_recovering = false;
        self.tell_trouble();
    }

    /// EXCLUSIVE is about to be given up for `level`. If a transaction ends with it, says whether its journal is hot, to be handed to
    /// [`Connection::end`] after the downgrade.
    ///
    /// The journal is looked at under EXCLUSIVE: after the downgrade, the next writer's journal could be taken for ours.
    pub(crate) fn will_unlock(&mut self, level: LockLevel) -> Option<io::Result<bool>> {
        self.enter();
        self.is_recovering = false;
        let since = std::mem::replace(&mut self.locking.since, Since::Open);
        if level == LockLevel::Shared && since == Since::Ended {
            self.locking.mode = if self.locking.mode == Mode::Unknown {
                Mode::Normal
            } else {
                // It may have come a while after the end: the mode is being left, or was never in force.
                Mode::Unknown
            };
        }
        let live = self.live.as_mut()?;
        live.writer.release_exclusive();
        if !live.writer.is_active() {
            return None;
        }
        if level != LockLevel::Shared {
            // A failed roll-back, a connection that is torn down. Nothing is logged, and the odd epoch tells whoever comes next.
            Self::abandon(&self.link, live);
            return None;
        }
        Some(match since {
            Since::Finished => Ok(false),
            Since::Open | Since::Ended => journal_is_hot(&self.link.name),
        })
    }

    fn abandon(link: &Link, live: &mut Live) {
        if live.writer.is_active() {
            live.writer.abandon();
            let replication = &link.setup.replication;
            replication.has_ended(live.writer.database(), &link.file, Ended::Unspooled);
        }
    }

    /// The transaction is over and the lock is SHARED (writer steps 5–7).
    pub(crate) fn end(&mut self, journal_is_hot: io::Result<bool>) {
        let file = self.link.file.clone();
        if let Some(live) = &mut self.live {
            let ended = live.writer.end(&file, || journal_is_hot);
            let replication = &self.link.setup.replication;
            replication.has_ended(live.writer.database(), &file, ended);
        }
        self.locking.mode = Mode::Normal;
        self.tell_trouble();
    }

    /// The file is about to be closed; a transaction that has not ended is left to whoever comes next. If a flush was asked for, returns what it
    /// takes.
    pub(crate) fn will_close(&mut self) -> Option<(Arc<Database>, Arc<dyn Replication>)> {
        self.enter();
        seat::unregister(&journal_path(&self.link.name), &self.link.seat);
        let live = self.live.as_mut()?;
        Self::abandon(&self.link, live);
        live.writer.release_exclusive();
        let replication = &self.link.setup.replication;
        replication.has_closed(live.writer.database());
        self.flush_on_close.then(|| {
            (
                Arc::clone(live.writer.database()),
                Arc::clone(&self.link.setup.replication),
            )
        })
    }

    /// What a pragma needs: the database, who replicates it, and whether this connection is writing.
    pub(crate) fn for_pragma(&mut self) -> (Arc<Database>, Arc<dyn Replication>, bool) {
        self.enter();
        let is_writing = self.is_writing();
        let database = Arc::clone(self.live().writer.database());
        (
            database,
            Arc::clone(&self.link.setup.replication),
            is_writing,
        )
    }

    /// Whether the file that this connection has open is the one that is replicated.
    ///
    /// # Errors
    /// In words for the user: it was renamed, deleted or replaced.
    pub(crate) fn check_place(&mut self) -> std::result::Result<(), String> {
        self.enter();
        let file = self.link.file.clone();
        self.live().writer.check_place(&file)
    }

    /// Shall `PRAGMA journal_mode=WAL` keep the mode that the file is in?
    pub(crate) fn refuses_wal(&mut self) -> bool {
        self.enter();
        if self.offers_wal() {
            return false;
        }
        // Somebody else may have switched since the header was last read.
        let is_wal =
            verneuil_dbfile::read_header(&self.link.file).is_ok_and(|header| header.is_wal());
        if !is_wal {
            self.tell_wal();
        }
        !is_wal
    }

    /// In exclusive locking mode SQLite switches without asking for shared memory, and the pragma may have gone to a file of another VFS. In
    /// normal mode it has asked, and such a write is something else: a backup or a restore.
    fn refuses_switch(&self, page: &[u8]) -> bool {
        !self.offers_wal()
            && !self.is_recovering
            && self.locking.mode != Mode::Normal
            && wal::is_switch(&self.link.file, page)
    }

    fn tell_wal(&mut self) {
        if !std::mem::replace(&mut self.has_told_wal, true) {
            let db = self.link.path.display();
            tracing::error!(
                %db,
                "the journal mode stays as it is: WAL mode is not replicated yet; to use it without replication, set \
                 \"journal_wal\": \"unreplicated\" in the configuration"
            );
        }
    }

    /// Learns the journal mode from the first bytes of the file.
    fn see_header(&mut self, bytes: &[u8], offset: u64) {
        let Some(is_wal) = wal::says_wal(bytes, offset) else {
            return;
        };
        self.is_wal = is_wal;
        if let Some(live) = &self.live
            && live.writer.database().is_wal() != is_wal
        {
            live.writer.database().set_wal(is_wal);
            self.tell_trouble();
        }
    }

    /// Logs that replication stopped, or goes on.
    fn tell_trouble(&mut self) {
        let Some(live) = &mut self.live else { return };
        let trouble = live.writer.database().trouble();
        if trouble == live.known_trouble {
            return;
        }
        let db = live.writer.database().path().display();
        match &trouble {
            Some(reason) => {
                tracing::error!(%db, reason, "the database works on, but is not replicated")
            }
            None => tracing::warn!(%db, "the database is replicated again"),
        }
        live.known_trouble = trouble;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.enter();
    }
}

/// Runs the spool's code so that a bug in it can't fail SQLite's call: none after a panic.
///
/// Whoever gets none must stop tracking that connection. Nothing wrong is published then: the epoch stays odd, and the
/// change counter of the next commit differs from the last one that was spooled, which makes the copier read the whole
/// file (writer steps 1 and 2).
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
