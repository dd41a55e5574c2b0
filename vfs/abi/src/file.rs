//! The [`File`] trait: an open file, safe; implemented by `verneuil-unix` and `verneuil-tracking`, called by
//! `file_callbacks`.

use crate::code::{Code, Result};
use crate::control::FileControl;
use crate::shm::{Mapped, ShmLock, ShmRegion, ShmSlots};
use crate::sys::consts as c;
use std::ffi::c_int;

/// The five states of SQLite's lock on a database file, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum LockLevel {
    /// No lock.
    None = c::SQLITE_LOCK_NONE,
    /// May read.
    Shared = c::SQLITE_LOCK_SHARED,
    /// May read, and will write: one at a time.
    Reserved = c::SQLITE_LOCK_RESERVED,
    /// Waits for the last readers; nobody new may read.
    Pending = c::SQLITE_LOCK_PENDING,
    /// Alone with the file: may write.
    Exclusive = c::SQLITE_LOCK_EXCLUSIVE,
}

impl LockLevel {
    /// The level behind SQLite's number.
    #[must_use]
    pub const fn from_raw(raw: c_int) -> Option<LockLevel> {
        match raw {
            c::SQLITE_LOCK_NONE => Some(LockLevel::None),
            c::SQLITE_LOCK_SHARED => Some(LockLevel::Shared),
            c::SQLITE_LOCK_RESERVED => Some(LockLevel::Reserved),
            c::SQLITE_LOCK_PENDING => Some(LockLevel::Pending),
            c::SQLITE_LOCK_EXCLUSIVE => Some(LockLevel::Exclusive),
            _ => None,
        }
    }

    /// SQLite's number for this level.
    #[must_use]
    pub const fn raw(self) -> c_int {
        self as c_int
    }
}

/// The flags of xSync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncFlags {
    /// `SQLITE_SYNC_FULL`: the drive's cache too, where that needs another call.
    pub full: bool,
    /// `SQLITE_SYNC_DATAONLY`: metadata may wait.
    pub data_only: bool,
}

impl SyncFlags {
    pub(crate) const fn from_raw(raw: c_int) -> SyncFlags {
        SyncFlags {
            full: raw & 0x0f == c::SQLITE_SYNC_FULL,
            data_only: raw & c::SQLITE_SYNC_DATAONLY != 0,
        }
    }
}

/// What xDeviceCharacteristics promises, as `SQLITE_IOCAP_…` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceCharacteristics(pub c_int);

impl DeviceCharacteristics {
    /// A write never damages bytes outside of it.
    pub const POWERSAFE_OVERWRITE: DeviceCharacteristics =
        DeviceCharacteristics(c::SQLITE_IOCAP_POWERSAFE_OVERWRITE);
    /// Reads smaller than a page are welcome (libraries before 3.48 ignore it).
    pub const SUBPAGE_READ: DeviceCharacteristics =
        DeviceCharacteristics(c::SQLITE_IOCAP_SUBPAGE_READ);

    /// Both promises.
    #[must_use]
    pub const fn with(self, other: DeviceCharacteristics) -> DeviceCharacteristics {
        DeviceCharacteristics(self.0 | other.0)
    }
}

/// An open file. SQLite calls it from one thread at a time.
///
/// A panic in a method is caught, logged, and becomes that method's `SQLITE_IOERR_…`. Dropping the file closes it.
///
/// A file that has no shared memory says so with [`File::offers_wal`].
pub trait File: Send + Sized + 'static {
    /// Fills the buffer from `offset`.
    ///
    /// # Errors
    /// `IOERR_SHORT_READ` at the end of the file, after the rest of the buffer was filled with zeros; `IOERR_READ`.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all bytes at `offset`.
    ///
    /// # Errors
    /// `FULL`, `IOERR_WRITE`; any part of the bytes may have been written.
    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Sets the length.
    ///
    /// # Errors
    /// `IOERR_TRUNCATE`; the length is what it was.
    fn truncate(&mut self, len: u64) -> Result<()>;

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// `IOERR_FSYNC`; nothing is known about what is durable.
    fn sync(&mut self, flags: SyncFlags) -> Result<()>;

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// `IOERR_FSTAT`.
    fn size(&mut self) -> Result<u64>;

    /// Raises the lock to `level`.
    ///
    /// # Errors
    /// `BUSY` when somebody else's lock is in the way, `IOERR_LOCK`; the lock is at most as high as asked, at least as
    /// high as it was.
    fn lock(&mut self, level: LockLevel) -> Result<()>;

    /// Lowers the lock to `level`, which is `Shared` or `None`.
    ///
    /// # Errors
    /// `IOERR_UNLOCK`, `IOERR_RDLOCK`.
    fn unlock(&mut self, level: LockLevel) -> Result<()>;

    /// Does anybody hold RESERVED or more?
    ///
    /// # Errors
    /// `IOERR_CHECKRESERVEDLOCK`.
    fn check_reserved_lock(&mut self) -> Result<bool>;

    /// Everything else; `NOTFOUND` for what is not known.
    ///
    /// # Errors
    /// `NOTFOUND`, or what the control at hand fails with.
    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        let _ = control;
        Err(Code::NOTFOUND)
    }

    /// The size of a sector in bytes.
    fn sector_size(&mut self) -> c_int;

    /// What the device promises.
    fn device_characteristics(&mut self) -> DeviceCharacteristics;

    /// May SQLite use WAL mode on this file, in normal locking mode? Asked after xOpen, and after each xRead, xWrite, xLock,
    /// xShmUnmap and xFileControl, and must be cheap: no system call, no lock.
    ///
    /// A "no" hides xShmMap from SQLite: `PRAGMA journal_mode=WAL` keeps the old mode, and a database that is in WAL mode
    /// can't be opened. It takes effect when the connection does not use shared memory. In `locking_mode=EXCLUSIVE`
    /// SQLite needs no shared memory for WAL mode, and does not look.
    fn offers_wal(&self) -> bool {
        true
    }

    /// Lends region number `region` of the shared memory, each `region_len` bytes long, and attaches to the shared memory if
    /// this is the first one. A region that does not exist is made if `extend` says so; else there is none.
    ///
    /// # Errors
    /// `READONLY_CANTINIT` when nobody else is attached and this connection may not write: it is attached all the same;
    /// `BUSY` while somebody else initialises, `CANTOPEN`, `IOERR_SHMOPEN`, `IOERR_SHMSIZE`, `IOERR_SHMMAP`, `IOERR_LOCK`.
    fn shm_map(&mut self, region: usize, region_len: usize, extend: bool) -> Result<ShmRegion>;

    /// Takes or releases locks on slots of the shared memory. Never waits.
    ///
    /// # Errors
    /// `BUSY` when somebody else's lock is in the way, `IOERR_SHMLOCK`; the locks are what they were.
    fn shm_lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()>;

    /// Orders accesses to the shared memory; the caller has made a full memory barrier already.
    fn shm_barrier(&mut self) {}

    /// Detaches from the shared memory, with all locks on it. `delete` unlinks it: SQLite asks for that when no other
    /// connection to the database is left.
    ///
    /// # Errors
    /// None that SQLite would look at.
    fn shm_unmap(&mut self, delete: bool) -> Result<()>;

    /// Lends `len` bytes at `offset` of the file as memory; none makes SQLite read them.
    ///
    /// # Errors
    /// `IOERR_FSTAT`.
    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        let _ = (offset, len);
        Ok(None)
    }

    /// Takes back what was lent at `offset`; without one, nothing is lent any more, and the file may have changed behind
    /// our back: no map may outlive this.
    ///
    /// # Errors
    /// None that SQLite would look at.
    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        let _ = offset;
        Ok(())
    }

    /// Closes the file.
    ///
    /// # Errors
    /// `IOERR_CLOSE`, `IOERR_UNLOCK`; the file is closed nevertheless.
    fn close(self) -> Result<()> {
        Ok(())
    }
}
