//! Memory maps: all the `unsafe` of this crate; used by `shm` (shared memory of WAL mode) and `mmap` (pages of the database).

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use verneuil_abi::Mapped;

/// Bytes of a file, mapped until this is dropped.
///
/// They are lent to SQLite as pointers and never looked at from here: other processes change them at any time.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: an address range of the process, not of a thread; nothing is read or written through it here.
unsafe impl Send for Map {}

impl Map {
    /// Maps `len` bytes of the file from `offset` on, shared with everybody who maps or reads it.
    ///
    /// # Errors
    /// What `mmap(2)` says.
    pub(crate) fn new(
        file: &File,
        offset: u64,
        len: NonZeroUsize,
        is_writable: bool,
    ) -> io::Result<Map> {
        let protection = if is_writable {
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
        } else {
            ProtFlags::PROT_READ
        };
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: without an address wish the kernel takes a free range, so that no memory of the process is replaced.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Map { start, len })
    }

    /// How many bytes are mapped.
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    /// Lends SQLite `len` bytes from `offset` on; none if they are not all mapped. The caller keeps this map until SQLite has
    /// given them back, and lends no memory of a map that is not writable as a region that is.
    pub(crate) fn lend(&self, offset: usize, len: usize) -> Option<Mapped> {
        let end = offset.checked_add(len)?;
        if end > self.len() {
            return None;
        }
        // SAFETY: `offset` is inside of the range that is mapped, and so is everything up to `end`. That they stay mapped
        // long enough is kept by the two owners: `shm` drops its maps in xShmUnmap and xClose only, `mmap` when nothing
        // is lent. What lies beyond the end of the file is not lent: both know its length.
        Some(unsafe { Mapped::new(self.start.cast().byte_add(offset)) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range came from `mmap` with this length, and nothing of it is lent any more (see `lend`).
        let _ = unsafe { munmap(self.start, self.len()) };
    }
}
