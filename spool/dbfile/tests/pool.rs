//! Descriptors, locks and journals as another process sees them. The other process is this test binary, run again with a question.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::env;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use verneuil_dbfile::{
    Journal, LockBytes, adopt, journal_is_hot, journal_path, journal_state, open, open_again,
    probe_any_lock, probe_locks, read_header, waiting_count,
};

const PROBE: &str = "VERNEUIL_DBFILE_TEST_PROBE";

/// The pool is one per process, and the tests count what is in it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_of(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as i64,
        l_len: len as i64,
        l_pid: 0,
    }
}

/// A lock as sqlite's stock `unix` VFS takes it.
fn posix_lock(file: &File, kind: libc::c_int, start: u64, len: u64) {
    fcntl(file, FcntlArg::F_SETLK(&lock_of(kind, start, len))).unwrap();
}

fn ofd_lock(file: &File, kind: libc::c_int, start: u64, len: u64) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(kind, start, len))).unwrap();
}

/// Whether another process could take a write lock on the first byte.
fn is_free_for_others(path: &Path) -> bool {
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--nocapture"])
        .env(PROBE, path)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&status.stdout).into_owned();
    match (out.contains("probe: free"), out.contains("probe: held")) {
        (true, false) => true,
        (false, true) => false,
        _ => panic!("no answer: {out}"),
    }
}

#[test]
fn the_other_process() {
    let Some(path) = env::var_os(PROBE) else {
        return;
    };
    let file = File::options().read(true).write(true).open(path).unwrap();
    let taken = fcntl(&file, FcntlArg::F_SETLK(&lock_of(libc::F_WRLCK, 0, 1))).is_ok();
    println!("probe: {}", if taken { "free" } else { "held" });
}

#[test]
fn dropping_a_descriptor_keeps_the_posix_locks_of_a_stock_connection() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let stock = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    posix_lock(&stock, libc::F_WRLCK, 0, 1);
    assert!(!is_free_for_others(&path));

    let ours = open(&path, OFlag::O_RDWR, 0o644).unwrap();
    drop(ours);
    assert!(
        !is_free_for_others(&path),
        "the stock connection's lock is gone"
    );
    assert_eq!(waiting_count(), 1);

    // The next open takes the waiting descriptor; once nobody holds a lock, a drop closes it.
    let again = open(&path, OFlag::O_RDWR, 0o644).unwrap();
    assert_eq!(waiting_count(), 0);
    posix_lock(&stock, libc::F_UNLCK, 0, 0);
    drop(again);
    assert_eq!(waiting_count(), 0);
    assert!(is_free_for_others(&path));
}

#[test]
fn a_plain_close_would_have_dropped_them() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let stock = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    posix_lock(&stock, libc::F_WRLCK, 0, 1);
    drop(File::open(&path).unwrap());
    assert!(is_free_for_others(&path), "then this crate is not needed");
}

#[test]
fn a_waiting_descriptor_serves_its_own_access_mode_only() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let stock = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    posix_lock(&stock, libc::F_RDLCK, 0, 1);
    let reader = open(&path, OFlag::O_RDONLY, 0).unwrap();
    let fd = reader.as_raw_fd();
    drop(reader);
    let writer = open(&path, OFlag::O_RDWR, 0).unwrap();
    assert_ne!(writer.as_raw_fd(), fd);
    let reader = open(&path, OFlag::O_RDONLY, 0).unwrap();
    assert_eq!(reader.as_raw_fd(), fd);
    posix_lock(&stock, libc::F_UNLCK, 0, 0);
    drop((reader, writer));
    assert_eq!(waiting_count(), 0);
}

#[test]
fn a_descriptor_of_a_file_that_nobody_opens_again_is_closed_in_time() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let create = |name: &str| {
        let path = dir.path().join(name);
        open(&path, OFlag::O_RDWR | OFlag::O_CREAT, 0o644).unwrap()
    };
    let stock: Vec<File> = (0..4)
        .map(|number| {
            let ours = create(&number.to_string());
            let stock = File::options()
                .read(true)
                .write(true)
                .open(dir.path().join(number.to_string()))
                .unwrap();
            posix_lock(&stock, libc::F_RDLCK, 0, 1);
            drop(ours);
            fs::remove_file(dir.path().join(number.to_string())).unwrap();
            stock
        })
        .collect();
    assert_eq!(waiting_count(), 4, "held by locks");
    drop(stock);
    for _ in 0..3 {
        drop(create("other"));
    }
    assert_eq!(waiting_count(), 0);
}

#[test]
fn a_link_does_not_lead_to_a_waiting_descriptor_if_links_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("db"), dir.path().join("link"));
    let ours = open(&path, OFlag::O_RDWR | OFlag::O_CREAT, 0o644).unwrap();
    let stock = File::options().read(true).write(true).open(&path).unwrap();
    posix_lock(&stock, libc::F_RDLCK, 0, 1);
    drop(ours);
    std::os::unix::fs::symlink("db", &link).unwrap();
    assert!(open(&link, OFlag::O_RDWR | OFlag::O_NOFOLLOW, 0).is_err());
    posix_lock(&stock, libc::F_UNLCK, 0, 0);
    drop(open(&link, OFlag::O_RDWR, 0).unwrap());
    assert_eq!(waiting_count(), 0);
}

#[test]
fn an_open_file_is_opened_again_with_locks_of_its_own_and_no_descriptor_is_lost() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let first = open(&path, OFlag::O_RDWR | OFlag::O_CREAT, 0o644).unwrap();
    ofd_lock(&first, libc::F_RDLCK, 0, 1);
    for _ in 0..5 {
        let again = open_again(&first).unwrap();
        assert_eq!(again.id(), first.id());
        assert!(probe_any_lock(&again).unwrap());
        drop(again);
        assert_eq!(waiting_count(), 1, "the same one each time");
    }
    ofd_lock(&first, libc::F_UNLCK, 0, 0);
    drop(first);
    assert_eq!(waiting_count(), 0);
}

#[test]
fn descriptors_are_closed_on_exec() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = open(
        &dir.path().join("db"),
        OFlag::O_RDWR | OFlag::O_CREAT,
        0o640,
    )
    .unwrap();
    assert_eq!(
        fcntl(&*file, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC,
        libc::FD_CLOEXEC
    );
    assert!(file.as_raw_fd() > 2);
    let same = adopt(file.try_clone().unwrap()).unwrap();
    assert_eq!(same.id(), file.id());
}

#[test]
fn probes_tell_the_locks_apart_without_taking_any() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let writer = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let look = open(&path, OFlag::O_RDONLY, 0).unwrap();
    for bytes in [LockBytes::default(), LockBytes::at(0x1000)] {
        let probe = || probe_locks(&*look, bytes).unwrap();
        assert_eq!(probe(), Default::default());
        ofd_lock(
            &writer,
            libc::F_RDLCK,
            bytes.shared_first(),
            LockBytes::SHARED_LEN,
        );
        assert_eq!(probe(), Default::default(), "readers don't count");
        assert!(probe_any_lock(&*look).unwrap());
        ofd_lock(&writer, libc::F_WRLCK, bytes.reserved(), 1);
        let state = probe();
        assert!(state.reserved && !state.pending_or_exclusive());
        assert_eq!(
            state.holder_pid, None,
            "an OFD lock has no owner that the kernel tells"
        );
        ofd_lock(&writer, libc::F_WRLCK, bytes.pending(), 1);
        assert!(probe().pending && !probe().exclusive);
        ofd_lock(
            &writer,
            libc::F_WRLCK,
            bytes.shared_first(),
            LockBytes::SHARED_LEN,
        );
        assert!(probe().exclusive);
        ofd_lock(&writer, libc::F_UNLCK, 0, 0);
        assert_eq!(probe(), Default::default());
    }
    posix_lock(&writer, libc::F_WRLCK, LockBytes::default().pending(), 1);
    assert_eq!(
        probe_locks(&*look, LockBytes::default())
            .unwrap()
            .holder_pid,
        Some(std::process::id() as i32)
    );
}

#[test]
fn a_journal_is_live_only_while_it_begins_with_something() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("a.db");
    let journal = journal_path(&db);
    assert_eq!(journal, dir.path().join("a.db-journal"));
    assert_eq!(journal_state(&db).unwrap(), Journal::None);
    fs::write(&journal, "").unwrap();
    assert_eq!(journal_state(&db).unwrap(), Journal::Finished);
    fs::write(&journal, [0; 512]).unwrap();
    assert_eq!(journal_state(&db).unwrap(), Journal::Finished);
    fs::write(&journal, [0xd9; 512]).unwrap();
    assert!(journal_is_hot(&db).unwrap());
}

#[test]
fn the_header_of_a_database_is_read_and_a_short_file_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    fs::write(&path, [9; 27]).unwrap();
    assert_eq!(
        read_header(&File::open(&path).unwrap()).unwrap(),
        Default::default()
    );
    let mut page = [0u8; 512];
    page[16..18].copy_from_slice(&[0, 1]);
    page[18..20].copy_from_slice(&[2, 2]);
    page[24..28].copy_from_slice(&[0, 0, 1, 2]);
    fs::write(&path, page).unwrap();
    let header = read_header(&File::open(&path).unwrap()).unwrap();
    assert_eq!(
        (header.page_size, header.change_counter, header.is_wal()),
        (65_536, 258, true)
    );
}
