//! `linux` and SQLite's own `unix` lock each other out exactly as two `unix` connections do: every pair, in one process
//! and in two.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::path::Path;
use support::{Opener, Peer, is_busy, linux, serve_sql, stock};

#[test]
fn peer() {
    serve_sql();
}

fn database(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("x.db");
    let db = stock(&path);
    db.execute_batch("PRAGMA page_size=1024; CREATE TABLE t(x); INSERT INTO t VALUES(1);")
        .unwrap();
    path
}

/// Two connections; whatever they are, these are the rules of rollback-journal mode.
fn follows_the_rules(a: &Connection, b: &Connection) {
    for db in [a, b] {
        db.busy_timeout(std::time::Duration::ZERO).unwrap();
    }
    let read =
        |db: &Connection| db.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));

    // SHARED beside SHARED, RESERVED beside SHARED.
    a.execute_batch("BEGIN; SELECT * FROM t;").unwrap();
    let before = read(b).unwrap();
    b.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2);")
        .unwrap();
    assert_eq!(read(a).unwrap(), before, "RESERVED lets readers read");
    // Two RESERVED: no.
    assert!(
        is_busy(a.execute_batch("UPDATE t SET x=3")),
        "a second RESERVED"
    );
    // The step to EXCLUSIVE fails while somebody reads, and leaves PENDING.
    assert!(
        is_busy(b.execute_batch("COMMIT")),
        "EXCLUSIVE beside a reader"
    );
    assert_eq!(
        read(a).unwrap(),
        before,
        "who reads already may go on under PENDING"
    );
    a.execute_batch("COMMIT").unwrap();
    assert!(is_busy(read(a)), "PENDING lets nobody in");
    b.execute_batch("COMMIT").unwrap();
    assert_eq!(read(a).unwrap(), before + 1);

    // EXCLUSIVE: nobody else at all.
    a.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(is_busy(read(b)), "a reader beside EXCLUSIVE");
    assert!(
        is_busy(b.execute_batch("BEGIN IMMEDIATE")),
        "RESERVED beside EXCLUSIVE"
    );
    a.execute_batch("ROLLBACK").unwrap();
    assert_eq!(read(b).unwrap(), before + 1);
}

#[test]
fn every_pair_in_one_process_follows_the_rules() {
    let openers: [Opener; 2] = [linux, stock];
    for first in openers {
        for second in openers {
            let dir = tempfile::tempdir().unwrap();
            let path = database(dir.path());
            let (a, b) = (first(&path), second(&path));
            follows_the_rules(&a, &b);
            follows_the_rules(&b, &a);
        }
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
        let path = database(dir.path());
        let a = here(&path);
        a.busy_timeout(std::time::Duration::ZERO).unwrap();
        let mut b = Peer::start(there, &path);
        b.run("PRAGMA busy_timeout=0");

        a.execute_batch("BEGIN; SELECT * FROM t;").unwrap();
        assert_eq!(b.run("BEGIN IMMEDIATE"), "ok");
        assert_eq!(b.run("INSERT INTO t VALUES(2)"), "ok");
        assert!(
            is_busy(a.execute_batch("INSERT INTO t VALUES(3)")),
            "a second RESERVED"
        );
        assert_eq!(b.run("COMMIT"), "busy");
        a.execute_batch("COMMIT").unwrap();
        assert!(
            is_busy(a.execute_batch("SELECT * FROM t")),
            "PENDING lets nobody in"
        );
        assert_eq!(b.run("COMMIT"), "ok");

        a.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert_eq!(b.run("SELECT count(*) FROM t"), "busy");
        a.execute_batch("INSERT INTO t VALUES(3); COMMIT").unwrap();
        assert_eq!(b.run("SELECT count(*) FROM t"), "3");
        assert_eq!(b.run("BEGIN EXCLUSIVE"), "ok");
        assert!(is_busy(
            a.query_row("SELECT count(*) FROM t", [], |_| Ok(()))
        ));
        b.kill();
        assert_eq!(
            a.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
                .unwrap(),
            3
        );
    }
}

/// Closing any descriptor of a file drops the POSIX locks of the process on it: ours must wait.
#[test]
fn closing_a_connection_keeps_the_locks_of_a_stock_connection_in_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let writer = stock(&path);
    writer
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2);")
        .unwrap();
    for _ in 0..3 {
        let reader = linux(&path);
        reader
            .query_row("SELECT count(*) FROM t", [], |_| Ok(()))
            .unwrap();
        drop(reader);
    }
    let mut other = Peer::start("unix", &path);
    other.run("PRAGMA busy_timeout=0");
    assert_eq!(
        other.run("BEGIN IMMEDIATE"),
        "busy",
        "RESERVED of the stock connection is still there"
    );
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(other.run("BEGIN IMMEDIATE"), "ok");
}

/// Many threads and connections of both kinds add to a counter; nothing is lost.
#[test]
fn concurrent_writers_of_both_kinds_lose_nothing() {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 25;
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let db = if number % 2 == 0 {
                    linux(path)
                } else {
                    stock(path)
                };
                db.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
                db.execute_batch("PRAGMA synchronous=OFF").unwrap();
                for _ in 0..ROUNDS {
                    db.execute_batch("BEGIN IMMEDIATE; UPDATE t SET x=x+1; COMMIT")
                        .unwrap();
                }
            });
        }
    });
    let db = linux(&path);
    let total: i64 = db
        .query_row("SELECT x FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(total, 1 + (WRITERS * ROUNDS) as i64);
    let check: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
