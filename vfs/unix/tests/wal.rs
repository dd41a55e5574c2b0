//! WAL mode: `linux` and SQLite's own `unix` on the same shared memory, in one process and in two; recovery, reading only.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Opener, Peer, answer, beside, is_busy, linux, serve_sql, stock};

const PAIRS: [(Opener, Opener); 3] = [(linux, linux), (linux, stock), (stock, linux)];

#[test]
fn peer() {
    serve_sql();
}

/// A database in WAL mode, whose log and shared memory are gone.
fn wal_database(dir: &Path) -> PathBuf {
    let path = dir.join("x.db");
    let db = stock(&path);
    assert_eq!(answer(&db, "PRAGMA journal_mode=WAL"), "wal");
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    drop(db);
    assert!(!beside(&path, "-wal").exists() && !beside(&path, "-shm").exists());
    path
}

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn every_pair_in_one_process_follows_the_rules() {
    for (number, (first, second)) in PAIRS.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let a = first(&path);
        assert_eq!(answer(&a, "PRAGMA journal_mode=WAL"), "wal");
        a.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
            .unwrap();
        let b = second(&path);
        for db in [&a, &b] {
            db.busy_timeout(Duration::ZERO).unwrap();
        }
        for (reader, writer) in [(&a, &b), (&b, &a)] {
            let before = count(writer);
            reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
            writer.execute_batch("INSERT INTO t VALUES(2)").unwrap();
            assert_eq!(count(reader), before, "{number}: a snapshot stays");
            assert_eq!(
                reader.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row
                    .get::<_, i64>(0)),
                Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_LOCKED),
                    Some("database table is locked".to_owned())
                )),
                "{number}: no checkpoint in a transaction"
            );
            assert_eq!(
                answer(writer, "PRAGMA wal_checkpoint(RESTART)"),
                "1",
                "{number}: the reader is in the way"
            );
            reader.execute_batch("COMMIT").unwrap();
            assert_eq!(count(reader), before + 1);
            assert_eq!(answer(writer, "PRAGMA wal_checkpoint(TRUNCATE)"), "0");

            writer
                .execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(3)")
                .unwrap();
            assert!(
                is_busy(reader.execute_batch("BEGIN IMMEDIATE")),
                "{number}: one writer"
            );
            assert!(
                is_busy(reader.execute_batch("PRAGMA journal_mode=DELETE")),
                "{number}: somebody else is connected"
            );
            writer.execute_batch("ROLLBACK").unwrap();
        }
        drop(a);
        assert!(beside(&path, "-shm").exists(), "{number}: b still uses it");
        b.execute_batch("INSERT INTO t VALUES(4)").unwrap();
        drop(b);
        assert!(!beside(&path, "-wal").exists() && !beside(&path, "-shm").exists());
        assert_eq!(count(&stock(&path)), 4, "{number}");
    }
}

#[test]
fn every_pair_in_two_processes_follows_the_rules() {
    for (here, there) in [
        (linux as Opener, "unix"),
        (stock, "linux"),
        (linux, "linux"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = wal_database(dir.path());
        let a = here(&path);
        a.busy_timeout(Duration::ZERO).unwrap();
        let mut b = Peer::start(there, &path);
        b.run("PRAGMA busy_timeout=0");
        a.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        assert_eq!(b.run("INSERT INTO t VALUES(2)"), "ok");
        assert_eq!(count(&a), 1);
        assert_eq!(b.run("PRAGMA wal_checkpoint(TRUNCATE)"), "1");
        a.execute_batch("COMMIT").unwrap();
        assert_eq!(count(&a), 2);
        assert_eq!(b.run("PRAGMA wal_checkpoint(TRUNCATE)"), "0");
        assert_eq!(fs::metadata(beside(&path, "-wal")).unwrap().len(), 0);

        assert_eq!(b.run("BEGIN IMMEDIATE"), "ok");
        assert!(is_busy(a.execute_batch("INSERT INTO t VALUES(3)")));
        assert_eq!(b.run("INSERT INTO t VALUES(3)"), "ok");
        assert_eq!(b.run("COMMIT"), "ok");
        assert_eq!(count(&a), 3);
        drop(a);
        assert_eq!(b.run("SELECT count(*) FROM t"), "3");
        let a = here(&path);
        a.execute_batch("INSERT INTO t VALUES(4)").unwrap();
        b.kill();
        assert_eq!(count(&a), 4);
        drop(a);
        assert!(!beside(&path, "-shm").exists(), "the last one tidies up");
    }
}

/// Closing a descriptor of the shared memory would drop the POSIX locks of a stock connection of this process on it.
#[test]
fn closing_a_connection_keeps_the_locks_of_a_stock_connection_on_the_shared_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let writer = stock(&path);
    writer
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2)")
        .unwrap();
    for _ in 0..3 {
        let reader = linux(&path);
        assert_eq!(count(&reader), 1);
        drop(reader);
    }
    let mut other = Peer::start("unix", &path);
    other.run("PRAGMA busy_timeout=0");
    assert_eq!(other.run("BEGIN IMMEDIATE"), "busy");
    writer.execute_batch("COMMIT").unwrap();
    drop(writer);
    assert_eq!(other.run("BEGIN IMMEDIATE"), "ok");
    assert_eq!(other.run("SELECT count(*) FROM t"), "2");
}

/// A rogue `close` drops the locks of a stock connection on the database; those on the shared memory still tell of it.
#[test]
fn log_and_shared_memory_stay_while_somebody_is_attached_without_a_lock_on_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let victim = stock(&path);
    victim.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    drop(fs::File::open(&path).unwrap());
    let db = linux(&path);
    db.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(count(&db), 2);
    assert!(is_busy(db.execute_batch("PRAGMA journal_mode=DELETE")));
    drop(db);
    assert!(beside(&path, "-wal").exists() && beside(&path, "-shm").exists());
    victim.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    assert_eq!(count(&linux(&path)), 3);
}

/// While somebody else stays attached, descriptors that must wait are used again.
#[test]
fn connections_that_come_and_go_beside_another_cost_no_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let mut other = Peer::start("unix", &path);
    assert_eq!(other.run("SELECT count(*) FROM t"), "1");
    let open_here = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.starts_with(dir.path()))
            .count()
    };
    let mut counts = Vec::new();
    for _ in 0..20 {
        let db = linux(&path);
        answer(&db, "PRAGMA mmap_size=1000000");
        for _ in 0..5 {
            assert_ne!(other.run("UPDATE t SET x=x+1"), "error");
            other.run("PRAGMA wal_checkpoint(TRUNCATE)");
            assert_eq!(count(&db), 1);
        }
        drop(db);
        counts.push(open_here());
    }
    assert!(counts[19] <= counts[0] && counts[19] < 8, "{counts:?}");
}

/// Threads of both kinds, and a process of each, add to a counter while the log is checkpointed and restarted all the time.
#[test]
fn concurrent_writers_of_both_kinds_lose_nothing() {
    const ROUNDS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let work = |mut run: Box<dyn FnMut(&str) -> String>| {
        run("PRAGMA busy_timeout=60000");
        run("PRAGMA wal_autocheckpoint=2");
        run("PRAGMA synchronous=OFF");
        for round in 0..ROUNDS {
            assert_eq!(run("UPDATE t SET x=x+1"), "ok");
            assert_ne!(run("SELECT x FROM t"), "error");
            if round % 8 == 0 {
                run("PRAGMA wal_checkpoint(RESTART)");
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            let path = &path;
            let work = &work;
            scope.spawn(move || match number {
                0 | 1 => {
                    let db = if number == 0 {
                        linux(path)
                    } else {
                        stock(path)
                    };
                    work(Box::new(move |sql| answer(&db, sql)));
                }
                _ => {
                    let mut peer = Peer::start(["linux", "unix"][number - 2], path);
                    work(Box::new(move |sql| peer.run(sql)));
                }
            });
        }
    });
    let db = linux(&path);
    assert_eq!(answer(&db, "SELECT x FROM t"), (1 + 4 * ROUNDS).to_string());
    assert_eq!(answer(&db, "PRAGMA integrity_check"), "ok");
}

#[test]
fn a_killed_writers_log_is_recovered_and_its_shared_memory_is_not_believed() {
    for (dead, alive) in [
        ("linux", stock as Opener),
        ("unix", linux),
        ("linux", linux),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = wal_database(dir.path());
        let mut peer = Peer::start(dead, &path);
        assert_eq!(peer.run("INSERT INTO t VALUES(2)"), "ok");
        peer.run("PRAGMA cache_size=1");
        assert_eq!(peer.run("BEGIN"), "ok");
        let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) \
                      SELECT randomblob(500) FROM n";
        assert_eq!(peer.run(insert), "ok");
        let attached = fs::metadata(beside(&path, "-shm")).unwrap().len();
        assert_eq!(attached, 32_768);
        peer.kill();

        // Whoever comes first makes it anew.
        let shm = fs::OpenOptions::new()
            .write(true)
            .open(beside(&path, "-shm"))
            .unwrap();
        shm.write_all_at(&[0xa5; 40_000], 0).unwrap();
        let db = alive(&path);
        assert_eq!(count(&db), 2);
        assert_eq!(answer(&db, "PRAGMA integrity_check"), "ok");
        assert_eq!(
            fs::metadata(beside(&path, "-shm")).unwrap().len(),
            32_768,
            "cut and grown again"
        );

        // Whoever comes second leaves it alone.
        let mut second = Peer::start(dead, &path);
        assert_eq!(second.run("SELECT count(*) FROM t"), "2");
        db.execute_batch("INSERT INTO t VALUES(3)").unwrap();
        assert_eq!(second.run("SELECT count(*) FROM t"), "3");
    }
}

#[test]
fn log_and_shared_memory_take_mode_and_owner_of_the_database() {
    for mode in [0o600, 0o664, 0o666] {
        let dir = tempfile::tempdir().unwrap();
        let path = wal_database(dir.path());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(12_345), Some(12_346)).unwrap();
        }
        let db = linux(&path);
        db.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        for suffix in ["-wal", "-shm"] {
            let metadata = fs::metadata(beside(&path, suffix)).unwrap();
            assert_eq!(metadata.mode() & 0o777, mode, "{suffix}");
            if is_root {
                assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346));
            }
        }
    }
}

#[test]
fn a_link_to_a_database_shares_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink("x.db", &link).unwrap();
    let (a, b) = (linux(&link), stock(&path));
    a.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert_eq!(count(&b), 2);
    assert!(beside(&path, "-wal").exists() && !beside(&link, "-wal").exists());
}

/// The log of a database is where nobody may put a link.
#[test]
fn a_link_in_the_place_of_the_shared_memory_is_refused_as_unix_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let target = dir.path().join("precious");
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, beside(&path, "-shm")).unwrap();
    let sql = "SELECT count(*) FROM t";
    assert_eq!(answer(&linux(&path), sql), answer(&stock(&path), sql));
    assert!(answer(&linux(&path), sql).starts_with("error"));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

/// With `readonly_shm=1`, alone and beside a writer; each step is compared with `unix`.
#[test]
fn shared_memory_that_may_only_be_read_answers_as_unix_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let uri = PathBuf::from(format!("file:{}?readonly_shm=1", path.display()));
    let both = |sql: &str| {
        let (ours, theirs) = (answer(&linux(&uri), sql), answer(&stock(&uri), sql));
        assert_eq!(ours, theirs, "{sql}");
        ours
    };
    assert!(
        both("SELECT count(*) FROM t").starts_with("error"),
        "no -shm"
    );

    let mut writer = Peer::start("unix", &path);
    assert_eq!(writer.run("INSERT INTO t VALUES(2)"), "ok");
    assert_eq!(both("SELECT count(*) FROM t"), "2");
    assert!(
        both("INSERT INTO t VALUES(3)").starts_with("error 8"),
        "read-only"
    );

    // Nobody is attached any more: the log is read without shared memory.
    let reader = linux(&uri);
    let stock_reader = stock(&uri);
    writer.kill();
    assert_eq!(both("SELECT count(*) FROM t"), "2");
    assert_eq!(count(&reader), count(&stock_reader));
    // Somebody comes back.
    let mut writer = Peer::start("linux", &path);
    assert_eq!(writer.run("INSERT INTO t VALUES(3)"), "ok");
    assert_eq!(count(&reader), 3);
    assert_eq!(count(&stock_reader), 3);
    assert_eq!(both("SELECT count(*) FROM t"), "3");
}

#[test]
fn regions_beyond_the_first_are_grown_and_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let (a, b) = (linux(&path), stock(&path));
    let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) \
                  SELECT zeroblob(4000) FROM n";
    for db in [&a, &b, &a] {
        db.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF")
            .unwrap();
        db.execute_batch(insert).unwrap();
    }
    assert_eq!((count(&a), count(&b)), (9001, 9001));
    let shm_len = fs::metadata(beside(&path, "-shm")).unwrap().len();
    assert!(
        shm_len >= 3 * 32_768 && shm_len.is_multiple_of(32_768),
        "{shm_len}"
    );
    assert_eq!(answer(&b, "PRAGMA wal_checkpoint(TRUNCATE)"), "0");
    assert_eq!(answer(&a, "PRAGMA integrity_check"), "ok");
}

/// Another version of SQLite in another program, if there is one.
#[test]
fn pythons_sqlite_shares_the_log() {
    const SCRIPT: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
for line in sys.stdin:
    try:
        row = db.execute(line.strip()).fetchone()
        print('ok' if row is None else row[0], flush=True)
    except sqlite3.OperationalError as error:
        print('busy' if 'locked' in str(error) else error, flush=True)
";
    let dir = tempfile::tempdir().unwrap();
    let path = wal_database(dir.path());
    let db = linux(&path);
    db.busy_timeout(Duration::ZERO).unwrap();
    let child = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no python3");
        return;
    };
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = BufReader::new(output).lines();
    let mut python = |sql: &str| {
        writeln!(input, "{sql}").unwrap();
        output.next().unwrap().unwrap()
    };
    assert_eq!(python("SELECT count(*) FROM t"), "1");
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2)")
        .unwrap();
    assert_eq!(python("INSERT INTO t VALUES(3)"), "busy");
    db.execute_batch("COMMIT; BEGIN; SELECT * FROM t").unwrap();
    assert_eq!(python("INSERT INTO t VALUES(3)"), "ok");
    assert_eq!(python("PRAGMA wal_checkpoint(TRUNCATE)"), "1");
    assert_eq!(count(&db), 2);
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(python("PRAGMA wal_checkpoint(TRUNCATE)"), "0");
    assert_eq!(count(&db), 3);
    assert_eq!(python("PRAGMA integrity_check"), "ok");
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(beside(&path, "-shm").exists(), "python was not the last");
    drop(db);
    assert!(!beside(&path, "-shm").exists());
}
