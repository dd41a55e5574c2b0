//! [`TrackedFile`]: an open file of the `verneuil` VFS; every call goes to `verneuil-unix`, and those that change a
//! replicated database or end its transactions are told to `connection` first or after.
//!
//! | SQLite calls                    | the spool hears                                                             |
//! |---------------------------------|-----------------------------------------------------------------------------|
//! | xWrite, xTruncate, SIZE_HINT    | begin, if the transaction is new; what will change; *then* the file changes  |
//! | xUnlock(SHARED) from EXCLUSIVE  | end, *after* the downgrade: readers may go on meanwhile                     |
//! | xUnlock(NONE) from EXCLUSIVE    | abandon                                                                     |
//! | xClose in a transaction         | abandon                                                                     |
//!
//! Commits, roll-backs after a spill and recoveries of hot journals all go through the same three hooks. A transaction
//! that wrote nothing is never heard of.

use crate::connection::{Connection, fenced};
use crate::pragma;
use std::ffi::c_int;
use std::fmt;
use std::fs::File as StdFile;
use verneuil_abi::{
    DeviceCharacteristics, File, FileControl, LockLevel, Mapped, Result, ShmLock, ShmRegion,
    ShmSlots, SyncFlags,
};
use verneuil_unix::UnixFile;

/// Why a file is not replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreplicated {
    /// The configuration names no spool or no target.
    NotConfigured,
    /// A journal, a temporary file.
    NotADatabase,
    /// A device or the like.
    NotARegularFile,
    /// The connection can't write.
    ReadOnly,
    /// The connection's URI says so.
    ByParameter(&'static str),
    /// The code that tracks it panicked.
    Bug,
}

impl fmt::Display for Unreplicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreplicated::NotConfigured => f.write_str(
                "the configuration (VERNEUIL_CONFIG) has no replication_spooling_dir or no writable replication_targets",
            ),
            Unreplicated::NotADatabase => f.write_str("it is not a main database"),
            Unreplicated::NotARegularFile => f.write_str("it is not a regular file"),
            Unreplicated::ReadOnly => f.write_str("this connection is read-only"),
            Unreplicated::ByParameter(name) => write!(f, "this connection's URI has {name}=1"),
            Unreplicated::Bug => f.write_str("Verneuil's own code failed (see the log); reopen the connection"),
        }
    }
}

/// An open file.
pub struct TrackedFile {
    inner: UnixFile,
    connection: std::result::Result<Connection, Unreplicated>,
}

impl TrackedFile {
    pub(crate) fn new(
        inner: UnixFile,
        connection: std::result::Result<Connection, Unreplicated>,
    ) -> TrackedFile {
        TrackedFile { inner, connection }
    }

    /// Tells the connection, if there is one.
    fn tell(&mut self, hook: impl FnOnce(&mut Connection, &StdFile)) {
        let TrackedFile { inner, connection } = self;
        if let Ok(replicated) = connection
            && fenced(|| hook(replicated, inner.file())).is_none()
        {
            *connection = Err(Unreplicated::Bug);
        }
    }

    fn is_writing(&self) -> bool {
        self.connection.as_ref().is_ok_and(Connection::is_writing)
    }

    /// The end of a transaction that wrote, by way of a downgrade to SHARED (writer steps 5–7).
    fn end_transaction(&mut self) -> Result<()> {
        let mut journal = None;
        self.tell(|connection, _| journal = Some(connection.journal_is_hot()));
        // Without the downgrade there is no end: SQLite will try again, or give up the lock.
        self.inner.unlock(LockLevel::Shared)?;
        if let Some(journal) = journal {
            self.tell(|connection, file| connection.end(file, journal));
        }
        Ok(())
    }

    fn size_hint(&mut self, hint: i64) -> Result<()> {
        if self.connection.is_ok()
            && let Some(len) = self.inner.len_after_hint(hint)?
        {
            if self.inner.lock_level() < LockLevel::Exclusive {
                // A hint may be ignored. Growing the file outside of any transaction would change it behind the
                // spool's back.
                return Ok(());
            }
            self.tell(|connection, file| connection.will_set_len(file, len));
        }
        self.inner.file_control(FileControl::SizeHint(hint))
    }
}

impl File for TrackedFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read(buffer, offset)
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.tell(|connection, file| connection.will_write(file, offset, bytes.len()));
        self.inner.write(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let rounded_len = self.inner.rounded_len(len);
        self.tell(|connection, file| connection.will_set_len(file, rounded_len));
        self.inner.truncate(len)
    }

    fn sync(&mut self, flags: SyncFlags) -> Result<()> {
        self.inner.sync(flags)
    }

    fn size(&mut self) -> Result<u64> {
        self.inner.size()
    }

    fn lock(&mut self, level: LockLevel) -> Result<()> {
        self.inner.lock(level)
    }

    fn unlock(&mut self, level: LockLevel) -> Result<()> {
        if !self.is_writing() || self.inner.lock_level() <= level {
            return self.inner.unlock(level);
        }
        if level == LockLevel::Shared {
            return self.end_transaction();
        }
        self.tell(|connection, _| connection.abandon());
        self.inner.unlock(level)
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        self.inner.check_reserved_lock()
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        match control {
            FileControl::SizeHint(hint) => self.size_hint(hint),
            FileControl::Pragma(pragma) => pragma::answer(pragma, self.connection.as_ref()),
            other => self.inner.file_control(other),
        }
    }

    fn sector_size(&mut self) -> c_int {
        self.inner.sector_size()
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        self.inner.device_characteristics()
    }

    /// WAL mode is not replicated: a replicated database keeps its journal mode.
    fn offers_wal(&self) -> bool {
        self.connection.is_err()
    }

    fn shm_map(&mut self, region: usize, region_len: usize, extend: bool) -> Result<ShmRegion> {
        self.inner.shm_map(region, region_len, extend)
    }

    fn shm_lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        self.inner.shm_lock(slots, how)
    }

    fn shm_barrier(&mut self) {
        self.inner.shm_barrier();
    }

    fn shm_unmap(&mut self, delete: bool) -> Result<()> {
        self.inner.shm_unmap(delete)
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        self.inner.fetch(offset, len)
    }

    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        self.inner.unfetch(offset)
    }

    fn close(mut self) -> Result<()> {
        if self.is_writing() {
            self.tell(|connection, _| connection.abandon());
        }
        self.inner.close()
    }
}
