//! Files of the `linux` VFS: journals and their modes, hot journals, read-only places, temporary files, file controls.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use support::{Opener, Peer, journal_of, linux, register, serve_sql, stock};

#[test]
fn peer() {
    serve_sql();
}

fn text(db: &Connection, sql: &str) -> String {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

/// Bytes and changes that stock SQLite makes and ours makes are the same, in each journal mode and with each page size.
#[test]
fn databases_are_byte_for_byte_what_stock_sqlite_writes() {
    for journal_mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        for page_size in [512, 4096, 65536] {
            let dir = tempfile::tempdir().unwrap();
            let write = |open: Opener, name: &str| {
                let path = dir.path().join(name);
                let db = open(&path);
                db.execute_batch(&format!(
                    "PRAGMA page_size={page_size}; PRAGMA journal_mode={journal_mode}; PRAGMA cache_size=10;
                     CREATE TABLE t(x); CREATE INDEX i ON t(x);"
                ))
                .unwrap();
                for round in 0..5 {
                    db.execute_batch(&format!(
                        "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
                         INSERT INTO t SELECT i || printf('%.*c', {round} * 20, 'x') FROM n; COMMIT;
                         DELETE FROM t WHERE rowid % 7 = {round};"
                    ))
                    .unwrap();
                }
                if journal_mode != "OFF" {
                    db.execute_batch("BEGIN; DELETE FROM t; ROLLBACK;").unwrap();
                }
                db.execute_batch("VACUUM").unwrap();
                let journal_len = fs::metadata(journal_of(&path))
                    .ok()
                    .map(|metadata| metadata.len());
                drop(db);
                (fs::read(&path).unwrap(), journal_len)
            };
            assert!(
                write(linux, "ours.db") == write(stock, "theirs.db"),
                "{journal_mode} {page_size}"
            );
        }
    }
}

#[test]
fn a_hot_journal_left_by_kill_is_rolled_back_by_either_side() {
    for (dead, alive) in [
        ("linux", stock as Opener),
        ("unix", linux),
        ("linux", linux),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        stock(&path)
            .execute_batch("PRAGMA page_size=1024; CREATE TABLE t(x); INSERT INTO t VALUES(1);")
            .unwrap();
        let committed = fs::read(&path).unwrap();

        let mut peer = Peer::start(dead, &path);
        peer.run("PRAGMA cache_size=1");
        peer.run("PRAGMA cache_spill=1");
        assert_eq!(peer.run("BEGIN"), "ok");
        let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500)
                      SELECT randomblob(500) FROM n";
        assert_eq!(peer.run(&insert.replace('\n', " ")), "ok");
        peer.kill();
        assert_ne!(
            fs::read(&path).unwrap(),
            committed,
            "the transaction reached the file"
        );
        assert!(
            fs::metadata(journal_of(&path)).unwrap().len() > 0,
            "its journal is hot"
        );

        let db = alive(&path);
        assert_eq!(count(&db), 1);
        assert_eq!(text(&db, "PRAGMA integrity_check"), "ok");
        assert!(!journal_of(&path).exists());
        drop(db);
        assert_eq!(fs::read(&path).unwrap(), committed);
    }
}

#[test]
fn a_journal_takes_mode_and_owner_of_its_database() {
    for mode in [0o600, 0o664, 0o666] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let db = linux(&path);
        db.execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o777,
            0o644,
            "the default mode under the usual umask"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(12_345), Some(12_346)).unwrap();
        }
        db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)")
            .unwrap();
        let journal = fs::metadata(journal_of(&path)).unwrap();
        assert_eq!(journal.mode() & 0o777, mode);
        if is_root {
            assert_eq!((journal.uid(), journal.gid()), (12_345, 12_346));
        }
        db.execute_batch("COMMIT").unwrap();
    }
}

#[test]
fn a_database_that_cannot_be_written_is_opened_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    stock(&path)
        .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    register();
    let db = Connection::open_with_flags_and_vfs(&path, OpenFlags::SQLITE_OPEN_READ_ONLY, c"linux")
        .unwrap();
    assert_eq!(count(&db), 1);
    let error = db.execute_batch("INSERT INTO t VALUES(2)").unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::ReadOnly)
    );

    let missing = Connection::open_with_flags_and_vfs(
        dir.path().join("missing.db"),
        OpenFlags::SQLITE_OPEN_READ_WRITE,
        c"linux",
    );
    assert_eq!(
        missing.unwrap_err().sqlite_error_code(),
        Some(rusqlite::ErrorCode::CannotOpen)
    );
    assert!(!dir.path().join("missing.db").exists());
}

#[test]
fn links_are_resolved_or_refused_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("real.db");
    stock(&path).execute_batch("CREATE TABLE t(x)").unwrap();
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink("real.db", &link).unwrap();
    let db = linux(&link);
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)")
        .unwrap();
    assert!(
        journal_of(&path).exists(),
        "the journal is beside the file, not beside the link"
    );
    db.execute_batch("COMMIT").unwrap();
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    assert!(Connection::open_with_flags_and_vfs(&link, flags, c"linux").is_err());
    assert!(Connection::open_with_flags_and_vfs(&path, flags, c"linux").is_ok());
}

#[test]
fn temporary_files_leave_no_names_behind() {
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join("temp");
    fs::create_dir(&temp).unwrap();
    verneuil_abi::register(support::api(), c"linux-temp", false, || {
        verneuil_unix::UnixVfs::new(
            "linux-temp",
            verneuil_unix::UnixOptions {
                temp_dir: Some(temp.clone()),
                ..Default::default()
            },
        )
    })
    .unwrap();
    let path = dir.path().join("x.db");
    let db =
        Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), c"linux-temp").unwrap();
    db.execute_batch(
        "PRAGMA temp_store=FILE; PRAGMA cache_size=5; CREATE TEMP TABLE s(x);
         INSERT INTO s WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
         SELECT randomblob(300) FROM n; CREATE INDEX temp.i ON s(x);",
    )
    .unwrap();
    let open_there = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(&temp))
        .count();
    assert!(
        open_there > 0,
        "temporary files are in the configured directory"
    );
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0, "and have no names");
}

/// The file controls of `unix` that make sense here, asked of both.
#[test]
fn file_controls_answer_as_unix_does() {
    use libsqlite3_sys as ffi;
    let dir = tempfile::tempdir().unwrap();
    let int = |db: &Connection, op: i32, mut value: i32| {
        // SAFETY: an open connection, and an int for controls that take one.
        let code = unsafe {
            ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), op, (&raw mut value).cast())
        };
        (code, value)
    };
    let mut sizes = Vec::new();
    for (open, name) in [(linux as Opener, "a.db"), (stock, "b.db")] {
        let path = dir.path().join(name);
        let db = open(&path);
        db.execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_LOCKSTATE, -1), (0, 0));
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_LOCKSTATE, -1), (0, 2));
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_LAST_ERRNO, -1), (0, 0));
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE, -1), (0, 1));
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE, 0), (0, 0));
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE, -1), (0, 0));
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_HAS_MOVED, -1), (0, 0));
        assert_eq!(int(&db, 123_456, 0).0, ffi::SQLITE_NOTFOUND);
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_CHUNK_SIZE, 1 << 20).0, 0);
        db.execute_batch("INSERT INTO t VALUES(randomblob(5000))")
            .unwrap();
        let grown = fs::metadata(&path).unwrap().len();
        assert_eq!(grown, 1 << 20, "grows by whole chunks");
        db.execute_batch("INSERT INTO t VALUES(randomblob(1500000)); DELETE FROM t; VACUUM")
            .unwrap();
        sizes.push(fs::metadata(&path).unwrap().len());
        fs::rename(&path, dir.path().join("elsewhere.db")).unwrap();
        assert_eq!(int(&db, ffi::SQLITE_FCNTL_HAS_MOVED, -1), (0, 1));
    }
    assert_eq!(sizes[0], sizes[1], "shrinks by whole chunks");
}

#[test]
fn psow_is_a_uri_parameter() {
    use libsqlite3_sys as ffi;
    register();
    let dir = tempfile::tempdir().unwrap();
    for (psow, expected) in [("psow=0", 0), ("psow=1", 1), ("x=y", 1)] {
        let uri = format!(
            "file:{}?vfs=linux&{psow}",
            dir.path().join("x.db").display()
        );
        let db = Connection::open(Path::new(&uri)).unwrap();
        let mut value = -1;
        // SAFETY: an open connection and an int.
        unsafe {
            ffi::sqlite3_file_control(
                db.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE,
                (&raw mut value).cast(),
            );
        }
        assert_eq!(value, expected, "{psow}");
    }
}
