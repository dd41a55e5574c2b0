//! Nothing that happens on the spool's side reaches the application, except through the pragma that asks.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::sync::atomic::Ordering;
use support::{Notes, World, flush};

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn the_flush_pragma_answers_1_or_fails_with_the_reason() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(x)").unwrap();
    for argument in ["", "=now", "(force)", "=2", "='NOW'"] {
        assert_eq!(flush(&db, argument), Ok("1".to_owned()), "{argument}");
    }
    assert_eq!(world.notes.flushes.load(Ordering::SeqCst), 5);

    *world.notes.failure.lock().unwrap() =
        Some("3 chunks are left: the store is on fire".to_owned());
    assert!(flush(&db, "").unwrap_err().contains("the store is on fire"));
    assert!(
        flush(&db, "=sometime")
            .unwrap_err()
            .contains("unknown argument")
    );
    let other: Option<String> = db
        .query_row("PRAGMA verneuil_nonsense", [], |row| row.get(0))
        .ok();
    assert_eq!(other, None, "other pragmas go on to SQLite");
    assert_eq!(
        db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
            .unwrap(),
        "delete"
    );
}

#[test]
fn a_flush_inside_of_a_writing_transaction_says_so() {
    let world = World::new();
    let db = world.open();
    db.execute_batch(
        "CREATE TABLE t(x); PRAGMA cache_size=1; BEGIN;
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500)
         SELECT randomblob(500) FROM n",
    )
    .unwrap();
    assert!(flush(&db, "").unwrap_err().contains("end it first"));
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(flush(&db, ""), Ok("1".to_owned()));
}

#[test]
fn connections_that_cannot_be_replicated_say_why() {
    let world = World::new();
    world.open().execute_batch("CREATE TABLE t(x)").unwrap();
    let served = world.notes.served.lock().unwrap().len();
    for (parameters, reason) in [
        ("nolock=1", "nolock=1"),
        ("immutable=1", "immutable=1"),
        ("mode=ro", "read-only"),
    ] {
        let db = world.open_with(parameters);
        assert_eq!(count(&db), 0);
        let error = flush(&db, "").unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(world.notes.served.lock().unwrap().len(), served);
}

#[test]
fn a_spool_that_cannot_be_used_stops_replication_only_and_only_as_long_as_it_lasts() {
    let world = World::new();
    let spool = world.dir().join("spool");
    fs::write(&spool, "in the way").unwrap();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    assert!(world.database().trouble().is_some());
    assert_eq!(count(&db), 1);

    fs::remove_file(&spool).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while world.database().trouble().is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "it recovers by itself"
        );
        db.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_panic_on_the_spools_side_never_reaches_the_application() {
    let world = World::with(Notes {
        panics: true,
        ..Notes::default()
    });
    let db = world.open();
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    assert_eq!(count(&db), 1);
    assert!(
        flush(&db, "")
            .unwrap_err()
            .contains("Verneuil's own code failed")
    );
}

#[test]
fn journals_attached_and_temporary_files_work() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(x); PRAGMA temp_store=FILE; CREATE TEMP TABLE s(x); INSERT INTO s VALUES(1)")
        .unwrap();
    db.execute(
        "ATTACH ? AS other",
        [world.dir().join("other.db").to_str().unwrap()],
    )
    .unwrap();
    db.execute_batch(
        "CREATE TABLE other.u(x); BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(1); COMMIT",
    )
    .unwrap();
    assert_eq!(count(&db), 1);
    let served = world.notes.served.lock().unwrap();
    assert_eq!(served.len(), 2, "two main databases, and nothing else");
}

#[test]
fn the_vfs_reports_its_name() {
    let world = World::new();
    let db = Connection::open_with_flags_and_vfs(
        world.path(),
        OpenFlags::default(),
        world.vfs.as_c_str(),
    )
    .unwrap();
    let mut name: *mut std::ffi::c_char = std::ptr::null_mut();
    // SAFETY: an open connection, and a place for a string that is ours to free.
    unsafe {
        let code = libsqlite3_sys::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            libsqlite3_sys::SQLITE_FCNTL_VFSNAME,
            (&raw mut name).cast(),
        );
        assert_eq!(code, 0);
        assert_eq!(std::ffi::CStr::from_ptr(name), c"verneuil");
        libsqlite3_sys::sqlite3_free(name.cast());
    }
}
