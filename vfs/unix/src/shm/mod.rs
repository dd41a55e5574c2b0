//! The shared memory of WAL mode: the file `<database>-shm` with its locks and maps, byte for byte what `unix` makes of it; used by `file`,
//! maps through `map`, locks through `ofd`, keeps its descriptor in the pool of `verneuil-dbfile`.
//!
//! | byte     | lock                                                                                          |
//! |----------|-----------------------------------------------------------------------------------------------|
//! | 120..127 | the eight slots that xShmLock names                                                           |
//! | 128      | "dead man's switch": read lock by everybody who is attached, write lock by who initialises       |
//!
//! Who attaches and sees no lock on byte 128 is alone: what is in the file was left by a crash. It takes the write lock, cuts the
//! file to 3 bytes, and turns the lock into a read lock. (3, so that a look at the file tells this from somebody else's truncation.)
//!
//! `unix` has one descriptor and one set of POSIX locks per process, and counts its own connections. Here each connection has its own,
//! with OFD locks, and meets every other one in the kernel. While a connection is attached its lock on byte 128 keeps the file from being
//! cut, so that its maps never lose what backs them.

use crate::map::Map;
use crate::ofd::{Kind, code_of, held_by_others, set};
use crate::permissions::Permission;
use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use verneuil_abi::{Code, ShmLock, ShmRegion, ShmSlots};
use verneuil_dbfile::Pooled;

/// The byte of slot 0.
const FIRST_SLOT: u64 = 120;
/// The byte that says whether anybody is attached.
const SWITCH: (u64, u64) = (128, 1);
/// The slots of readers that have a place in the log, or read the database alone (the first of them has number 3).
const READ_SLOTS: (u64, u64) = (FIRST_SLOT + 3, 5);
/// To this length the first who attaches cuts the file.
const FRESH_LEN_BYTES: u64 = 3;
/// How much is written at a time when the file grows; the size of a region.
const ZEROS: &[u8] = &[0; 32_768];

/// Something that failed on the shared memory.
#[derive(Debug)]
pub(crate) struct ShmFailure {
    /// What SQLite is told.
    pub(crate) code: Code,
    /// What was tried.
    pub(crate) operation: &'static str,
    /// What the system said; none when it is everyday life and nothing is logged.
    pub(crate) error: Option<io::Error>,
}

type Result<T> = std::result::Result<T, ShmFailure>;

fn failure(code: Code, operation: &'static str, error: impl Into<io::Error>) -> ShmFailure {
    ShmFailure {
        code,
        operation,
        error: Some(error.into()),
    }
}

const fn silent(code: Code) -> ShmFailure {
    ShmFailure {
        code,
        operation: "",
        error: None,
    }
}

fn lock_failure(errno: Errno) -> ShmFailure {
    match code_of(errno, Code::IOERR_SHMLOCK) {
        Code::BUSY => silent(Code::BUSY),
        code => failure(code, "lock", errno),
    }
}

/// One connection's shared memory.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    file: Pooled,
    path: PathBuf,
    is_read_only: bool,
    /// Attached without the lock on byte 128, because nobody had initialised the file and this connection can't.
    is_unlocked: bool,
    /// 1, except where the kernel's pages are larger than a region.
    regions_per_map: usize,
    /// Of all regions; 0 before the first.
    region_len: usize,
    maps: Vec<Map>,
    /// What `maps` were made through, while there are any; see [`verneuil_dbfile::open_again`].
    maps_file: Option<Pooled>,
    /// Slots that are shared with others, a bit for each.
    shared: u16,
    /// Slots that are held alone.
    excluded: u16,
}

/// `<database>-shm`.
pub(crate) fn path_of_shared_memory(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push("-shm");
    PathBuf::from(name)
}

impl SharedMemory {
    /// Opens the shared memory of the database `database` at `path`; [`SharedMemory::lock_switch`] must follow.
    ///
    /// # Errors
    /// `IOERR_FSTAT`, `CANTOPEN`; an empty file may have been created.
    pub(crate) fn open(
        database: &File,
        path: &Path,
        read_only: bool,
        page_len: usize,
    ) -> Result<SharedMemory> {
        let metadata = database
            .metadata()
            .map_err(|error| failure(Code::IOERR_FSTAT, "fstat the database of", error))?;
        let permission = Permission::of_shared_memory(&metadata);
        let path = path_of_shared_memory(path);
        let writable = if read_only {
            None
        } else {
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
            verneuil_dbfile::open(&path, flags, permission.mode()).ok()
        };
        let is_read_only = writable.is_none();
        let file = match writable {
            Some(file) => file,
            None => verneuil_dbfile::open(&path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0)
                .map_err(|error| failure(Code::CANTOPEN, "open", error))?,
        };
        if !is_read_only {
            permission.apply(&file);
        }
        Ok(SharedMemory {
            file,
            path,
            is_read_only,
            is_unlocked: true,
            regions_per_map: (page_len / ZEROS.len()).max(1),
            region_len: 0,
            maps: Vec::new(),
            maps_file: None,
            shared: 0,
            excluded: 0,
        })
    }

    /// Does the descriptor belong to the process that this one was forked from?
    pub(crate) fn is_inherited(&self) -> bool {
        self.file.is_inherited()
    }

    /// Does this connection hold locks on slots?
    pub(crate) fn holds_slots(&self) -> bool {
        self.shared | self.excluded != 0
    }

    /// Takes the lock on byte 128, and initialises the file if nobody else is attached.
    ///
    /// # Errors
    /// `READONLY_CANTINIT`: stays attached without it, and can't map anything yet; `BUSY` while somebody initialises,
    /// `IOERR_LOCK`, `IOERR_SHMOPEN`.
    pub(crate) fn lock_switch(&mut self) -> Result<()> {
        let held = held_by_others(&*self.file, SWITCH)
            .map_err(|errno| failure(Code::IOERR_LOCK, "lock query", errno))?;
        match held {
            Kind::Write => return Err(silent(Code::BUSY)),
            Kind::Read => {}
            Kind::Unlock if self.is_read_only => return Err(silent(Code::READONLY_CANTINIT)),
            Kind::Unlock => {
                // Two may come here at once: one is BUSY.
                set(&*self.file, Kind::Write, SWITCH).map_err(lock_failure)?;
                if let Err(error) = self.cut() {
                    let _ = set(&*self.file, Kind::Unlock, SWITCH);
                    return Err(failure(Code::IOERR_SHMOPEN, "ftruncate", error));
                }
            }
        }
        set(&*self.file, Kind::Read, SWITCH).map_err(lock_failure)?;
        self.is_unlocked = false;
        Ok(())
    }

    fn cut(&self) -> io::Result<()> {
        loop {
            match self.file.set_len(FRESH_LEN_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Lends a region, each of `region_len` bytes.
    ///
    /// # Errors
    /// Those of [`SharedMemory::lock_switch`]; `IOERR_SHMSIZE`, `IOERR_SHMMAP`; what was lent before stays.
    pub(crate) fn region(
        &mut self,
        region: usize,
        region_len: usize,
        extend: bool,
    ) -> Result<ShmRegion> {
        if self.is_unlocked {
            self.lock_switch()?;
        }
        if self.maps.is_empty() {
            self.region_len = region_len;
        }
        if region_len == 0 || region_len != self.region_len {
            return Err(failure(Code::IOERR_SHMMAP, "map", Errno::EINVAL));
        }
        let map_index = region / self.regions_per_map;
        let map_len = region_len * self.regions_per_map;
        if self.maps.len() <= map_index && self.has_len((map_index + 1) * map_len, extend)? {
            self.map_up_to(map_index, map_len)?;
        }
        let offset = region % self.regions_per_map * region_len;
        Ok(ShmRegion {
            memory: self
                .maps
                .get(map_index)
                .and_then(|map| map.lend(offset, region_len)),
            is_read_only: self.is_read_only,
        })
    }

    /// Is the file so long, or can it be made so? Grows by writing: a full disk is an error here, and not a SIGBUS later.
    fn has_len(&self, wanted_len: usize, extend: bool) -> Result<bool> {
        let size_failure = |error| failure(Code::IOERR_SHMSIZE, "write", error);
        let mut len = self.file.metadata().map_err(size_failure)?.len();
        let wanted_len = wanted_len as u64;
        if len >= wanted_len || !extend {
            return Ok(len >= wanted_len);
        }
        // Only who holds the lock of slot 0 extends, so that nobody else has written here since.
        while len < wanted_len {
            let piece = usize::try_from(wanted_len - len)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            match self.file.write_at(&ZEROS[..piece], len) {
                Ok(0) => return Err(size_failure(io::ErrorKind::WriteZero.into())),
                Ok(written) => len += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(size_failure(error)),
            }
        }
        Ok(true)
    }

    fn map_up_to(&mut self, map_index: usize, map_len: usize) -> Result<()> {
        let Some(len) = NonZeroUsize::new(map_len) else {
            return Ok(());
        };
        if self.maps_file.is_none() {
            self.maps_file = verneuil_dbfile::open_again(&self.file).ok();
        }
        let file: &File = self.maps_file.as_ref().unwrap_or(&self.file);
        while self.maps.len() <= map_index {
            let offset = (self.maps.len() * map_len) as u64;
            let map = Map::new(file, offset, len, !self.is_read_only)
                .map_err(|error| failure(Code::IOERR_SHMMAP, "mmap", error))?;
            self.maps.push(map);
        }
        Ok(())
    }

    /// Does this connection hold the slot of the writer alone?
    pub(crate) fn holds_write_slot(&self) -> bool {
        self.excluded & (1 << ShmSlots::WRITE) != 0
    }

    /// Takes or releases locks on slots.
    ///
    /// # Errors
    /// `BUSY`, `IOERR_SHMLOCK`; the locks are what they were.
    pub(crate) fn lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        let mask = slots.mask();
        let range = (
            FIRST_SLOT + u64::from(slots.first()),
            u64::from(slots.count()),
        );
        match how {
            ShmLock::Share if self.shared & mask == mask => {}
            ShmLock::Share => {
                set(&*self.file, Kind::Read, range).map_err(lock_failure)?;
                self.shared |= mask;
            }
            ShmLock::Exclude => {
                set(&*self.file, Kind::Write, range).map_err(lock_failure)?;
                self.excluded |= mask;
            }
            ShmLock::Unshare | ShmLock::Unexclude => {
                if (self.shared | self.excluded) & mask != 0 {
                    // In a forked child they are the parent's: it would lose them.
                    if !self.is_inherited() {
                        set(&*self.file, Kind::Unlock, range).map_err(lock_failure)?;
                    }
                    self.shared &= !mask;
                    self.excluded &= !mask;
                }
            }
        }
        Ok(())
    }

    /// Is anybody else attached?
    pub(crate) fn is_shared(&self) -> bool {
        held_by_others(&*self.file, SWITCH).is_ok_and(|held| held != Kind::Unlock)
    }

    /// Is anybody else in a read transaction?
    ///
    /// # Errors
    /// `IOERR_LOCK`.
    pub(crate) fn has_other_readers(&self) -> Result<bool> {
        held_by_others(&*self.file, READ_SLOTS)
            .map(|held| held != Kind::Unlock)
            .map_err(|errno| failure(Code::IOERR_LOCK, "lock query", errno))
    }

    /// In a forked child that holds no slots: opens the file once more and attaches with a lock of its own. The maps stay.
    ///
    /// # Errors
    /// `IOERR_SHMLOCK` when another file has taken its place; `BUSY`; nothing has changed then.
    pub(crate) fn take_over(&mut self) -> Result<()> {
        let access = if self.is_read_only {
            OFlag::O_RDONLY
        } else {
            OFlag::O_RDWR
        };
        let own = verneuil_dbfile::open(&self.path, access | OFlag::O_NOFOLLOW, 0)
            .map_err(|error| failure(Code::IOERR_SHMLOCK, "open again after a fork", error))?;
        if own.id() != self.file.id() {
            let error = io::Error::other("another file has taken its place; reconnect");
            return Err(failure(
                Code::IOERR_SHMLOCK,
                "open again after a fork",
                error,
            ));
        }
        if !self.is_unlocked {
            set(&*own, Kind::Read, SWITCH).map_err(lock_failure)?;
        }
        self.file = own;
        self.back_maps()
    }

    /// Makes the file as long as it is mapped: if nobody was attached for a while, somebody else may have cut it. Allocates and doesn't
    /// write: somebody else may be filling it.
    fn back_maps(&self) -> Result<()> {
        let mapped_len = self.maps.iter().map(Map::len).sum::<usize>() as u64;
        let size_failure = |errno: Errno| failure(Code::IOERR_SHMSIZE, "fallocate", errno);
        let metadata = self
            .file
            .metadata()
            .map_err(|error| failure(Code::IOERR_SHMSIZE, "fstat", error))?;
        if self.is_read_only || metadata.len() >= mapped_len {
            return Ok(());
        }
        posix_fallocate(&*self.file, 0, mapped_len.cast_signed()).map_err(size_failure)
    }

    /// Unlinks the file: nobody else uses the database.
    pub(crate) fn unlink(&self) {
        // A forked child knows nothing about who uses the database.
        if !self.is_inherited() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // First the maps: without the lock, the file may be cut at any time.
        self.maps.clear();
        if !self.is_inherited() {
            // Whoever waits in the pool must hold no lock.
            let _ = set(&*self.file, Kind::Unlock, (0, 0));
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // looks at what is lent
mod tests;
