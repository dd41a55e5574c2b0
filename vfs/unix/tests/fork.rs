//! Whatever a forked child does, its parent keeps its locks, its journal and its log; and they end with it.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use nix::unistd::{ForkResult, fork};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support::forked::{BUSY, ForkedChild, alone, count, database, third_process};
use support::{answer, linux, serve_sql};

#[test]
fn peer() {
    if std::env::var_os("VERNEUIL_TEST_PEER").is_some() {
        serve_sql();
    }
}

/// In the midst of a transaction of the parent, a child ends it, tries to go on with it, closes the connection, exits.
#[test]
fn a_parent_keeps_its_locks_whatever_its_child_does() {
    let _alone = alone();
    for journal_mode in ["delete", "wal"] {
        for deed in ["rollback", "commit", "close", "exit", "insert"] {
            let dir = tempfile::tempdir().unwrap();
            let (path, db) = database(dir.path(), journal_mode);
            let mut other = third_process(&path);
            assert_eq!(other.run("SELECT count(*) FROM t"), "1");
            db.execute_batch("BEGIN IMMEDIATE").unwrap();

            let mut slot = Some(db);
            let child = ForkedChild::new(|| {
                let Some(db) = slot.take() else { return false };
                match deed {
                    "rollback" => answer(&db, "ROLLBACK") == "ok",
                    // Nothing was written: SQLite may want EXCLUSIVE nevertheless.
                    "commit" => ["ok", BUSY].contains(&answer(&db, "COMMIT").as_str()),
                    "insert" => {
                        let inserted = answer(&db, "INSERT INTO t VALUES(66)");
                        let committed = answer(&db, "COMMIT");
                        std::mem::forget(db);
                        inserted.starts_with("error") || committed.starts_with("error")
                    }
                    "close" => db.close().is_ok(),
                    _ => true,
                }
            });
            let db = slot.take().unwrap();
            assert!(child.act(), "{journal_mode} {deed}");
            assert_eq!(
                other.run("BEGIN IMMEDIATE"),
                "busy",
                "{journal_mode} {deed}: the write lock is still the parent's"
            );
            assert_eq!(answer(&db, "INSERT INTO t VALUES(2)"), "ok");
            assert_eq!(answer(&db, "COMMIT"), "ok");
            assert_eq!(other.run("SELECT count(*) FROM t"), "2");
            assert_eq!(other.run("PRAGMA integrity_check"), "ok");
        }
    }
}

/// The parent's transaction has a journal or frames in the log: a child that rolls back, or writes on, leaves them as they are.
#[test]
fn a_parent_keeps_its_journal_and_its_log_whatever_its_child_does() {
    let _alone = alone();
    for journal_mode in ["delete", "truncate", "persist", "wal"] {
        for spilled in [false, true] {
            for deed in [
                "rollback",
                "close",
                "insert and commit",
                "insert and rollback",
            ] {
                let what = format!("{journal_mode} {spilled} {deed}");
                let dir = tempfile::tempdir().unwrap();
                let (path, db) = database(dir.path(), journal_mode);
                let companion = if journal_mode == "wal" {
                    "-wal"
                } else {
                    "-journal"
                };
                db.execute_batch(
                    "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
                     SELECT zeroblob(500) FROM n;
                     PRAGMA cache_size=2; BEGIN IMMEDIATE; DELETE FROM t WHERE rowid<20;",
                )
                .unwrap();
                if spilled {
                    db.execute_batch("UPDATE t SET x=randomblob(500)").unwrap();
                }
                let companion = support::beside(&path, companion);
                let before = (
                    std::fs::read(&companion).unwrap(),
                    std::fs::read(&path).unwrap(),
                );
                let mut slot = Some(db);
                let child = ForkedChild::new(|| {
                    let Some(db) = slot.take() else { return false };
                    if deed.starts_with("insert") {
                        answer(&db, "UPDATE t SET x=x||'child'");
                    }
                    match deed {
                        "rollback" | "insert and rollback" => drop(answer(&db, "ROLLBACK")),
                        "insert and commit" => {
                            let committed = answer(&db, "COMMIT");
                            std::mem::forget(db);
                            return committed.starts_with("error");
                        }
                        _ => {}
                    }
                    drop(db);
                    true
                });
                let db = slot.take().unwrap();
                assert!(child.act(), "{what}");
                let after = (
                    std::fs::read(&companion).unwrap(),
                    std::fs::read(&path).unwrap(),
                );
                assert!(before == after, "{what}");
                assert_eq!(answer(&db, "ROLLBACK"), "ok", "{what}");
                assert_eq!(
                    answer(&db, "SELECT count(*) FROM t WHERE x=zeroblob(500)"),
                    "300"
                );
                assert_eq!(answer(&db, "PRAGMA integrity_check"), "ok");
            }
        }
    }
}

#[test]
fn a_reading_parent_keeps_its_snapshot_whatever_its_child_does() {
    let _alone = alone();
    for journal_mode in ["delete", "wal"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, db) = database(dir.path(), journal_mode);
        let mut other = third_process(&path);
        db.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        let mut slot = Some(db);
        let child = ForkedChild::new(|| {
            slot.take()
                .is_some_and(|db| answer(&db, "COMMIT") == "ok" && db.close().is_ok())
        });
        let db = slot.take().unwrap();
        assert!(child.act());
        if journal_mode == "wal" {
            assert_eq!(other.run("INSERT INTO t VALUES(2)"), "ok");
            assert_eq!(
                other.run("PRAGMA wal_checkpoint(TRUNCATE)"),
                "1",
                "the parent's read mark is still there"
            );
        } else {
            assert_eq!(other.run("BEGIN IMMEDIATE"), "ok");
            assert_eq!(other.run("INSERT INTO t VALUES(2)"), "ok");
            assert_eq!(other.run("COMMIT"), "busy", "SHARED is still there");
        }
        assert_eq!(count(&db), "1");
    }
}

/// A parent that is killed in the midst of a transaction leaves its locks to nobody, though its child lives on.
#[test]
fn the_locks_of_a_killed_parent_end_with_it() {
    let _alone = alone();
    for journal_mode in ["delete", "wal"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, db) = database(dir.path(), journal_mode);
        drop(db);
        let (mut here, mut there) = UnixStream::pair().unwrap();
        // The parent of this story is a child of this process.
        let story_path = path.clone();
        let parent = ForkedChild::new(move || {
            let db = linux(&story_path);
            let begun = answer(&db, "BEGIN IMMEDIATE");
            // SAFETY: as in `ForkedChild::new`; this child of the child only sleeps.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    // Long enough for the test; it ends by itself if the test fails.
                    std::thread::sleep(Duration::from_secs(20));
                    true
                }
                Ok(ForkResult::Parent { child }) => {
                    let inserted = answer(&db, "INSERT INTO t VALUES(2)");
                    let ready = begun == "ok" && inserted == "ok";
                    let told = there.write_all(&child.as_raw().to_ne_bytes());
                    std::thread::sleep(Duration::from_secs(if ready && told.is_ok() {
                        20
                    } else {
                        0
                    }));
                    false
                }
                Err(_) => false,
            }
        });
        let pid = parent.pid;
        let acting = std::thread::spawn(move || parent.act());
        let mut sleeper = [0; 4];
        here.read_exact(&mut sleeper).unwrap();
        let sleeper = nix::unistd::Pid::from_raw(i32::from_ne_bytes(sleeper));
        let mut other = third_process(&path);
        assert_eq!(other.run("BEGIN IMMEDIATE"), "busy", "{journal_mode}");
        let kill = |pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        kill(pid);
        assert!(!acting.join().unwrap());
        let begun = other.run("BEGIN IMMEDIATE");
        let rows = other.run("SELECT count(*) FROM t");
        kill(sleeper);
        assert_eq!(
            (begun.as_str(), rows.as_str()),
            ("ok", "1"),
            "{journal_mode}"
        );
    }
}
