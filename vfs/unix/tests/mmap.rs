//! Memory maps: reads through them beside connections that change, grow and cut the file.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::{Opener, Peer, answer, linux, serve_sql, stock};

#[test]
fn peer() {
    serve_sql();
}

const FILL: &str = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<600) \
                    SELECT printf('%0800d', i) FROM n";

fn database(dir: &Path, journal_mode: &str) -> std::path::PathBuf {
    let path = dir.join("x.db");
    let db = stock(&path);
    assert_eq!(
        answer(&db, &format!("PRAGMA journal_mode={journal_mode}")),
        journal_mode
    );
    db.execute_batch("CREATE TABLE t(x)").unwrap();
    db.execute_batch(FILL).unwrap();
    path
}

/// Is the file mapped into this process?
fn is_mapped(path: &Path) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let name = path.canonicalize().unwrap();
    maps.lines()
        .any(|line| line.ends_with(&format!(" {}", name.display())))
}

#[test]
fn pages_are_mapped_only_when_asked_and_no_longer_than_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path(), "delete");
    let db = linux(&path);
    assert_eq!(answer(&db, "SELECT count(*) FROM t"), "600");
    assert!(!is_mapped(&path), "0 is the default");
    assert_eq!(answer(&db, "PRAGMA mmap_size=1000000000"), "1000000000");
    assert_eq!(answer(&db, "SELECT sum(length(x)) FROM t"), "480000");
    assert!(is_mapped(&path));
    drop(db);
    assert!(!is_mapped(&path));
}

/// A reader with a map, and one without, beside a writer in another process that empties, cuts and grows the file as fast as it can.
#[test]
fn readers_see_no_signal_and_no_mixture_while_the_file_is_cut_and_grown() {
    const ROUNDS: usize = 25;
    for (journal_mode, there, mmap_there) in [
        ("delete", "unix", 0),
        ("delete", "linux", 100_000_000),
        ("wal", "unix", 100_000_000),
        ("wal", "linux", 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), journal_mode);
        let stop = AtomicBool::new(false);
        let reads = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for opener in [linux as Opener, stock] {
                let (path, stop, reads) = (&path, &stop, &reads);
                scope.spawn(move || {
                    let db = opener(path);
                    db.busy_timeout(Duration::from_secs(60)).unwrap();
                    answer(&db, "PRAGMA mmap_size=100000000");
                    while !stop.load(Ordering::Relaxed) {
                        let sum = answer(&db, "SELECT count(*) || ' ' || sum(length(x)) FROM t");
                        assert!(
                            ["600 480000", "20 16000", "0 "].contains(&sum.as_str()),
                            "{journal_mode} {there}: {sum}"
                        );
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut writer = Peer::start(there, &path);
            writer.run("PRAGMA busy_timeout=60000");
            writer.run("PRAGMA synchronous=OFF");
            writer.run(&format!("PRAGMA mmap_size={mmap_there}"));
            for _ in 0..ROUNDS {
                for sql in [
                    "DELETE FROM t WHERE rowid>20",
                    "VACUUM",
                    "PRAGMA wal_checkpoint(TRUNCATE)",
                    "BEGIN IMMEDIATE",
                    "DELETE FROM t",
                    FILL,
                    "COMMIT",
                    "PRAGMA wal_checkpoint(PASSIVE)",
                ] {
                    assert_ne!(writer.run(sql), "error", "{journal_mode} {there} {sql}");
                }
            }
            assert_eq!(writer.run("PRAGMA integrity_check"), "ok");
            stop.store(true, Ordering::Relaxed);
        });
        assert!(reads.load(Ordering::Relaxed) > 20);
    }
}

/// A statement in the midst of its rows holds pages: the map stays, also when the limit is taken away.
#[test]
fn pages_in_use_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path(), "wal");
    let db = linux(&path);
    answer(&db, "PRAGMA mmap_size=100000000");
    let mut statement = db.prepare("SELECT x FROM t ORDER BY rowid").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut seen = 0;
    let other = linux(&path);
    while let Some(row) = rows.next().unwrap() {
        seen += 1;
        let text: String = row.get(0).unwrap();
        assert_eq!(text, format!("{seen:0800}"));
        if seen == 100 {
            answer(&db, "PRAGMA mmap_size=0");
            other.execute_batch("DELETE FROM t").unwrap();
            other.execute_batch(FILL).unwrap();
            answer(&other, "PRAGMA wal_checkpoint(PASSIVE)");
        }
    }
    assert_eq!(seen, 600);
}
