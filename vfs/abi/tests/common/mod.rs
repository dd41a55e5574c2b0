//! The function table of the SQLite library that a test is linked with: what an extension would be given.

use libsqlite3_sys as ffi;
use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::OnceLock;
use verneuil_abi::Api;
use verneuil_abi::sys::sqlite3_api_routines;

static TABLE: OnceLock<usize> = OnceLock::new();

unsafe extern "C" fn remember(
    _: *mut ffi::sqlite3,
    _: *mut *mut c_char,
    table: *const ffi::sqlite3_api_routines,
) -> c_int {
    TABLE.get_or_init(|| table.expose_provenance());
    0
}

/// The table, from a connection that is opened with an automatic extension and closed again.
pub fn table() -> *const sqlite3_api_routines {
    if TABLE.get().is_none() {
        // SAFETY: plain calls of the linked library; `remember` has the type that automatic extensions have.
        unsafe {
            assert_eq!(ffi::sqlite3_auto_extension(Some(remember)), 0);
            let mut db = ptr::null_mut();
            assert_eq!(ffi::sqlite3_open(c":memory:".as_ptr(), &raw mut db), 0);
            ffi::sqlite3_close(db);
            ffi::sqlite3_cancel_auto_extension(Some(remember));
        }
    }
    ptr::with_exposed_provenance(*TABLE.get().unwrap())
}

/// The table, wrapped.
#[allow(dead_code)] // some tests need the bare table only
pub fn api() -> Api {
    // SAFETY: from the linked library, which stays.
    unsafe { Api::new(table()) }.unwrap()
}
