//! A forked child goes on with what it may, with locks of its own, and fails cleanly with what it may not.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use support::forked::{BUSY, ForkedChild, alone, count, database, third_process};
use support::{answer, linux, serve_sql};

#[test]
fn peer() {
    if std::env::var_os("VERNEUIL_TEST_PEER").is_some() {
        serve_sql();
    }
}

/// All that a process may do, a forked one may do with connections of its own, in each journal mode.
#[test]
fn a_forked_process_works_with_databases_of_its_own() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // The handler of forks is set by now.
    drop(database(dir.path(), "delete"));
    let path = dir.path().join("y.db");
    let child = ForkedChild::new(|| {
        for journal_mode in ["delete", "truncate", "persist", "wal"] {
            for locking_mode in ["normal", "exclusive"] {
                let db = linux(&path);
                let sql = [
                    format!("PRAGMA locking_mode={locking_mode}"),
                    format!("PRAGMA journal_mode={journal_mode}"),
                    "CREATE TABLE IF NOT EXISTS t(x)".to_owned(),
                    "BEGIN".to_owned(),
                    "INSERT INTO t VALUES(randomblob(100000))".to_owned(),
                    "ROLLBACK".to_owned(),
                    "INSERT INTO t VALUES(1)".to_owned(),
                    "VACUUM".to_owned(),
                ];
                for sql in sql {
                    assert!(
                        !answer(&db, &sql).starts_with("error"),
                        "{journal_mode} {sql}"
                    );
                }
                assert_eq!(answer(&db, "PRAGMA journal_mode=DELETE"), "delete");
            }
        }
        let db = linux(&path);
        for sql in [
            "PRAGMA journal_mode=WAL",
            "INSERT INTO t VALUES(1)",
            "PRAGMA locking_mode=EXCLUSIVE",
            "INSERT INTO t VALUES(1)",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA locking_mode=NORMAL",
            "INSERT INTO t VALUES(1)",
            "PRAGMA wal_checkpoint(RESTART)",
            "INSERT INTO t VALUES(1)",
        ] {
            assert!(!answer(&db, sql).starts_with("error"), "{sql}");
        }
        drop(db);
        count(&linux(&path)) == "12"
    });
    assert!(child.act());
}

/// A child that goes on with a connection that was idle at the fork: it and its parent are two connections.
#[test]
fn an_idle_connection_goes_on_in_child_and_parent() {
    let _alone = alone();
    for journal_mode in ["delete", "wal"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, db) = database(dir.path(), journal_mode);
        let mut other = third_process(&path);
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let mut slot = Some(db);
        let child = ForkedChild::new(|| {
            let Some(db) = slot.take() else { return false };
            let begun = answer(&db, "BEGIN IMMEDIATE");
            let inserted = answer(&db, "INSERT INTO t VALUES(2)");
            // The parent looks.
            let looked = there.write_all(&[1]).is_ok() && there.read_exact(&mut [0]).is_ok();
            let committed = answer(&db, "COMMIT");
            let seen = count(&db);
            let closed = db.close().is_ok();
            [begun, inserted, committed] == ["ok", "ok", "ok"] && looked && seen == "2" && closed
        });
        let db = slot.take().unwrap();
        let parent = std::thread::spawn(move || {
            here.read_exact(&mut [0]).unwrap();
            assert_eq!(answer(&db, "BEGIN IMMEDIATE"), BUSY);
            assert_eq!(other.run("BEGIN IMMEDIATE"), "busy");
            assert_eq!(count(&db), "1");
            here.write_all(&[1]).unwrap();
            (db, other)
        });
        assert!(child.act(), "{journal_mode}");
        let (db, mut other) = parent.join().unwrap();
        assert_eq!(count(&db), "2", "{journal_mode}");
        assert_eq!(answer(&db, "INSERT INTO t VALUES(3)"), "ok");
        assert_eq!(other.run("SELECT count(*) FROM t"), "3");
        assert_eq!(other.run("PRAGMA integrity_check"), "ok");
    }
}

/// As a daemon does: opens, forks, and the parent leaves.
#[test]
fn a_daemon_goes_on_when_its_parent_is_gone() {
    let _alone = alone();
    for journal_mode in ["delete", "wal"] {
        for parent_closes in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (path, db) = database(dir.path(), journal_mode);
            let mut other = third_process(&path);
            assert_eq!(other.run("SELECT count(*) FROM t"), "1");
            let mut slot = Some(db);
            let child = ForkedChild::new(|| {
                let Some(db) = slot.take() else { return false };
                let results = [
                    answer(&db, "INSERT INTO t VALUES(2)"),
                    answer(&db, "INSERT INTO t VALUES(3)"),
                    count(&db),
                ];
                db.close().is_ok() && results == ["ok", "ok", "3"]
            });
            let db = slot.take().unwrap();
            if parent_closes {
                drop(db);
            }
            assert!(child.act(), "{journal_mode} {parent_closes}");
            assert_eq!(other.run("SELECT count(*) FROM t"), "3");
            assert_eq!(other.run("PRAGMA integrity_check"), "ok");
        }
    }
}

/// While nobody held the shared memory of an idle connection, somebody else made it anew, and shorter.
#[test]
fn a_child_goes_on_with_shared_memory_that_was_cut_meanwhile() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, db) = database(dir.path(), "wal");
    // Two regions, and a log that stays when it is closed.
    db.execute_batch(
        "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF; PRAGMA journal_size_limit=0;
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
         SELECT zeroblob(4000) FROM n",
    )
    .unwrap();
    let shm_path = support::beside(&path, "-shm");
    assert_eq!(std::fs::metadata(&shm_path).unwrap().len(), 65_536);
    let mut persist = 1;
    // SAFETY: an open connection, and the int that this control takes.
    unsafe {
        libsqlite3_sys::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            libsqlite3_sys::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut persist).cast(),
        );
    }
    let mut slot = Some(db);
    let child = ForkedChild::new(|| {
        slot.take().is_some_and(|db| {
            let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) \
                          SELECT zeroblob(4000) FROM n";
            answer(&db, insert) == "ok" && count(&db) == "10002"
        })
    });
    drop(slot.take());
    let mut other = third_process(&path);
    assert_eq!(other.run("INSERT INTO t VALUES(3)"), "ok");
    assert_eq!(
        std::fs::metadata(&shm_path).unwrap().len(),
        32_768,
        "made anew"
    );
    assert!(child.act());
    assert_eq!(other.run("SELECT count(*) FROM t"), "10002");
    assert_eq!(other.run("PRAGMA integrity_check"), "ok");
}

/// The last parent has checkpointed and deleted log and shared memory: what the child inherited leads nowhere.
#[test]
fn a_child_does_not_write_to_a_log_that_was_deleted() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, db) = database(dir.path(), "wal");
    let mut slot = Some(db);
    let child = ForkedChild::new(|| {
        slot.take().is_some_and(|db| {
            let failed = answer(&db, "INSERT INTO t VALUES(2)").starts_with("error");
            let fresh = linux(Path::new(db.path().unwrap_or("")));
            failed && answer(&fresh, "INSERT INTO t VALUES(3)") == "ok"
        })
    });
    drop(slot.take());
    assert!(
        !support::beside(&path, "-wal").exists(),
        "the parent tidied up"
    );
    assert!(child.act());
    assert_eq!(count(&linux(&path)), "2");
}

#[test]
fn a_child_does_not_lock_another_file_that_took_the_place_of_the_database() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, db) = database(dir.path(), "delete");
    let mut slot = Some(db);
    let child = ForkedChild::new(|| {
        slot.take()
            .is_some_and(|db| answer(&db, "INSERT INTO t VALUES(2)").starts_with("error"))
    });
    std::fs::rename(&path, dir.path().join("old.db")).unwrap();
    std::fs::copy(dir.path().join("old.db"), &path).unwrap();
    assert!(child.act());
    assert_eq!(count(&linux(&path)), "1");
}

/// Another thread of the parent holds the pool at the moment of the fork, in the sense that it opens and closes all the time.
#[test]
fn a_child_forked_beside_busy_threads_opens_databases() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, db) = database(dir.path(), "delete");
    drop(db);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(verneuil_dbfile::open(&path, nix::fcntl::OFlag::O_RDWR, 0));
                    verneuil_dbfile::waiting_count();
                }
            });
        }
        for _ in 0..50 {
            let child = ForkedChild::new(|| {
                verneuil_dbfile::open(&path, nix::fcntl::OFlag::O_RDWR, 0).is_ok()
                    && verneuil_dbfile::waiting_count() == 0
            });
            assert!(child.act());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
