//! Lock bytes that are elsewhere: each database is locked where they were when it was opened.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use verneuil_dbfile::{LockBytes, probe_locks};
use verneuil_unix::{UnixOptions, UnixVfs};

static PENDING: AtomicU64 = AtomicU64::new(0x4000_0000);

fn moving() -> LockBytes {
    LockBytes::at(PENDING.load(Ordering::SeqCst))
}

#[test]
fn the_lock_bytes_are_asked_for_at_each_open() {
    verneuil_abi::register(support::api(), c"linux-moving", false, || {
        UnixVfs::new(
            "linux-moving",
            UnixOptions {
                lock_bytes: moving,
                ..Default::default()
            },
        )
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let open = || {
        Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), c"linux-moving").unwrap()
    };
    let before = open();
    before.execute_batch("CREATE TABLE t(x)").unwrap();
    PENDING.store(0x10000, Ordering::SeqCst);
    let after = open();
    let look = File::open(&path).unwrap();
    let reserved_at = |pending| probe_locks(&look, LockBytes::at(pending)).unwrap().reserved;

    before.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(reserved_at(0x4000_0000) && !reserved_at(0x10000));
    before.execute_batch("COMMIT").unwrap();
    after.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(!reserved_at(0x4000_0000) && reserved_at(0x10000));
    after.execute_batch("COMMIT").unwrap();
    assert!(!reserved_at(0x4000_0000) && !reserved_at(0x10000));
}
