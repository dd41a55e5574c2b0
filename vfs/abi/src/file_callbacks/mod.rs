//! `sqlite3_io_methods` for any [`File`]: one `extern "C"` function per method, each decoding C's arguments, calling the
//! trait under [`guard`], and encoding the result. `vfs_callbacks` makes the [`Handle`] that they find.
//!
//! In order: the tables and which of them a file shows (here), `io` (reading, writing, locking), `wal` (shared memory and
//! memory maps), `control` (xFileControl).
//!
//! **Two tables.** SQLite offers WAL mode in normal locking mode only for files with `iVersion >= 2` and an xShmMap. Each
//! type of file has a full table, and one that differs in its xShmMap only, which is NULL. [`File::offers_wal`] says which
//! one a file shows; it is asked after xOpen, xRead, xWrite, xLock, xShmUnmap and xFileControl. SQLite reads `pMethods`
//! anew for each call, so that the pointer may change between two of them, with one exception: while a connection uses
//! WAL it calls xShmMap without a look, so the full table stays from the first xShmMap to the next xShmUnmap.

mod control;
mod io;
mod wal;

use crate::Api;
use crate::code::SQLITE_OK;
use crate::file::File;
use crate::panics::guard;
use crate::sys::{sqlite3_file, sqlite3_io_methods};
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// What stands in the `szOsFile` bytes that SQLite allocates for an open file.
#[repr(C)]
pub(crate) struct Handle<F> {
    /// `pMethods` is NULL exactly while `file` holds nothing.
    base: sqlite3_file,
    api: Api,
    /// xShmMap was called, and xShmUnmap was not since.
    uses_shm: bool,
    file: MaybeUninit<F>,
}

impl<F: File> Handle<F> {
    const METHODS: &'static sqlite3_io_methods = &sqlite3_io_methods {
        iVersion: 3,
        xClose: Some(io::x_close::<F>),
        xRead: Some(io::x_read::<F>),
        xWrite: Some(io::x_write::<F>),
        xTruncate: Some(io::x_truncate::<F>),
        xSync: Some(io::x_sync::<F>),
        xFileSize: Some(io::x_file_size::<F>),
        xLock: Some(io::x_lock::<F>),
        xUnlock: Some(io::x_unlock::<F>),
        xCheckReservedLock: Some(io::x_check_reserved_lock::<F>),
        xFileControl: Some(control::x_file_control::<F>),
        xSectorSize: Some(io::x_sector_size::<F>),
        xDeviceCharacteristics: Some(io::x_device_characteristics::<F>),
        xShmMap: Some(wal::x_shm_map::<F>),
        xShmLock: Some(wal::x_shm_lock::<F>),
        xShmBarrier: Some(wal::x_shm_barrier::<F>),
        xShmUnmap: Some(wal::x_shm_unmap::<F>),
        xFetch: Some(wal::x_fetch::<F>),
        xUnfetch: Some(wal::x_unfetch::<F>),
    };

    const METHODS_WITHOUT_WAL: &'static sqlite3_io_methods = &sqlite3_io_methods {
        xShmMap: None,
        ..*Self::METHODS
    };

    /// Puts an open file in place.
    ///
    /// # Safety
    /// `place` has room for a `Handle<F>`, aligned to 8 bytes, and no file is open in it.
    pub(crate) unsafe fn fill(place: *mut sqlite3_file, api: Api, file: F) {
        const {
            assert!(
                align_of::<Handle<F>>() <= 8,
                "SQLite aligns files to 8 bytes"
            );
        }
        let mut handle = Handle {
            base: sqlite3_file {
                pMethods: Self::METHODS,
            },
            api,
            uses_shm: false,
            file: MaybeUninit::new(file),
        };
        // SAFETY: filled one line above.
        let offers_wal = unsafe { handle.file.assume_init_ref() }.offers_wal();
        handle.choose_methods(offers_wal);
        // SAFETY: the caller promises room and alignment; nothing is overwritten that would need a destructor.
        unsafe { place.cast::<Handle<F>>().write(handle) }
    }

    /// Shows the table that goes with what the file says, unless SQLite could call what the other one lacks.
    fn choose_methods(&mut self, offers_wal: bool) {
        self.base.pMethods = if offers_wal || self.uses_shm {
            Self::METHODS
        } else {
            Self::METHODS_WITHOUT_WAL
        };
    }
}

/// Calls a method of the open file.
///
/// # Safety
/// `place` holds a filled `Handle<F>`, and no other call is under way on it.
unsafe fn call<F: File, T>(
    place: *mut sqlite3_file,
    callback: &'static str,
    otherwise: T,
    body: impl FnOnce(&mut F, Api) -> T,
) -> T {
    // SAFETY: the caller's promise; SQLite calls a file from one thread at a time, under the connection's mutex.
    let handle = unsafe { &mut *place.cast::<Handle<F>>() };
    let api = handle.api;
    // SAFETY: methods are reached through `pMethods` only, which is set exactly while `file` is filled.
    let file = unsafe { handle.file.assume_init_mut() };
    guard(Some(api), callback, otherwise, || body(file, api))
}

/// As [`call`], for a method after which the file may offer WAL mode no longer, or again.
///
/// # Safety
/// As for [`call`].
unsafe fn call_and_choose<F: File, T>(
    place: *mut sqlite3_file,
    callback: &'static str,
    otherwise: T,
    body: impl FnOnce(&mut F, Api) -> T,
) -> T {
    // SAFETY: the caller's promise.
    let (result, offers_wal) = unsafe {
        call::<F, _>(place, callback, (otherwise, None), |file, api| {
            let result = body(file, api);
            (result, Some(file.offers_wal()))
        })
    };
    // After a panic the table stays what it was.
    if let Some(offers_wal) = offers_wal {
        // SAFETY: the caller's promise; the call is over, so that this is the only reference.
        unsafe { &mut *place.cast::<Handle<F>>() }.choose_methods(offers_wal);
    }
    result
}

/// Stores the answer behind a pointer.
///
/// # Safety
/// `place` is NULL or can be written.
unsafe fn answer<T>(place: *mut T, result: crate::Result<T>) -> c_int {
    match result {
        Ok(value) => {
            if !place.is_null() {
                // SAFETY: the caller's promise.
                unsafe { place.write(value) }
            }
            SQLITE_OK
        }
        Err(code) => code.raw(),
    }
}
