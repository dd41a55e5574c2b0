//! Exclusive locking mode: no unlock follows a commit, and a roll-back is silent; what reaches the change log is the same.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::fs;
use support::{Follower, Notes, World, fill};

const MODES: [&str; 3] = ["DELETE", "TRUNCATE", "PERSIST"];

/// A world with a table, a follower, and a connection that keeps EXCLUSIVE.
fn exclusive(journal_mode: &str, synchronous: &str) -> (World, Follower, Connection) {
    let world = World::new();
    world
        .open()
        .execute_batch("PRAGMA auto_vacuum=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let follower = Follower::start(&world);
    let db = world.open();
    db.execute_batch(&format!(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode={journal_mode}; PRAGMA synchronous={synchronous};
         PRAGMA cache_size=5"
    ))
    .unwrap();
    (world, follower, db)
}

#[test]
fn the_log_of_each_exclusive_transaction_makes_the_file_again() {
    for journal_mode in MODES {
        for synchronous in ["OFF", "FULL"] {
            let (world, mut follower, db) = exclusive(journal_mode, synchronous);
            // How many records: mostly one.
            let mut records = |what: &str| {
                let context = format!("{what} {journal_mode} {synchronous}");
                let records = follower.follow();
                assert!(follower.has_the_same_as(&world), "{context}");
                assert!(follower.lock.exclusive_owner_lives(), "{context}");
                records
            };
            fill(&db, 500, 700);
            assert_eq!(records("insert"), 1);
            db.execute_batch("UPDATE t SET x=randomblob(10) WHERE id%50=0")
                .unwrap();
            assert_eq!(records("update"), 1);
            db.execute_batch("BEGIN; SAVEPOINT a").unwrap();
            fill(&db, 200, 900);
            db.execute_batch("ROLLBACK TO a; UPDATE t SET x=1 WHERE id<9; COMMIT")
                .unwrap();
            // The cut of the file, when it comes, follows the end of the journal: a record of its own.
            assert!(records("savepoint") >= 1);
            db.execute_batch("BEGIN").unwrap();
            fill(&db, 500, 900);
            db.execute_batch("ROLLBACK").unwrap();
            assert_eq!(records("roll-back after a spill"), 1);
            fill(&db, 3, 10);
            assert_eq!(records("commit after a roll-back"), 1);
            db.execute_batch("DELETE FROM t WHERE id%2=0").unwrap();
            assert!(records("delete") >= 1);
            db.execute_batch("VACUUM").unwrap();
            assert!(records("vacuum") >= 1);
            db.execute_batch("DELETE FROM t").unwrap();
            assert!(records("shrink") >= 1);
            db.execute_batch("BEGIN; COMMIT; BEGIN EXCLUSIVE; ROLLBACK")
                .unwrap();
            assert_eq!(records("nothing was written"), 0);
        }
    }
}

#[test]
fn leaving_exclusive_mode_ends_the_ownership_and_goes_on_in_the_log() {
    let (world, mut follower, db) = exclusive("DELETE", "OFF");
    fill(&db, 10, 300);
    assert_eq!(follower.follow(), 1);
    assert!(follower.lock.exclusive_owner_lives());
    db.execute_batch("PRAGMA locking_mode=NORMAL; SELECT count(*) FROM t")
        .unwrap();
    assert!(!follower.lock.exclusive_owner_lives());
    for _ in 0..3 {
        fill(&db, 10, 300);
        fill(&world.open(), 10, 300);
        assert_eq!(follower.follow(), 2);
        assert!(!follower.lock.exclusive_owner_lives());
    }
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    fill(&db, 10, 300);
    assert_eq!(follower.follow(), 1);
    assert!(follower.lock.exclusive_owner_lives());
    drop(db);
    assert!(!follower.lock.exclusive_owner_lives());
    assert_eq!(follower.follow(), 0);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn a_mode_that_changes_unseen_is_noticed_at_the_next_call() {
    let world = World::new();
    world
        .open()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let mut follower = Follower::start(&world);
    // The pragma goes to the main database, which is another VFS'.
    let db = Connection::open(world.dir().join("foreign.db")).unwrap();
    let vfs = world.vfs.to_str().unwrap();
    let uri = format!("file:{}?vfs={vfs}", world.path().display());
    db.execute("ATTACH ? AS ours", [uri]).unwrap();
    let insert = "INSERT INTO ours.t(x) VALUES(randomblob(500))";
    db.execute_batch(insert).unwrap();
    db.execute_batch(insert).unwrap();
    assert_eq!(follower.follow(), 2);
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    db.execute_batch(insert).unwrap();
    // Its unlock did not come; a read is enough.
    db.query_row("SELECT count(*) FROM ours.t", [], |_| Ok(()))
        .unwrap();
    db.execute_batch(insert).unwrap();
    assert_eq!(follower.follow(), 2, "also the one that ended late");
    assert!(follower.has_the_same_as(&world));
    assert!(follower.lock.exclusive_owner_lives());
    // A roll-back in that mode, too.
    db.execute_batch("PRAGMA ours.cache_size=1; BEGIN; INSERT INTO ours.t(x) WITH RECURSIVE
         n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) SELECT randomblob(500) FROM n; ROLLBACK")
        .unwrap();
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn a_statement_that_fails_and_a_journal_in_memory_are_logged_with_the_next_commit() {
    for journal_mode in ["MEMORY", "OFF"] {
        let (world, mut follower, db) = exclusive(journal_mode, "OFF");
        fill(&db, 100, 300);
        assert_eq!(follower.follow(), 1, "{journal_mode}");
        if journal_mode == "MEMORY" {
            db.execute_batch("BEGIN").unwrap();
            fill(&db, 500, 900);
            db.execute_batch("ROLLBACK").unwrap();
        }
        db.execute_batch("UPDATE t SET x=2 WHERE id=3").unwrap();
        assert_eq!(follower.follow(), 1, "{journal_mode}");
        assert!(follower.has_the_same_as(&world), "{journal_mode}");
    }
}

const CRASH_IN: &str = "VERNEUIL_TEST_CRASH_IN";

/// The body of a process that dies in the middle of an exclusive transaction; does nothing when it runs as a test.
#[test]
fn crash() {
    let Ok(dir) = std::env::var(CRASH_IN) else {
        return;
    };
    let world = World::at(dir.as_ref(), Notes::default());
    let db = world.open();
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=1")
        .unwrap();
    fill(&db, 1, 1);
    db.execute_batch("BEGIN").unwrap();
    fill(&db, 500, 500);
    std::process::abort();
}

#[test]
fn a_hot_journal_is_recovered_into_the_exclusive_mode() {
    for locking_mode in ["NORMAL", "EXCLUSIVE"] {
        let world = World::new();
        world
            .open()
            .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
            .unwrap();
        let mut follower = Follower::start(&world);
        let died = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash"])
            .env(CRASH_IN, world.dir())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(!died.success());
        assert_eq!(follower.lock.epoch() % 2, 1);
        assert!(
            !follower.lock.exclusive_owner_lives(),
            "its process is dead"
        );
        let db = world.open();
        db.execute_batch(&format!("PRAGMA locking_mode={locking_mode}"))
            .unwrap();
        let rows: i64 = db
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
        assert_eq!(follower.lock.epoch() % 2, 0, "{locking_mode}");
        assert!(follower.lock.dirty().unwrap().is_empty());
        assert!(
            follower.lock.has_todo().unwrap(),
            "what the dead writer left"
        );
        // What a copier would do.
        follower = {
            drop(follower);
            Follower::start(&world)
        };
        fill(&db, 10, 100);
        assert_eq!(follower.follow(), 1, "{locking_mode}");
        assert!(follower.has_the_same_as(&world), "{locking_mode}");
        assert_eq!(
            follower.lock.exclusive_owner_lives(),
            locking_mode == "EXCLUSIVE"
        );
    }
}

#[test]
fn two_replicated_databases_in_one_transaction_are_both_logged() {
    for locking_mode in ["NORMAL", "EXCLUSIVE"] {
        for journal_mode in MODES {
            let world = World::new();
            let db = world.open();
            db.execute_batch(&format!(
                "PRAGMA locking_mode={locking_mode}; PRAGMA journal_mode={journal_mode};
                 CREATE TABLE t(id INTEGER PRIMARY KEY, x)"
            ))
            .unwrap();
            let mut first = Follower::start(&world);
            let other = world.dir().join("other.db");
            db.execute("ATTACH ? AS other", [other.to_str().unwrap()])
                .unwrap();
            db.execute_batch(&format!(
                "PRAGMA other.journal_mode={journal_mode}; CREATE TABLE other.u(id INTEGER PRIMARY KEY, x)"
            ))
            .unwrap();
            let mut second = Follower::of(world.database(), &other);
            let context = format!("{locking_mode} {journal_mode}");
            for statement in ["COMMIT", "ROLLBACK", "COMMIT"] {
                db.execute_batch(&format!(
                    "BEGIN; INSERT INTO t(x) VALUES(randomblob(100)); INSERT INTO u(x) VALUES(randomblob(100)); {statement}"
                ))
                .unwrap();
                let (a, b) = (first.follow(), second.follow());
                if statement == "COMMIT" {
                    assert_eq!((a, b), (1, 1), "{context}");
                }
                assert!(first.has_the_same_as(&world), "{context}");
                assert!(second.has_the_same_as_file(&other), "{context}");
            }
        }
    }
}

#[test]
fn an_exclusive_database_moves_its_journals_end_from_one_thread_to_another() {
    let (world, mut follower, db) = exclusive("PERSIST", "OFF");
    fill(&db, 10, 100);
    assert_eq!(follower.follow(), 1);
    let db = std::thread::spawn(move || {
        db.execute_batch("BEGIN").unwrap();
        fill(&db, 500, 900);
        db
    })
    .join()
    .unwrap();
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
    assert!(fs::metadata(world.dir().join("x.db-journal")).is_ok());
}
