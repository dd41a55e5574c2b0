//! The same scripts on `linux` and on SQLite's `unix`: every answer, and every file that is there after each step, are the same.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use support::world::{World, compare};
use support::{answer, register};

const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400) \
                    SELECT printf('%0300d', i) FROM n";

#[test]
fn rollback_journals_of_every_mode() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        compare(&format!(
            "a+
             a: PRAGMA journal_mode={mode}
             a: CREATE TABLE t(x)
             ! chmod 660
             a: BEGIN
             a: INSERT INTO t {FILL}
             a: COMMIT
             b+
             b: SELECT count(*) FROM t
             a: BEGIN IMMEDIATE
             a: UPDATE t SET x=x||'y'
             b: SELECT count(*) FROM t
             b: BEGIN IMMEDIATE
             a: PRAGMA cache_spill=1
             a: COMMIT
             a: PRAGMA journal_size_limit=1000
             a: DELETE FROM t WHERE rowid%3=0
             a: PRAGMA incremental_vacuum
             a: VACUUM
             b: SELECT sum(length(x)) FROM t
             a: PRAGMA locking_mode=EXCLUSIVE
             a: INSERT INTO t VALUES('z')
             b: SELECT 1 FROM t
             a: PRAGMA locking_mode=NORMAL
             a: SELECT count(*) FROM t
             b: SELECT count(*) FROM t
             a: PRAGMA integrity_check
             a-
             b-"
        ));
    }
}

#[test]
fn wal_mode_from_creation_to_the_last_close() {
    compare(&format!(
        "a+
         a: PRAGMA journal_mode=WAL
         ! chmod 640
         a: CREATE TABLE t(x)
         b+
         b: SELECT count(*) FROM t
         a: BEGIN
         a: INSERT INTO t {FILL}
         b: SELECT count(*) FROM t
         b: BEGIN IMMEDIATE
         a: COMMIT
         b: SELECT count(*) FROM t
         b: BEGIN
         b: SELECT count(*) FROM t
         a: INSERT INTO t {FILL}
         a: PRAGMA wal_checkpoint(PASSIVE)
         a: PRAGMA wal_checkpoint(FULL)
         a: PRAGMA wal_checkpoint(RESTART)
         a: PRAGMA wal_checkpoint(TRUNCATE)
         b: COMMIT
         a: PRAGMA wal_checkpoint(TRUNCATE)
         a: DELETE FROM t WHERE rowid%2=0
         a: VACUUM
         a: PRAGMA wal_checkpoint(TRUNCATE)
         a: PRAGMA journal_mode=DELETE
         b-
         a: PRAGMA journal_mode=DELETE
         a: PRAGMA journal_mode=WAL
         a: INSERT INTO t VALUES(1)
         a: PRAGMA journal_size_limit=0
         a: PRAGMA integrity_check
         c+ ro
         c: SELECT count(*) FROM t
         c: INSERT INTO t VALUES(1)
         a-
         c: SELECT count(*) FROM t
         c-
         a+ rw
         a: SELECT count(*) FROM t
         a# {persist} -1
         a# {persist} 1
         a# {persist} -1
         a: INSERT INTO t VALUES(2)
         a-
         a+
         a# {persist} -1
         a: SELECT count(*) FROM t
         a-",
        persist = ffi::SQLITE_FCNTL_PERSIST_WAL,
    ));
}

#[test]
fn wal_mode_and_exclusive_locking_without_shared_memory() {
    compare(
        "a+
         a: PRAGMA locking_mode=EXCLUSIVE
         a: PRAGMA journal_mode=WAL
         a: CREATE TABLE t(x)
         a: INSERT INTO t VALUES(1)
         b+
         b: SELECT count(*) FROM t
         a: PRAGMA locking_mode=NORMAL
         a: SELECT count(*) FROM t
         b: SELECT count(*) FROM t
         a: PRAGMA journal_mode=DELETE
         a-
         b: SELECT count(*) FROM t
         b: PRAGMA journal_mode=WAL
         b: PRAGMA locking_mode=EXCLUSIVE
         b: INSERT INTO t VALUES(2)
         a+
         a: SELECT count(*) FROM t
         b: PRAGMA locking_mode=NORMAL
         b: SELECT count(*) FROM t
         a: SELECT count(*) FROM t
         a-
         b-",
    );
}

#[test]
fn shared_memory_that_is_damaged_or_in_the_way() {
    compare(
        "a+
         a: PRAGMA journal_mode=WAL
         a: CREATE TABLE t(x)
         a-
         ! garbage -shm
         a+
         a: SELECT count(*) FROM t
         a-
         ! garbage -wal
         a+
         a: SELECT count(*) FROM t
         a: INSERT INTO t VALUES(1)
         a-
         ! mkdir -shm
         a+
         a: SELECT count(*) FROM t
         a-",
    );
}

#[test]
fn memory_maps_and_sizes() {
    let (mmap, chunk, hint) = (
        ffi::SQLITE_FCNTL_MMAP_SIZE,
        ffi::SQLITE_FCNTL_CHUNK_SIZE,
        ffi::SQLITE_FCNTL_SIZE_HINT,
    );
    for journal_mode in ["DELETE", "WAL"] {
        compare(&format!(
            "a+
             a# {mmap} -1
             a: PRAGMA mmap_size
             a: PRAGMA mmap_size=1000000000000
             a: PRAGMA mmap_size
             a: PRAGMA mmap_size=100000
             a: PRAGMA journal_mode={journal_mode}
             a: CREATE TABLE t(x)
             a: INSERT INTO t {FILL}
             a: SELECT sum(length(x)) FROM t
             b+
             b: PRAGMA mmap_size=1000000
             b: SELECT sum(length(x)) FROM t
             a: INSERT INTO t {FILL}
             b: SELECT sum(length(x)) FROM t
             a: DELETE FROM t WHERE rowid>50
             a: VACUUM
             a: PRAGMA wal_checkpoint(TRUNCATE)
             b: SELECT sum(length(x)) FROM t
             b: PRAGMA integrity_check
             a: PRAGMA mmap_size=0
             a: SELECT sum(length(x)) FROM t
             a# {mmap} 4096
             a# {mmap} -1
             b-
             a# {chunk} 65536
             a# {hint} 70000
             a: INSERT INTO t {FILL}
             a: DELETE FROM t
             a: VACUUM
             a: PRAGMA wal_checkpoint(TRUNCATE)
             a-"
        ));
    }
}

#[test]
fn file_controls() {
    let numbers = [
        ffi::SQLITE_FCNTL_LOCKSTATE,
        ffi::SQLITE_FCNTL_LAST_ERRNO,
        ffi::SQLITE_FCNTL_SYNC_OMITTED,
        ffi::SQLITE_FCNTL_PERSIST_WAL,
        ffi::SQLITE_FCNTL_OVERWRITE,
        ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE,
        ffi::SQLITE_FCNTL_HAS_MOVED,
        ffi::SQLITE_FCNTL_SYNC,
        ffi::SQLITE_FCNTL_COMMIT_PHASETWO,
        ffi::SQLITE_FCNTL_WAL_BLOCK,
        ffi::SQLITE_FCNTL_BEGIN_ATOMIC_WRITE,
        ffi::SQLITE_FCNTL_COMMIT_ATOMIC_WRITE,
        ffi::SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE,
        ffi::SQLITE_FCNTL_LOCK_TIMEOUT,
        ffi::SQLITE_FCNTL_CKPT_DONE,
        ffi::SQLITE_FCNTL_CKPT_START,
        ffi::SQLITE_FCNTL_EXTERNAL_READER,
        ffi::SQLITE_FCNTL_CKSM_FILE,
        999_999,
    ];
    let asked: String = numbers.map(|number| format!("\na# {number} -1")).concat();
    compare(&format!(
        "a+
         {asked}
         a: CREATE TABLE t(x)
         {asked}
         a: PRAGMA journal_mode=WAL
         a: INSERT INTO t VALUES(1)
         {asked}
         ! rename y.db
         {asked}
         a-"
    ));
}

#[test]
fn a_file_that_was_cut_off_fails_reads_and_writes() {
    for journal_mode in ["DELETE", "WAL"] {
        compare(&format!(
            "a+
             a: PRAGMA journal_mode={journal_mode}
             a: CREATE TABLE t(x)
             a: INSERT INTO t VALUES(1)
             a# {} 0
             ! chmod 600",
            ffi::SQLITE_FCNTL_NULL_IO
        ));
        for vfs in ["linux", "unix"] {
            let mut world = World::new(vfs);
            world.step("a+");
            world.step("a: CREATE TABLE t(x)");
            world.step(&format!("a# {} 0", ffi::SQLITE_FCNTL_NULL_IO));
            let before = fs::read(world.path()).unwrap();
            assert!(
                world
                    .step("a: INSERT INTO t VALUES(2)")
                    .starts_with("error"),
                "{vfs}"
            );
            assert_eq!(world.step("a-"), "closed");
            assert_eq!(fs::read(world.path()).unwrap(), before, "{vfs}");
            assert_eq!(world.step("b+"), "opened");
            assert_eq!(
                world.step("b: INSERT INTO t VALUES(2)"),
                "ok",
                "no lock is left"
            );
        }
    }
}

#[test]
fn parameters_of_the_uri() {
    for parameters in ["nolock=1", "immutable=1", "psow=0", "cache=private"] {
        for journal_mode in ["DELETE", "WAL"] {
            compare(&format!(
                "a+
                 a: PRAGMA journal_mode={journal_mode}
                 a: CREATE TABLE t(x)
                 a-
                 b+ {parameters}
                 b: SELECT count(*) FROM t
                 b: INSERT INTO t VALUES(1)
                 b: PRAGMA journal_mode=WAL
                 b# {} -1
                 b-
                 a+
                 a: SELECT count(*) FROM t
                 b+ {parameters}
                 b: SELECT count(*) FROM t
                 b: BEGIN IMMEDIATE
                 a: BEGIN IMMEDIATE
                 b-
                 a-",
                ffi::SQLITE_FCNTL_LOCKSTATE
            ));
        }
    }
}

#[test]
fn modeof_gives_a_new_database_the_mode_of_another_file() {
    for vfs in ["linux", "unix"] {
        let mut world = World::new(vfs);
        let model = world.dir.path().join("model");
        fs::write(&model, "").unwrap();
        fs::set_permissions(&model, fs::Permissions::from_mode(0o646)).unwrap();
        world.step(&format!("a+ modeof={}", model.display()));
        world.step("a: CREATE TABLE t(x)");
        let mode = fs::metadata(world.path()).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o646, "{vfs}");
        let missing = World::new(vfs);
        assert!(missing.open("modeof=/nowhere/at/all").is_err(), "{vfs}");
    }
}

#[test]
fn nolock_takes_no_locks_at_all() {
    let mut world = World::new("linux");
    world.step("a+ nolock=1");
    world.step("a: CREATE TABLE t(x)");
    assert_eq!(world.step("a: BEGIN EXCLUSIVE"), "ok");
    let other = fs::File::open(world.path()).unwrap();
    assert!(!verneuil_dbfile::probe_any_lock(&other).unwrap());
}

/// The longest names that the file system and SQLite take, and one byte more.
#[test]
fn long_paths_open_or_fail_as_with_unix() {
    register();
    let try_open = |vfs: &std::ffi::CStr, path: &Path| {
        let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs);
        let works = db.is_ok_and(|db| {
            answer(&db, "PRAGMA journal_mode=WAL") == "wal"
                && answer(&db, "CREATE TABLE t(x)") == "ok"
        });
        let exists = path.exists();
        let _ = fs::remove_file(path);
        (works, exists)
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    // One component: 255 bytes, of which SQLite needs 8 for "-journal".
    for len in [240, 247, 248, 255, 256] {
        let path = root.join("c".repeat(len));
        let (ours, theirs) = (try_open(c"linux", &path), try_open(c"unix", &path));
        assert_eq!(ours, theirs, "component of {len} bytes");
        assert_eq!(ours.0, len <= 247, "{len}");
    }
    // The whole path.
    let deep = root.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let base = deep.as_os_str().len() + 1;
    let mut longest = 0;
    for len in 490..=520 {
        let path = deep.join("f".repeat(len - base));
        let (ours, theirs) = (try_open(c"linux", &path), try_open(c"unix", &path));
        assert_eq!(ours, theirs, "path of {len} bytes");
        if ours.0 {
            longest = len;
        }
    }
    assert_eq!(longest, 504, "512 less 8");
}
