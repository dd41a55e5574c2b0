//! `sqlite3_vfs`; `vfs_callbacks` fills it in, `register` hands it to SQLite.

use super::sqlite3_file;
use std::ffi::{c_char, c_int, c_void};

/// A system call as the test interface of version 3 passes it.
pub type sqlite3_syscall_ptr = Option<unsafe extern "C" fn()>;

/// A VFS. `xCurrentTimeInt64` needs `iVersion` 2, the three after it 3.
#[repr(C)]
pub struct sqlite3_vfs {
    /// Says how many of the methods may be called.
    pub iVersion: c_int,
    /// How many bytes SQLite allocates for each `sqlite3_file`.
    pub szOsFile: c_int,
    /// The longest path, in bytes, without its NUL.
    pub mxPathname: c_int,
    /// SQLite's own list of VFSes.
    pub pNext: *mut sqlite3_vfs,
    /// The name, NUL-terminated, alive as long as the registration.
    pub zName: *const c_char,
    /// Ours: the state behind the callbacks.
    pub pAppData: *mut c_void,
    /// Opens a file.
    pub xOpen: Option<
        unsafe extern "C" fn(
            *mut sqlite3_vfs,
            *const c_char,
            *mut sqlite3_file,
            c_int,
            *mut c_int,
        ) -> c_int,
    >,
    /// Unlinks a file.
    pub xDelete: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int) -> c_int>,
    /// Looks whether a file exists or can be used.
    pub xAccess:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_int) -> c_int>,
    /// Makes a path absolute and free of symbolic links.
    pub xFullPathname:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_char) -> c_int>,
    /// Opens a shared library.
    pub xDlOpen: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> *mut c_void>,
    /// Says why `xDlOpen` or `xDlSym` failed.
    pub xDlError: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char)>,
    /// Finds a function in a shared library.
    pub xDlSym: Option<
        unsafe extern "C" fn(
            *mut sqlite3_vfs,
            *mut c_void,
            *const c_char,
        ) -> Option<
            unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char),
        >,
    >,
    /// Closes a shared library.
    pub xDlClose: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void)>,
    /// Fills a buffer with random bytes.
    pub xRandomness: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char) -> c_int>,
    /// Sleeps.
    pub xSleep: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int) -> c_int>,
    /// The time as a Julian day.
    pub xCurrentTime: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut f64) -> c_int>,
    /// The errno of the last failure.
    pub xGetLastError: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char) -> c_int>,
    /// The time as a Julian day, in milliseconds.
    pub xCurrentTimeInt64: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut i64) -> c_int>,
    /// Replaces a system call, in tests.
    pub xSetSystemCall:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, sqlite3_syscall_ptr) -> c_int>,
    /// Looks a system call up, in tests.
    pub xGetSystemCall:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> sqlite3_syscall_ptr>,
    /// Lists system calls, in tests.
    pub xNextSystemCall:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> *const c_char>,
}
