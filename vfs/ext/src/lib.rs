//! The loadable extension `libverneuil_vfs.so`, the static library of the same name, and the Rust crate: registers the
//! VFSes of `verneuil-unix` (`linux`) and `verneuil-tracking` (`verneuil`) with the SQLite library that loads it.
//!
//! - Loaded: `.load ./libverneuil_vfs`, `load_extension('…')`, `sqlite3_load_extension(db, "…", 0, &message)`; SQLite
//!   finds the entry point [`sqlite3_verneuilvfs_init`] by the library's name. It stays loaded.
//! - Linked into a C program: `sqlite3_auto_extension((void(*)(void))sqlite3_verneuilvfs_init)`, then open any
//!   connection (`:memory:` will do): SQLite calls the entry point with its function table.
//! - Linked into a Rust program or library: the same with [`auto_extension_entry`], if need be after [`configure`].
//!
//! Any of them may happen again: what is registered stays as it is.
//!
//! In order: this file (entry points), `setup` (configuration to VFSes), `replication` (the copier's wiring), `logging`
//! (lines on stderr and in `sqlite3_log`), `residence` (where the code was loaded from), `self_check` (a test mode).

mod logging;
mod replication;
mod residence;
mod self_check;
mod setup;

pub use setup::{AlreadyConfigured, configure};

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use verneuil_abi::code::{SQLITE_OK, SQLITE_OK_LOAD_PERMANENTLY};
use verneuil_abi::sys::{sqlite3, sqlite3_api_routines};
use verneuil_abi::{Api, Code};

/// The entry point that SQLite calls when it loads the library.
///
/// Answers `SQLITE_OK_LOAD_PERMANENTLY`; but `SQLITE_OK` when it is part of the main program, since there is nothing to
/// keep loaded then, and `sqlite3_auto_extension` takes every other answer for a failure.
///
/// # Safety
/// `error` is NULL or a place for a message; `table` is NULL or the function table of a SQLite library that is never
/// unloaded (loading keeps it in memory, if it can).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_verneuilvfs_init(
    _db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { enter(error, table) } {
        SQLITE_OK if !residence::in_main_program() => SQLITE_OK_LOAD_PERMANENTLY,
        code => code,
    }
}

/// The entry point for `sqlite3_auto_extension` in Rust programs, wherever they are linked to: answers `SQLITE_OK`.
///
/// # Safety
/// As for [`sqlite3_verneuilvfs_init`].
pub unsafe extern "C" fn auto_extension_entry(
    _db: *mut sqlite3,
    error: *mut *mut c_char,
    table: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(error, table) }
}

/// What both entry points do.
///
/// # Safety
/// As for [`sqlite3_verneuilvfs_init`].
unsafe fn enter(error: *mut *mut c_char, table: *const sqlite3_api_routines) -> c_int {
    let message = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        let api = unsafe { Api::new(table) }.map_err(|error| error.to_string())?;
        setup::register(api)
    }))
    .unwrap_or_else(|panic| {
        std::mem::forget(panic);
        Err("bug: the entry point panicked".to_owned())
    });
    let Err(message) = message else {
        return SQLITE_OK;
    };
    if !error.is_null() {
        // SAFETY: `error` is a place for a message by the caller's promise, `table` NULL or a table.
        unsafe {
            error.write(Api::allocate_string_in(
                table,
                &format!("verneuil: {message}"),
            ))
        };
    }
    Code::ERROR.raw()
}
