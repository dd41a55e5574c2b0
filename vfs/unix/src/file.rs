//! An open file of the `linux` VFS: reading, writing, syncing, file controls; opened by `vfs`, locked by
//! `locks`, wrapped by `verneuil-tracking`.
//!
//! One system call per read, write, truncation and sync, and no allocation: what `unix` does.

use crate::durable::sync_directory_of;
use crate::locks::{LockFailure, Locks};
use crate::temporary::TemporaryFiles;
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use std::ffi::c_int;
use std::fs::{self, File as StdFile};
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use verneuil_abi::{
    Api, Code, DeviceCharacteristics, File, FileControl, LockLevel, Result, SyncFlags,
};
use verneuil_dbfile::Pooled;

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

/// What [`crate::vfs`] found out while opening a file.
pub(crate) struct UnixFileParts {
    pub(crate) descriptor: Arc<Descriptor>,
    /// None for a temporary file without a name.
    pub(crate) path: Option<PathBuf>,
    /// None for files that SQLite doesn't share: everything but main databases.
    pub(crate) locks: Option<Locks>,
    pub(crate) powersafe_overwrite: bool,
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
    last_errno: c_int,
}

impl UnixFile {
    pub(crate) fn new(parts: UnixFileParts) -> UnixFile {
        UnixFile {
            parts,
            chunk_size_bytes: 0,
            last_errno: 0,
        }
    }

    /// The file behind the descriptor, for looking at it; locks are not to be touched.
    #[must_use]
    pub fn file(&self) -> &StdFile {
        &self.parts.descriptor
    }

    /// A handle on the descriptor that another thread may read through.
    #[must_use]
    pub fn share(&self) -> SharedFile {
        SharedFile(Arc::clone(&self.parts.descriptor))
    }

    /// The path that it was opened under; none for a temporary file without a name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.parts.path.as_deref()
    }

    /// The lock level held; always `None` on files that are not shared.
    #[must_use]
    pub fn lock_level(&self) -> LockLevel {
        self.parts
            .locks
            .as_ref()
            .map_or(LockLevel::None, Locks::level)
    }

    /// The length that [`File::truncate`] really sets for `len`: with a chunk size, a multiple of it.
    #[must_use]
    pub fn rounded_len(&self, len: u64) -> u64 {
        match self.chunk_size_bytes {
            0 => len,
            chunk => len.checked_next_multiple_of(chunk).unwrap_or(len),
        }
    }

    /// The length to which `FileControl::SizeHint` would grow the file now; none if it leaves the file alone.
    ///
    /// # Errors
    /// `IOERR_FSTAT`.
    pub fn len_after_hint(&mut self, hint: i64) -> Result<Option<u64>> {
        if self.chunk_size_bytes == 0 {
            return Ok(None);
        }
        let len = self.stat_len()?;
        let hinted = self.rounded_len(u64::try_from(hint).unwrap_or(0));
        Ok((hinted > len).then_some(hinted))
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

    fn stat_len(&mut self) -> Result<u64> {
        match self.file().metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(self.failed(Code::IOERR_FSTAT, "fstat", &error)),
        }
    }

    /// Remembers and logs the cause of a failure: the code that SQLite gets doesn't carry it.
    fn failed(&mut self, code: Code, operation: &str, error: &io::Error) -> Code {
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

    /// Remembers the cause of a lock that was not taken. BUSY is everyday life, not a failure.
    fn lock_failed(&mut self, failure: LockFailure) -> Code {
        if failure.code != Code::BUSY {
            return self.failed(failure.code, "lock", &failure.errno.into());
        }
        failure.code
    }

    fn grow(&mut self, hint: i64) -> Result<()> {
        let Some(hinted) = self.len_after_hint(hint)? else {
            return Ok(());
        };
        let len = self.stat_len()?;
        loop {
            // Blocks and not just a length: a full disk shows here, and not in the middle of a commit.
            let grown =
                posix_fallocate(self.file(), len.cast_signed(), (hinted - len).cast_signed());
            return match grown {
                Err(Errno::EINTR) => continue,
                // The file system can't; SQLite grows the file by writing.
                Ok(()) | Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(()),
                Err(errno) => Err(self.failed(Code::IOERR_WRITE, "fallocate", &errno.into())),
            };
        }
    }
}

impl File for UnixFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self
                .file()
                .read_at(&mut buffer[done..], offset + done as u64)
            {
                Ok(0) => {
                    self.last_errno = 0;
                    buffer[done..].fill(0);
                    return Err(Code::IOERR_SHORT_READ);
                }
                Ok(len) => done += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // These come from a damaged disk or file system; SQLite reports them as a corrupt database.
                    let code = match error.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::ERANGE | Errno::EIO | Errno::ENXIO) => Code::IOERR_CORRUPTFS,
                        _ => Code::IOERR_READ,
                    };
                    return Err(self.failed(code, "read", &error));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file().write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(Code::FULL),
                Ok(len) => done += len,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOSPC | Errno::EDQUOT) => {
                        // A full disk is told by the code alone, as in `unix`.
                        self.last_errno = 0;
                        return Err(Code::FULL);
                    }
                    _ => return Err(self.failed(Code::IOERR_WRITE, "write", &error)),
                },
            }
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let len = self.rounded_len(len);
        loop {
            return match self.file().set_len(len) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(self.failed(Code::IOERR_TRUNCATE, "ftruncate", &error)),
            };
        }
    }

    fn sync(&mut self, _: SyncFlags) -> Result<()> {
        // fdatasync writes a changed length, too: all the metadata that SQLite depends on.
        if let Err(error) = self.file().sync_data() {
            return Err(self.failed(Code::IOERR_FSYNC, "fdatasync", &error));
        }
        if self.parts.sync_directory {
            // Once, and best effort, as in `unix`: not every file system can.
            self.parts.sync_directory = false;
            if let Some(path) = self.path() {
                let _ = sync_directory_of(path);
            }
        }
        Ok(())
    }

    fn size(&mut self) -> Result<u64> {
        // `unix` gives one byte as none (some versions write one byte into an empty database on some systems).
        self.stat_len().map(|len| if len == 1 { 0 } else { len })
    }

    fn lock(&mut self, level: LockLevel) -> Result<()> {
        let parts = &mut self.parts;
        let Some(locks) = &mut parts.locks else {
            return Ok(());
        };
        match locks.raise(&**parts.descriptor, level) {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.lock_failed(failure)),
        }
    }

    fn unlock(&mut self, level: LockLevel) -> Result<()> {
        let parts = &mut self.parts;
        let Some(locks) = &mut parts.locks else {
            return Ok(());
        };
        match locks.lower(&**parts.descriptor, level) {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.lock_failed(failure)),
        }
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        let Some(locks) = &self.parts.locks else {
            return Ok(false);
        };
        match locks.reserved_by_other(&**self.parts.descriptor) {
            Ok(held) => Ok(held),
            Err(errno) => {
                Err(self.failed(Code::IOERR_CHECKRESERVEDLOCK, "lock query", &errno.into()))
            }
        }
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        match control {
            FileControl::LockState(out) => *out = self.lock_level().raw(),
            FileControl::LastErrno(out) => *out = self.last_errno,
            FileControl::ChunkSize(bytes) => {
                self.chunk_size_bytes = u64::try_from(bytes).unwrap_or(0)
            }
            FileControl::SizeHint(hint) => self.grow(hint)?,
            FileControl::PowersafeOverwrite(value) => match *value {
                ..0 => *value = c_int::from(self.parts.powersafe_overwrite),
                0 => self.parts.powersafe_overwrite = false,
                1.. => self.parts.powersafe_overwrite = true,
            },
            FileControl::VfsName(mut slot) => slot.set(self.parts.vfs_name)?,
            FileControl::TempFilename(mut slot) => {
                slot.set(&self.parts.temporary.fresh_path()?.to_string_lossy())?;
            }
            FileControl::HasMoved(out) => *out = c_int::from(self.has_moved()),
            _ => return Err(Code::NOTFOUND),
        }
        Ok(())
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

    fn close(mut self) -> Result<()> {
        // Whoever waits in the pool of descriptors must hold no lock.
        self.unlock(LockLevel::None)
    }
}
