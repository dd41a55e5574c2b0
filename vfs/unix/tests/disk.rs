//! Disks that are full and writes that are cut short: errors, never signals, and nothing committed is lost.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use support::{Peer, answer, linux, serve_sql, stock};

#[test]
fn peer() {
    serve_sql();
}

/// A file system of a few blocks, unmounted in the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        match mounted {
            Ok(()) => Some(SmallDisk(dir)),
            Err(errno) => {
                eprintln!("skipped: a small tmpfs can't be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_an_error_and_never_a_signal() {
    for vfs in ["linux", "unix"] {
        let Some(disk) = SmallDisk::mount(128 * 1024) else {
            return;
        };
        let path = disk.0.path().join("x.db");
        let db = stock(&path);
        assert_eq!(answer(&db, "PRAGMA journal_mode=WAL"), "wal");
        db.execute_batch("CREATE TABLE t(x)").unwrap();
        drop(db);

        // Everything is taken but a few blocks: enough to open, too little for the shared memory.
        let hog = fs::File::create(disk.0.path().join("hog")).unwrap();
        let mut hogged = 0;
        while hog.write_at(&[1; 4096], hogged).is_ok() {
            hogged += 4096;
        }
        for free in [0, 4096, 12_288, 32_768, 40_960] {
            hog.set_len(hogged - free).unwrap();
            let mut peer = Peer::start(vfs, &path);
            let answer = peer.run("INSERT INTO t VALUES(zeroblob(1000))");
            assert!(
                answer == "error" || answer == "ok",
                "{vfs} {free}: {answer}"
            );
            assert_eq!(answer == "ok", free >= 40_960, "{vfs} {free}");
            peer.close();
        }
        hog.set_len(0).unwrap();
        let mut peer = Peer::start(vfs, &path);
        assert_eq!(peer.run("INSERT INTO t VALUES(1)"), "ok", "{vfs}");
        assert_eq!(peer.run("SELECT count(*) FROM t"), "2", "{vfs}");
        assert_eq!(peer.run("PRAGMA integrity_check"), "ok");
    }
}

/// Writes that are cut short by a limit, then fail: the transaction fails, and what was committed stays.
#[test]
fn short_writes_fail_the_transaction_and_nothing_else() {
    for vfs in ["linux", "unix"] {
        for journal_mode in ["wal", "delete"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.db");
            stock(&path)
                .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
                .unwrap();
            assert_eq!(
                answer(
                    &stock(&path),
                    &format!("PRAGMA journal_mode={journal_mode}")
                ),
                journal_mode
            );
            // Not a multiple of a page with its frame header.
            let mut peer = Peer::start_limited(vfs, &path, 101);
            peer.run("PRAGMA cache_size=2");
            assert_eq!(peer.run("INSERT INTO t VALUES(2)"), "ok");
            let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) \
                          SELECT randomblob(1000) FROM n";
            assert_eq!(peer.run(insert), "error", "{vfs} {journal_mode}");
            assert_eq!(peer.run("SELECT count(*) FROM t"), "2");
            assert_eq!(
                peer.run("INSERT INTO t VALUES(3)"),
                "ok",
                "{vfs} {journal_mode}"
            );
            drop(peer);
            let db = linux(&path);
            assert_eq!(answer(&db, "SELECT count(*) FROM t"), "3");
            assert_eq!(answer(&db, "PRAGMA integrity_check"), "ok");
        }
    }
}
