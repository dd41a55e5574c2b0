//! An open file of the `linux` VFS, as SQLite and `verneuil-tracking` see it; opened by `vfs`.
//!
//! In order: what an open file is (here), `io` (reading, writing, syncing), `locking` (levels, through `locks`, and what a forked
//! child may do), `wal` (shared memory and memory maps, through `shm` and `mmap`), `control` (file controls).
//!
//! One system call per read, write, truncation and sync, and no allocation: what `unix` does.

mod control;
mod io;
mod locking;
mod wal;

use crate::forked::WriterNote;
use crate::locks::Locks;
use crate::mmap::FileMap;
use crate::shm::SharedMemory;
use crate::temporary::TemporaryFiles;
use std::ffi::c_int;
use std::fs::{self, File as StdFile};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use verneuil_abi::{
    Api, Code, DeviceCharacteristics, File, FileControl, LockLevel, Mapped, Result, ShmLock,
    ShmRegion, ShmSlots, SyncFlags,
};
use verneuil_dbfile::fork::generation;
use verneuil_dbfile::{LockBytes, Pooled};

/// What SQLite itself assumes when a VFS says nothing.
const SECTOR_SIZE_BYTES: c_int = 4096;

/// A descriptor: of a database, which must not be closed at any odd time, or of any other file.
#[derive(Debug)]
pub(crate) enum Descriptor {
    Database(Pooled),
    Other(StdFile),
}

impl Deref for Descriptor {
    type Target = StdFile;

    fn deref(&self) -> &StdFile {
        match self {
            Descriptor::Database(pooled) => pooled,
            Descriptor::Other(file) => file,
        }
    }
}

/// The descriptor of an open file, for reading beside it; it is closed when the file and all its handles are gone. Locks are not
/// to be touched.
#[derive(Debug, Clone)]
pub struct SharedFile(Arc<Descriptor>);

impl Deref for SharedFile {
    type Target = StdFile;

    fn deref(&self) -> &StdFile {
        &self.0
    }
}

/// What SQLite keeps beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Companion {
    /// The rollback journal.
    Journal,
    /// The write-ahead log.
    Log,
}

/// What [`crate::vfs`] found out while opening a file.
pub(crate) struct UnixFileParts {
    pub(crate) descriptor: Arc<Descriptor>,
    /// None for a temporary file without a name.
    pub(crate) path: Option<PathBuf>,
    /// None for files that SQLite doesn't share: everything but main databases.
    pub(crate) locks: Option<Locks>,
    /// What the file is beside the database at which path; none for other files.
    pub(crate) companion: Option<(Companion, PathBuf)>,
    /// The file can be written.
    pub(crate) is_writable: bool,
    pub(crate) powersafe_overwrite: bool,
    /// The shared memory of WAL mode is opened for reading only.
    pub(crate) read_only_shm: bool,
    /// The file is a new journal: its first sync makes its name durable, too.
    pub(crate) sync_directory: bool,
    pub(crate) api: Api,
    pub(crate) temporary: Arc<TemporaryFiles>,
    pub(crate) vfs_name: &'static str,
}

/// An open file.
pub struct UnixFile {
    parts: UnixFileParts,
    chunk_size_bytes: u64,
    persist_wal: bool,
    last_errno: c_int,
    /// While it is attached: from the first xShmMap to xShmUnmap.
    shm: Option<SharedMemory>,
    map: FileMap,
    /// In a forked process, while this connection holds a write lock of its own.
    writer_note: Option<WriterNote>,
    /// Of the process that opened the file.
    generation: u64,
}

impl UnixFile {
    pub(crate) fn new(parts: UnixFileParts) -> UnixFile {
        UnixFile {
            parts,
            chunk_size_bytes: 0,
            persist_wal: false,
            last_errno: 0,
            shm: None,
            map: FileMap::default(),
            writer_note: None,
            generation: generation(),
        }
    }

    /// The file behind the descriptor, for looking at it; locks are not to be touched. In a forked child it may be replaced when
    /// a lock is taken.
    #[must_use]
    pub fn file(&self) -> &StdFile {
        &self.parts.descriptor
    }

    /// A handle on the descriptor that another thread may read through. As [`UnixFile::file`], it may be replaced when a lock is taken.
    #[must_use]
    pub fn share(&self) -> SharedFile {
        SharedFile(Arc::clone(&self.parts.descriptor))
    }

    /// The path that it was opened under; none for a temporary file without a name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.parts.path.as_deref()
    }

    /// Where the lock bytes of this file are: as SQLite had them when it was opened.
    #[must_use]
    pub fn lock_bytes(&self) -> LockBytes {
        self.parts
            .locks
            .as_ref()
            .map_or_else(LockBytes::default, Locks::bytes)
    }

    /// The lock level held; always `None` on files that are not shared.
    #[must_use]
    pub fn lock_level(&self) -> LockLevel {
        self.parts
            .locks
            .as_ref()
            .map_or(LockLevel::None, Locks::level)
    }

    /// Is it attached to shared memory, as a connection in WAL mode and normal locking mode is?
    #[must_use]
    pub fn is_attached_to_shm(&self) -> bool {
        self.shm.is_some()
    }

    /// Has the file been renamed, replaced or unlinked since it was opened?
    #[must_use]
    pub fn has_moved(&self) -> bool {
        let (Descriptor::Database(database), Some(path)) = (&*self.parts.descriptor, self.path())
        else {
            return false;
        };
        match fs::metadata(path) {
            // The inode alone, as `unix` does: on union file systems the device of a path and that of
            // a descriptor may differ, and SQLite refuses to write a file that has moved.
            Ok(metadata) => metadata.ino() != database.id().ino,
            Err(_) => true,
        }
    }

    /// Remembers and logs the cause of a failure: the code that SQLite gets doesn't carry it.
    fn failed(&mut self, code: Code, operation: &str, error: &std::io::Error) -> Code {
        self.last_errno = error.raw_os_error().unwrap_or(0);
        let path = self
            .path()
            .unwrap_or(Path::new("(temporary file)"))
            .display();
        self.parts
            .api
            .log(code, &format!("{operation} {path}: {error}"));
        code
    }
}

impl File for UnixFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_at(buffer, offset)
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self, _: SyncFlags) -> Result<()> {
        // fdatasync writes a changed length, too: all the metadata that SQLite depends on.
        self.sync_data()
    }

    fn size(&mut self) -> Result<u64> {
        // `unix` gives one byte as none (some versions write one byte into an empty database on some systems).
        self.stat_len().map(|len| if len == 1 { 0 } else { len })
    }

    fn lock(&mut self, level: LockLevel) -> Result<()> {
        self.raise_lock(level)
    }

    fn unlock(&mut self, level: LockLevel) -> Result<()> {
        self.lower_lock(level)
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        self.is_reserved_by_other()
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        self.control(control)
    }

    fn sector_size(&mut self) -> c_int {
        SECTOR_SIZE_BYTES
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        if self.parts.powersafe_overwrite {
            DeviceCharacteristics::POWERSAFE_OVERWRITE.with(DeviceCharacteristics::SUBPAGE_READ)
        } else {
            DeviceCharacteristics::SUBPAGE_READ
        }
    }

    /// Only main databases have shared memory.
    fn offers_wal(&self) -> bool {
        self.parts.locks.is_some()
    }

    fn shm_map(&mut self, region: usize, region_len: usize, extend: bool) -> Result<ShmRegion> {
        self.map_shm(region, region_len, extend)
    }

    fn shm_lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        self.lock_shm(slots, how)
    }

    fn shm_unmap(&mut self, delete: bool) -> Result<()> {
        self.unmap_shm(delete);
        Ok(())
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        self.fetch_page(offset, len)
    }

    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        match offset {
            Some(_) => self.map.unfetch(),
            None => self.map.unmap(),
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.unmap_shm(false);
        // Whoever waits in the pool of descriptors must hold no lock.
        self.lower_lock(LockLevel::None)
    }
}
