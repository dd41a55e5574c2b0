//! Writers of both kinds, killed at any moment: what they reported as committed is there, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use std::time::Duration;
use support::{Opener, Peer, answer, linux, serve_sql, stock};

#[test]
fn peer() {
    serve_sql();
}

#[test]
fn killed_writers_lose_nothing_and_leave_no_lock() {
    const KILLS: u64 = 24;
    for journal_mode in ["wal", "delete"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let db = stock(&path);
        assert_eq!(
            answer(&db, &format!("PRAGMA journal_mode={journal_mode}")),
            journal_mode
        );
        db.execute_batch("CREATE TABLE t(x, filler); CREATE INDEX i ON t(x)")
            .unwrap();
        drop(db);

        let mut committed = 0;
        for kill in 0..KILLS {
            let mut writer = Peer::start(["linux", "unix"][kill as usize % 2], &path);
            writer.run("PRAGMA busy_timeout=10000");
            writer.run("PRAGMA synchronous=OFF");
            writer.run("PRAGMA wal_autocheckpoint=20");
            writer.run("PRAGMA cache_size=5");
            let pid = writer.pid();
            let killer = std::thread::spawn(move || {
                // Spread over the time that a few transactions take.
                std::thread::sleep(Duration::from_micros(300 + kill * 797 % 9_000));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            });
            let mut reported = committed;
            while let Some(result) = writer.try_run(&format!(
                "INSERT INTO t SELECT {reported}+1, randomblob(3000) FROM (SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3)"
            )) {
                assert_eq!(result, "ok");
                reported += 1;
            }
            killer.join().unwrap();
            drop(writer);

            let open: Opener = if kill % 4 < 2 { linux } else { stock };
            let db = open(&path);
            db.busy_timeout(Duration::ZERO).unwrap();
            let last: i64 = answer(&db, "SELECT coalesce(max(x), 0) FROM t")
                .parse()
                .unwrap();
            assert!(
                last == reported || last == reported + 1,
                "{journal_mode} {kill}: {last} after {reported}"
            );
            committed = last;
            assert_eq!(
                answer(&db, "SELECT count(*) FROM t"),
                (3 * committed).to_string(),
                "whole transactions only"
            );
            assert_eq!(answer(&db, "PRAGMA integrity_check"), "ok");
            assert_eq!(answer(&db, "BEGIN IMMEDIATE"), "ok", "no lock is left");
        }
        assert!(committed > 0, "some transactions were in time");
    }
}
