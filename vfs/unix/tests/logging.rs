//! What the application's `sqlite3_log` hears when a file can't be opened, deleted or locked: which file, and why.
//!
//! One test only: the log's callback is one per process, and set before SQLite is used.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use support::{beside, register};

static LINES: Mutex<Vec<(c_int, String)>> = Mutex::new(Vec::new());

unsafe extern "C" fn remember(_: *mut c_void, code: c_int, message: *const c_char) {
    // SAFETY: SQLite passes a NUL-terminated message.
    let message = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    LINES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((code, message));
}

/// The lines since the last look, from this crate: SQLite's own name a line of its source.
fn heard() -> Vec<(c_int, String)> {
    std::mem::take(&mut *LINES.lock().unwrap_or_else(PoisonError::into_inner))
        .into_iter()
        .filter(|(_, line)| !line.contains("at line"))
        .collect()
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, OpenFlags::default(), c"linux")
}

#[test]
fn failures_are_logged_with_file_and_cause() {
    // SAFETY: SQLite is not initialised yet; the callback stays.
    let code = unsafe {
        ffi::sqlite3_config(
            ffi::SQLITE_CONFIG_LOG,
            remember as unsafe extern "C" fn(*mut c_void, c_int, *const c_char),
            std::ptr::null_mut::<c_void>(),
        )
    };
    assert_eq!(code, 0);
    register();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");

    let long = dir.path().join("d".repeat(255)).join("e".repeat(255));
    assert!(open(&long).is_err());
    let lines = heard();
    assert!(
        lines.len() == 1 && lines[0].1.contains("512") && lines[0].1.contains("eee"),
        "{lines:?}"
    );

    let missing = dir.path().join("no/such/folder/x.db");
    assert!(open(&missing).is_err());
    let lines = heard();
    assert!(
        lines
            .iter()
            .any(|(code, line)| *code == ffi::SQLITE_CANTOPEN
                && line.contains("no/such/folder/x.db")
                && line.contains("No such file")),
        "{lines:?}"
    );

    let db = open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
        .unwrap();
    drop(db);
    assert_eq!(heard(), [], "all is well");

    std::os::unix::fs::symlink("x.db", beside(&path, "-shm")).unwrap();
    let db = open(&path).unwrap();
    assert!(db.execute_batch("SELECT * FROM t").is_err());
    let lines = heard();
    assert!(
        lines
            .iter()
            .any(|(code, line)| *code == ffi::SQLITE_CANTOPEN
                && line.contains("-shm")
                && line.contains("x.db")
                && line.contains("symbolic link")),
        "{lines:?}"
    );

    // SAFETY: the VFS that was registered above, and a path that ends with a NUL.
    let code = unsafe {
        let vfs = ffi::sqlite3_vfs_find(c"linux".as_ptr());
        let folder = std::ffi::CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        (*vfs).xDelete.unwrap()(vfs, folder.as_ptr(), 0)
    };
    assert_eq!(code, ffi::SQLITE_IOERR_DELETE);
    let lines = heard();
    assert!(
        lines.len() == 1 && lines[0].1.contains(dir.path().to_str().unwrap()),
        "{lines:?}"
    );
}
