//! What reaches the change log is exactly what transactions change.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::fs;
use support::{Follower, Notes, World, fill};

#[test]
fn the_log_of_each_transaction_makes_the_file_again() {
    for journal_mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        for page_size in [512, 4096, 65536] {
            let world = World::new();
            let db = world.open();
            db.execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA auto_vacuum=FULL; PRAGMA journal_mode={journal_mode};
                 PRAGMA synchronous=OFF; PRAGMA cache_size=5; CREATE TABLE t(id INTEGER PRIMARY KEY, x);"
            ))
            .unwrap();
            let mut follower = Follower::start(&world);
            let mut check = |what: &str, transactions: u64| {
                assert_eq!(
                    follower.follow(),
                    transactions,
                    "{what} {journal_mode} {page_size}"
                );
                assert!(
                    follower.has_the_same_as(&world),
                    "{what} {journal_mode} {page_size}"
                );
            };
            fill(&db, 500, 700);
            check("insert", 1);
            db.execute_batch("UPDATE t SET x=randomblob(10) WHERE id%50=0")
                .unwrap();
            check("update", 1);
            db.execute_batch("DELETE FROM t WHERE id%2=0").unwrap();
            check("delete", 1);
            db.execute_batch("BEGIN; SAVEPOINT a").unwrap();
            fill(&db, 200, 900);
            db.execute_batch("ROLLBACK TO a; UPDATE t SET x=1 WHERE id<9; COMMIT")
                .unwrap();
            check("savepoint", 1);
            db.execute_batch("BEGIN").unwrap();
            fill(&db, 500, 900);
            db.execute_batch("ROLLBACK").unwrap();
            check("roll-back after a spill", 1);
            db.execute_batch("VACUUM").unwrap();
            check("vacuum", 1);
            db.execute_batch("DELETE FROM t").unwrap();
            check("shrink", 1);
            db.query_row("SELECT count(*) FROM t", [], |_| Ok(()))
                .unwrap();
            db.execute_batch("BEGIN IMMEDIATE; COMMIT; BEGIN EXCLUSIVE; ROLLBACK")
                .unwrap();
            check("nothing was written", 0);
        }
    }
}

#[test]
fn growth_by_chunk_size_is_logged() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let mut follower = Follower::start(&world);
    let mut chunk_size = 1_000_000;
    // SAFETY: an open connection, and an int for a control that takes one.
    unsafe {
        libsqlite3_sys::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            libsqlite3_sys::SQLITE_FCNTL_CHUNK_SIZE,
            (&raw mut chunk_size).cast(),
        );
    }
    fill(&db, 10, 500);
    assert_eq!(follower.follow(), 1);
    assert_eq!(fs::metadata(world.path()).unwrap().len(), 1_000_000);
    assert!(follower.has_the_same_as(&world));
    fill(&db, 3000, 500);
    db.execute_batch("DELETE FROM t; VACUUM").unwrap();
    assert_eq!(follower.follow(), 3);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn two_connections_take_turns_in_one_log() {
    let world = World::new();
    let (a, b) = (world.open(), world.open());
    a.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let mut follower = Follower::start(&world);
    for _ in 0..5 {
        fill(&a, 20, 300);
        fill(&b, 20, 300);
    }
    assert_eq!(follower.follow(), 10);
    assert!(follower.has_the_same_as(&world));
}

const CRASH_IN: &str = "VERNEUIL_TEST_CRASH_IN";

/// The body of a process that dies in the middle of a transaction; does nothing when it runs as a test.
#[test]
fn crash() {
    let Ok(dir) = std::env::var(CRASH_IN) else {
        return;
    };
    let world = World::at(dir.as_ref(), Notes::default());
    let db = world.open();
    db.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
    fill(&db, 500, 500);
    std::process::abort();
}

#[test]
fn what_a_dead_writer_left_is_handed_to_the_copier_by_the_one_that_rolls_back() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let follower = Follower::start(&world);
    let died = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash"])
        .env(CRASH_IN, world.dir())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!died.success());
    assert_eq!(follower.lock.epoch() % 2, 1, "somebody died in the middle");
    assert!(
        !follower.lock.dirty().unwrap().is_empty(),
        "an exact list of what it may have changed"
    );
    assert!(!follower.has_the_same_as(&world));

    let rows: i64 = db
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "rolled back");
    assert!(follower.has_the_same_as(&world));
    assert_eq!(follower.lock.epoch() % 2, 0);
    assert!(
        follower.lock.has_todo().unwrap(),
        "to be read from the file"
    );
}

#[test]
fn a_foreign_commit_is_noticed_by_the_next_writer() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let follower = Follower::start(&world);
    let foreign = Connection::open(world.path()).unwrap();
    fill(&foreign, 10, 300);
    assert!(!follower.lock.has_todo().unwrap());
    fill(&db, 1, 1);
    assert!(follower.lock.has_todo().unwrap());
}
