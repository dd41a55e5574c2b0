//! [`Api`]: calls into the SQLite library that loaded us; made once by the entry point of `verneuil_vfs`, carried by
//! every registration (`register`) and every open file.

use crate::code::Code;
use crate::sys::{sqlite3_api_routines, sqlite3_vfs};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};

/// The oldest SQLite that has every function used here, as `sqlite3_libversion_number` gives it: 3.31.0.
pub const MINIMUM_VERSION: c_int = 3_031_000;

/// Why a function table can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The entry point was called without one.
    NoTable,
    /// The library is older than [`MINIMUM_VERSION`].
    TooOld {
        /// Its version number.
        version_number: c_int,
    },
    /// The library was built without a function that is needed.
    Missing {
        /// The function's name.
        function: &'static str,
    },
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApiError::NoTable => write!(
                f,
                "no SQLite function table was given: load the extension with .load, sqlite3_load_extension or \
                 sqlite3_auto_extension rather than by calling its entry point without one"
            ),
            ApiError::TooOld { version_number } => write!(
                f,
                "SQLite {}.{}.{} is too old: 3.31.0 or later is needed",
                version_number / 1_000_000,
                version_number / 1_000 % 1_000,
                version_number % 1_000
            ),
            ApiError::Missing { function } => write!(
                f,
                "this SQLite library was built without sqlite3_{function}"
            ),
        }
    }
}

impl std::error::Error for ApiError {}

/// The functions of one SQLite library.
#[derive(Clone, Copy)]
pub struct Api {
    table: &'static sqlite3_api_routines,
}

impl Api {
    /// Wraps the function table that SQLite passes to an extension's entry point.
    ///
    /// # Errors
    /// When there is no table, the library is too old, or it lacks a function; nothing was kept then.
    ///
    /// # Safety
    /// `table` is NULL or the pointer that a SQLite library passed to the entry point of an extension; that library
    /// stays in memory for the rest of the process.
    pub unsafe fn new(table: *const sqlite3_api_routines) -> Result<Api, ApiError> {
        if table.is_null() {
            return Err(ApiError::NoTable);
        }
        // SAFETY: the caller promises a table; this field is at a fixed place in every version since 3.0, and is read
        // alone, because an older library's table may end before ours does.
        let version = unsafe { ptr::addr_of!((*table).libversion_number).read() };
        let version = version.ok_or(ApiError::Missing {
            function: "libversion_number",
        })?;
        // SAFETY: a function of the library that takes nothing and touches nothing.
        let version_number = unsafe { version() };
        if version_number < MINIMUM_VERSION {
            return Err(ApiError::TooOld { version_number });
        }
        // SAFETY: since 3.31.0 the table holds all the fields of ours; it is constant data of a library that stays.
        let table = unsafe { &*table };
        for (function, present) in [
            ("free", table.free.is_some()),
            ("vfs_find", table.vfs_find.is_some()),
            ("vfs_register", table.vfs_register.is_some()),
            ("log", table.log.is_some()),
            ("uri_boolean", table.uri_boolean.is_some()),
            ("uri_parameter", table.uri_parameter.is_some()),
            ("malloc", table.malloc.is_some()),
        ] {
            if !present {
                return Err(ApiError::Missing { function });
            }
        }
        Ok(Api { table })
    }

    /// Writes one line to the host's `sqlite3_log`; NULs in it are dropped.
    ///
    /// The host's log callback must not call back into SQLite; that is a rule of `sqlite3_log`.
    pub fn log(&self, code: Code, message: &str) {
        let Some(log) = self.table.log else { return };
        let Ok(message) = CString::new(message.replace('\0', "")) else {
            return;
        };
        // SAFETY: the format is a constant with one `%s`, and its argument is a NUL-terminated string.
        unsafe { log(code.raw(), c"%s".as_ptr(), message.as_ptr()) }
    }

    /// Copies a string into memory from the host's `sqlite3_malloc`; NULs in it are dropped. NULL when that fails.
    ///
    /// The result belongs to whom it is given to, who frees it with `sqlite3_free`.
    #[must_use]
    pub fn allocate_string(&self, text: &str) -> *mut c_char {
        // SAFETY: `new` was given a table, and this is it.
        unsafe { Api::allocate_string_in(self.table, text) }
    }

    /// As [`Api::allocate_string`], for the error message of an entry point that was given a table which is too old.
    ///
    /// # Safety
    /// `table` is NULL (then so is the result) or the table of a library that is still loaded.
    #[must_use]
    pub unsafe fn allocate_string_in(
        table: *const sqlite3_api_routines,
        text: &str,
    ) -> *mut c_char {
        if table.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: this field is at a fixed place in every version since 3.0, and is read alone.
        let Some(malloc) = (unsafe { ptr::addr_of!((*table).malloc).read() }) else {
            return ptr::null_mut();
        };
        let bytes = text.bytes().filter(|byte| *byte != 0);
        let Ok(size) = c_int::try_from(bytes.clone().count() + 1) else {
            return ptr::null_mut();
        };
        // SAFETY: a plain allocation; the result is checked for NULL below.
        let memory = unsafe { malloc(size) }.cast::<u8>();
        if memory.is_null() {
            return ptr::null_mut();
        }
        for (at, byte) in bytes.chain([0]).enumerate() {
            // SAFETY: `at` stays below `size`, the number of bytes that were allocated.
            unsafe { memory.add(at).write(byte) }
        }
        memory.cast()
    }

    /// Frees what the host's allocator gave.
    ///
    /// # Safety
    /// `memory` is NULL or came from this library's `sqlite3_malloc` family, and nobody uses it any more.
    pub unsafe fn free(&self, memory: *mut c_char) {
        if let Some(free) = self.table.free {
            // SAFETY: the caller's promise.
            unsafe { free(memory.cast()) }
        }
    }

    /// The value of a URI parameter.
    ///
    /// # Safety
    /// `name` is a file name that this library passed to xOpen for a main database, and is still alive; the result
    /// lives as long as it does.
    pub(crate) unsafe fn uri_parameter<'a>(
        &self,
        name: NonNull<c_char>,
        key: &CStr,
    ) -> Option<&'a CStr> {
        let uri_parameter = self.table.uri_parameter?;
        // SAFETY: the caller's promise, and `key` is NUL-terminated.
        let value = unsafe { uri_parameter(name.as_ptr(), key.as_ptr()) };
        // SAFETY: a result that is not NULL is a NUL-terminated string inside the memory of `name`.
        (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
    }

    /// A URI parameter read as a truth value.
    ///
    /// # Safety
    /// As for [`Api::uri_parameter`].
    pub(crate) unsafe fn uri_boolean(
        &self,
        name: NonNull<c_char>,
        key: &CStr,
        default: bool,
    ) -> bool {
        match self.table.uri_boolean {
            // SAFETY: the caller's promise, and `key` is NUL-terminated.
            Some(uri_boolean) => unsafe {
                uri_boolean(name.as_ptr(), key.as_ptr(), c_int::from(default)) != 0
            },
            None => default,
        }
    }

    /// The VFS of that name, or NULL.
    pub(crate) fn vfs_find(&self, name: &CStr) -> *mut sqlite3_vfs {
        match self.table.vfs_find {
            // SAFETY: `name` is NUL-terminated; initialises the library if need be and searches its list.
            Some(vfs_find) => unsafe { vfs_find(name.as_ptr()) },
            None => ptr::null_mut(),
        }
    }

    /// Adds a VFS to the library's list, or moves it to the list's head.
    ///
    /// # Safety
    /// `vfs` is complete, and stays where it is for the rest of the process.
    pub(crate) unsafe fn vfs_register(&self, vfs: *mut sqlite3_vfs, make_default: bool) -> c_int {
        match self.table.vfs_register {
            // SAFETY: the caller's promise.
            Some(vfs_register) => unsafe { vfs_register(vfs, c_int::from(make_default)) },
            None => Code::ERROR.raw(),
        }
    }
}

impl Api {
    /// An address inside the library, for telling libraries apart and keeping them in memory.
    #[must_use]
    pub fn address(&self) -> *const std::ffi::c_void {
        ptr::from_ref(self.table).cast()
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({:p})", self.table)
    }
}
