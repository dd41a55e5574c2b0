//! `sqlite3_file` and its method table; `file_callbacks` fills the table in.

use std::ffi::{c_int, c_void};

/// An open file, as SQLite sees it: its method table; what the VFS keeps follows in memory.
#[repr(C)]
pub struct sqlite3_file {
    /// NULL while the file is not open.
    pub pMethods: *const sqlite3_io_methods,
}

/// The method table of an open file. Everything after `xDeviceCharacteristics` needs `iVersion` 2, the last two 3.
#[repr(C)]
pub struct sqlite3_io_methods {
    /// Says how many of the methods may be called.
    pub iVersion: c_int,
    /// Closes the file; called once.
    pub xClose: Option<unsafe extern "C" fn(*mut sqlite3_file) -> c_int>,
    /// Reads at an offset.
    pub xRead: Option<unsafe extern "C" fn(*mut sqlite3_file, *mut c_void, c_int, i64) -> c_int>,
    /// Writes at an offset.
    pub xWrite: Option<unsafe extern "C" fn(*mut sqlite3_file, *const c_void, c_int, i64) -> c_int>,
    /// Sets the file's length.
    pub xTruncate: Option<unsafe extern "C" fn(*mut sqlite3_file, i64) -> c_int>,
    /// Makes what was written durable.
    pub xSync: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int) -> c_int>,
    /// Reports the file's length.
    pub xFileSize: Option<unsafe extern "C" fn(*mut sqlite3_file, *mut i64) -> c_int>,
    /// Raises the lock.
    pub xLock: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int) -> c_int>,
    /// Lowers the lock.
    pub xUnlock: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int) -> c_int>,
    /// Does anybody hold RESERVED or more?
    pub xCheckReservedLock: Option<unsafe extern "C" fn(*mut sqlite3_file, *mut c_int) -> c_int>,
    /// Everything else.
    pub xFileControl: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int, *mut c_void) -> c_int>,
    /// The size of an atomic write, in bytes.
    pub xSectorSize: Option<unsafe extern "C" fn(*mut sqlite3_file) -> c_int>,
    /// What the device promises.
    pub xDeviceCharacteristics: Option<unsafe extern "C" fn(*mut sqlite3_file) -> c_int>,
    /// Maps a region of the shared memory of WAL mode.
    pub xShmMap: Option<
        unsafe extern "C" fn(*mut sqlite3_file, c_int, c_int, c_int, *mut *mut c_void) -> c_int,
    >,
    /// Locks slots of the shared memory.
    pub xShmLock: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int, c_int, c_int) -> c_int>,
    /// Orders accesses to the shared memory.
    pub xShmBarrier: Option<unsafe extern "C" fn(*mut sqlite3_file)>,
    /// Lets go of the shared memory.
    pub xShmUnmap: Option<unsafe extern "C" fn(*mut sqlite3_file, c_int) -> c_int>,
    /// Lends a page of a memory map.
    pub xFetch:
        Option<unsafe extern "C" fn(*mut sqlite3_file, i64, c_int, *mut *mut c_void) -> c_int>,
    /// Takes it back.
    pub xUnfetch: Option<unsafe extern "C" fn(*mut sqlite3_file, i64, *mut c_void) -> c_int>,
}
