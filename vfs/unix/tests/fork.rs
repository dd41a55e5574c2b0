//! Forked children and their parents' connections: whatever a child does, its parent keeps its locks; and a child may go on, with locks of its own.
//!
//! Each test forks this process, which has threads: the tests run one after another, so that no lock of SQLite's or of ours is held by
//! somebody who doesn't exist in the child, except where a test means it.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rusqlite::Connection;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Peer, answer, linux, serve_sql};

#[test]
fn peer() {
    if std::env::var_os("VERNEUIL_TEST_PEER").is_some() {
        serve_sql();
    }
}

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forked child that waits for a byte before it acts, and says when it is done.
struct ForkedChild {
    pid: nix::unistd::Pid,
    pipe: UnixStream,
}

impl ForkedChild {
    /// Forks. The child runs `body` once it is told to, and ends with whether it returned true.
    fn new(body: impl FnOnce() -> bool) -> ForkedChild {
        let (here, mut there) = UnixStream::pair().unwrap();
        // SAFETY: the child runs `body` and leaves by `_exit`. Nobody else uses SQLite or the pool now (see `alone`), and glibc makes
        // allocation safe in a forked child.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => ForkedChild {
                pid: child,
                pipe: here,
            },
            ForkResult::Child => {
                let told = there.read_exact(&mut [0]).is_ok();
                let done = told
                    && std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
                        .unwrap_or(false);
                // SAFETY: ends the process at once.
                unsafe { nix::libc::_exit(i32::from(!done)) }
            }
        }
    }

    /// Lets it act, and waits for its end.
    fn act(mut self) -> bool {
        self.pipe.write_all(&[1]).unwrap();
        matches!(waitpid(self.pid, None), Ok(WaitStatus::Exited(_, 0)))
    }
}

fn database(dir: &Path, journal_mode: &str) -> (PathBuf, Connection) {
    let path = dir.join("x.db");
    let db = linux(&path);
    db.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(
        answer(&db, &format!("PRAGMA journal_mode={journal_mode}")),
        journal_mode
    );
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    (path, db)
}

fn third_process(path: &Path) -> Peer {
    let mut other = Peer::start("unix", path);
    other.run("PRAGMA busy_timeout=0");
    other
}

fn count(db: &Connection) -> String {
    answer(db, "SELECT count(*) FROM t")
}

const BUSY: &str = "error 5";

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
                Ok(ForkResult::Child) => loop {
                    std::thread::sleep(Duration::from_secs(60));
                },
                Ok(ForkResult::Parent { child }) => {
                    let inserted = answer(&db, "INSERT INTO t VALUES(2)");
                    let ready = begun == "ok" && inserted == "ok";
                    let told = there.write_all(&child.as_raw().to_ne_bytes());
                    std::thread::sleep(Duration::from_secs(if ready && told.is_ok() {
                        60
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
