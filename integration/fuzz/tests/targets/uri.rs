//! URIs: whatever stands behind the folder's name, the `verneuil` VFS opens the file that SQLite's own VFS opens, or refuses as it
//! does; and a read-only URI makes no file.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use verneuil_fuzz::{fuzz, script, seeds};
use verneuil_tracking::TrackingVfs;
use verneuil_unix::UnixOptions;

#[path = "../../../../vfs/abi/tests/common/mod.rs"]
mod common;

/// Registers `verneuil` with the SQLite of this program.
fn register() {
    verneuil_abi::register(common::api(), c"verneuil", false, || {
        TrackingVfs::new(UnixOptions::default(), None)
    })
    .unwrap();
}

/// What became of a URI: the file that was opened and its only table's row, or SQLite's code.
fn opened(uri: &str, vfs: &std::ffi::CStr) -> Result<(Option<String>, Option<i64>), i32> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match Connection::open_with_flags_and_vfs(uri, flags, vfs) {
        Ok(connection) => {
            let row = connection.query_row("SELECT k FROM t", [], |row| row.get(0));
            Ok((connection.path().map(str::to_owned), row.ok()))
        }
        Err(rusqlite::Error::SqliteFailure(error, _)) => Err(error.extended_code),
        // A NUL in the name: it does not get to SQLite.
        Err(_) => Err(0),
    }
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn any_uri_leads_to_the_file_that_sqlite_itself_would_open() {
    register();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    for (name, row) in [("there.db", 1), ("sub/other.db", 2)] {
        let connection = Connection::open(root.join(name)).unwrap();
        connection
            .execute_batch(&format!("CREATE TABLE t(k); INSERT INTO t VALUES({row})"))
            .unwrap();
    }
    std::os::unix::fs::symlink("sub/other.db", root.join("link.db")).unwrap();
    let before = (names(&root), names(&root.join("sub")));
    let plain = format!("file:{}/there.db", root.display());
    assert_eq!(opened(&plain, c"verneuil"), opened(&plain, c"unix"));
    assert!(opened(&plain, c"verneuil").unwrap().1 == Some(1));

    let objects = seeds::bytes_of(&seeds::uris());
    fuzz!("uri", |input: &[u8]| {
        let rest = script::object(&objects, input, input.first().is_some_and(u8::is_ascii));
        let uri = format!("file:{}/{}", root.display(), String::from_utf8_lossy(&rest));
        let (ours, theirs) = (opened(&uri, c"verneuil"), opened(&uri, c"unix"));
        assert_eq!(ours, theirs, "{uri:?}");
        assert_eq!(
            (names(&root), names(&root.join("sub"))),
            before,
            "{uri:?} left a file"
        );
    });
}
