//! A prefix of `sqlite3_api_routines`, the table that SQLite hands to extensions; [`crate::Api`] wraps it.
//!
//! Fields of that table never move or go away: new ones are appended. What is not used here is skipped as slots,
//! counted in pointers; `tests/layout.rs` compares every field's address with the linked library's function.

use super::sqlite3_vfs;
use std::ffi::{c_char, c_int, c_void};

/// A function that nobody calls from here; as wide as a pointer, but free to cross threads.
type Slot = usize;

/// The table's first 249 entries: what SQLite 3.31 has, as far as `filename_wal`.
#[repr(C)]
pub struct sqlite3_api_routines {
    _aggregate_context: [Slot; 58],
    /// `sqlite3_free`
    pub free: Option<unsafe extern "C" fn(*mut c_void)>,
    _free_table: [Slot; 8],
    /// `sqlite3_libversion_number`
    pub libversion_number: Option<unsafe extern "C" fn() -> c_int>,
    /// `sqlite3_malloc`
    pub malloc: Option<unsafe extern "C" fn(c_int) -> *mut c_void>,
    _mprintf: [Slot; 72],
    /// `sqlite3_vfs_find`
    pub vfs_find: Option<unsafe extern "C" fn(*const c_char) -> *mut sqlite3_vfs>,
    /// `sqlite3_vfs_register`
    pub vfs_register: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int) -> c_int>,
    _vfs_unregister: [Slot; 24],
    /// `sqlite3_log`
    pub log: Option<unsafe extern "C" fn(c_int, *const c_char, ...)>,
    _sourceid: [Slot; 19],
    /// `sqlite3_uri_boolean`
    pub uri_boolean: Option<unsafe extern "C" fn(*const c_char, *const c_char, c_int) -> c_int>,
    _uri_int64: [Slot; 1],
    /// `sqlite3_uri_parameter`
    pub uri_parameter: Option<unsafe extern "C" fn(*const c_char, *const c_char) -> *const c_char>,
    _xvsnprintf: [Slot; 56],
    /// `sqlite3_filename_database`
    pub filename_database: Option<unsafe extern "C" fn(*const c_char) -> *const c_char>,
    _filename_journal: [Slot; 2],
}
