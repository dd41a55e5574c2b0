//! The spool itself goes wrong, or belongs to another boot: commits go on, and everything becomes to-do.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use common::{Bench, CHUNK, Op, info};
use verneuil_config::SpoolConfig;
use verneuil_spool::{Database, Need, Spool, Writer};

fn everything_needed(database: &Database) -> bool {
    let lock = database.lock_copier().unwrap().expect("nobody else copies");
    lock.claim().unwrap();
    lock.inflight().unwrap() == Need::All
}

#[test]
fn a_new_control_page_says_that_everything_is_to_do() {
    let bench = Bench::new(CHUNK);
    assert!(everything_needed(&bench.database));
}

#[test]
fn a_control_page_that_vanishes_is_made_anew_at_the_next_transaction() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    fs::remove_file(bench.control_file()).unwrap();
    bench.transaction(&[]);
    assert_eq!(bench.database.trouble(), None);
    assert!(bench.control_file().exists());
    assert!(everything_needed(&bench.database));
}

#[test]
fn a_control_page_that_vanishes_within_a_transaction_is_made_anew_at_its_end() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    bench.bump();
    fs::remove_file(bench.control_file()).unwrap();
    bench.end();
    assert!(bench.control_file().exists());
    assert!(everything_needed(&bench.database));
}

#[test]
fn an_instance_id_that_is_damaged_is_written_again() {
    // A power loss leaves an unsynced file empty, zeroed, or with what was on the disk before.
    for left in [&b""[..], &[0; 32], &[0xff; 32], b"0123"] {
        let mut bench = Bench::new(CHUNK);
        bench.transaction(&[]);
        bench.settle();
        let known = bench.lock().instance_id();
        let Bench {
            dir: _dir,
            spool,
            path,
            database,
            writer,
            ..
        } = bench;
        drop((database, writer));
        fs::write(spool.root().join("instance"), left).unwrap();
        let database = Database::open(&spool, &path, info());
        assert_eq!(database.trouble(), None);
        // This process knows it still.
        let lock = database.lock_copier().unwrap().unwrap();
        assert_eq!(lock.instance_id(), known);
        let text = fs::read_to_string(spool.root().join("instance")).unwrap();
        assert_eq!(text.len(), 32, "{text:?}");
    }
}

#[test]
fn noise_in_place_of_a_control_page_is_replaced() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let control = bench.control_file();
    let Bench {
        dir,
        spool,
        path,
        database,
        writer,
        ..
    } = bench;
    drop((database, writer));
    fs::write(&control, vec![0x5A; 30_000]).unwrap();
    let database = Database::open(&spool, &path, info());
    assert_eq!(database.trouble(), None);
    assert!(everything_needed(&database));
    drop(dir);
}

#[test]
fn state_of_another_boot_is_ignored() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let other = bench.spool.clone().with_boot_id([7; 16]);
    let database = Database::open(&other, &bench.path, info());
    assert!(everything_needed(&database));
    assert_eq!(other.contents().unwrap().other_boots.len(), 1);
    other.remove_other_boots();
    let contents = other.contents().unwrap();
    assert!(contents.other_boots.is_empty());
    assert_eq!(contents.folders.len(), 1);
}

#[test]
fn an_unusable_spool_leaves_the_database_working_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "not a directory").unwrap();
    let spool = Spool::new(&SpoolConfig {
        dir: blocked.join("spool"),
        permissions: 0o700,
    });
    let path = dir.path().join("test.db");
    let file = fs::File::create_new(&path).unwrap();
    let database = Database::open(&spool, &path, info());
    let mut writer = Writer::new(database.clone());
    writer.begin(&file);
    assert!(writer.is_active());
    writer.will_write(0, 4_096);
    writer.end(&file, || panic!("nothing to log, so nobody asks"));
    assert!(!writer.is_active());
    let trouble = database.trouble().expect("a reason");
    assert!(trouble.contains("spool"), "{trouble}");
}

#[test]
fn a_log_that_cannot_be_written_becomes_to_do_and_trouble() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    // The next generation's log is a directory: as unwritable for root as for anybody.
    let control = bench.control_file();
    let path = bench.log_files()[0].clone();
    let Bench {
        dir,
        spool,
        path: db_path,
        file,
        database,
        writer,
        ..
    } = bench;
    drop((database, writer));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let database = Database::open(&spool, &db_path, info());
    let mut bench = Bench {
        writer: Writer::new(database.clone()),
        dir,
        spool,
        path: db_path,
        file,
        database,
        commits: 1,
    };
    bench.transaction(&[Op::Write {
        offset: 0,
        len: 512,
        byte: 1,
    }]);
    assert!(
        bench
            .database
            .trouble()
            .is_some_and(|trouble| trouble.contains("log-"))
    );
    fs::remove_dir(&path).unwrap();
    let lock = bench.lock();
    assert!(lock.has_todo().unwrap());
    assert_eq!(lock.epoch() % 2, 0);
    assert!(lock.dirty().unwrap().is_empty());
    let sealed = lock.seal().unwrap();
    lock.delete(sealed).unwrap();
    bench.transaction(&[]);
    assert_eq!(bench.database.trouble(), None, "replicated again");
    assert!(control.exists());
}

#[test]
fn a_control_page_that_has_run_out_of_generations_is_made_anew() {
    let Bench {
        dir,
        spool,
        file: _file,
        database,
        writer,
        ..
    } = Bench::new(CHUNK);
    drop((database, writer));
    let folder = spool.contents().unwrap().folders.remove(0);
    for generation in [u32::MAX, u32::MAX / 2 + 1] {
        // What noise leaves, and the log that its last seal prepared.
        let head = u64::from(generation) << 32;
        let page = fs::File::options()
            .write(true)
            .open(folder.join("control"))
            .unwrap();
        page.write_all_at(&head.to_le_bytes(), 40).unwrap();
        fs::write(folder.join(format!("log-{generation}")), b"").unwrap();
        let found = Database::open_or_repair(&spool, &folder).unwrap();
        let lock = found.lock_copier().unwrap().expect("nobody else copies");
        assert!(lock.has_todo().unwrap(), "everything is to do");
        assert!(lock.head().generation < 100);
        lock.leftover().unwrap();
        lock.seal().unwrap();
        assert!(!folder.join(format!("log-{generation}")).exists());
    }
    drop(dir);
}

#[test]
fn a_commit_goes_through_at_the_end_of_the_epochs() {
    for last in [u64::MAX, u64::MAX - 1] {
        let mut bench = Bench::new(CHUNK);
        bench.transaction(&[]);
        let page = fs::File::options()
            .write(true)
            .open(bench.control_file())
            .unwrap();
        page.write_all_at(&last.to_le_bytes(), 56).unwrap();
        bench.transaction(&[]);
        bench.transaction(&[]);
        assert_eq!(bench.database.trouble(), None);
        assert_eq!(bench.lock().epoch() % 2, 0);
    }
}

#[test]
fn a_link_in_the_place_of_the_next_log_or_of_the_lock_is_not_followed() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    let canary = bench.dir.path().join("canary");
    fs::write(&canary, b"canary").unwrap();
    let next = bench.lock().head().generation + 1;
    let log = bench.control_file().with_file_name(format!("log-{next}"));
    symlink(&canary, &log).unwrap();
    let error = bench.lock().seal().unwrap_err().to_string();
    assert!(error.contains("is a symbolic link"), "{error}");
    let lock_file = bench.control_file().with_file_name("copier.lock");
    fs::remove_file(&lock_file).unwrap();
    symlink(&canary, &lock_file).unwrap();
    let error = bench.database.lock_copier().unwrap_err().to_string();
    assert!(error.contains("is a symbolic link"), "{error}");
    bench.transaction(&[]);
    assert_eq!(fs::read(&canary).unwrap(), b"canary");
    fs::remove_file(&lock_file).unwrap();
    fs::remove_file(&log).unwrap();
    bench.lock().seal().unwrap();
}

#[test]
fn the_spool_is_private() {
    let bench = Bench::new(CHUNK);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let control = bench.control_file();
    assert_eq!(mode(bench.spool.root()), 0o700);
    assert_eq!(mode(control.parent().unwrap()), 0o700);
    assert_eq!(mode(&control), 0o600);
    assert_eq!(mode(&bench.log_files()[0]), 0o600);
    fs::set_permissions(&control, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_growing_database_grows_the_control_page_under_its_other_users() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    // A second mapping, as another process would have it.
    let folder = bench.control_file().parent().unwrap().to_owned();
    let before = fs::metadata(bench.control_file()).unwrap().len();
    let registry_free = Spool::at(bench.spool.root()).with_boot_id(boot_id());
    let other = Database::open_existing(&registry_free, &folder).unwrap();
    assert!(!Arc::ptr_eq(&other, &bench.database));
    bench.transaction(&[Op::Write {
        offset: 9_000 * CHUNK,
        len: 512,
        byte: 1,
    }]);
    assert!(fs::metadata(bench.control_file()).unwrap().len() > before);
    let lock = other.lock_copier().unwrap().expect("nobody else copies");
    lock.claim().unwrap();
    let Need::Chunks(need) = lock.inflight().unwrap() else {
        panic!("everything")
    };
    assert!(need.contains(9_000) && need.contains(5_000) && !need.contains(9_001));
}

use std::sync::Arc;

fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap()
        .replace('-', "");
    let digit = |k: usize| u8::from_str_radix(&text[2 * k..2 * k + 2], 16).unwrap();
    std::array::from_fn(digit)
}

#[test]
fn flush_finds_databases_without_their_application() {
    let bench = Bench::new(CHUNK);
    let contents = bench.spool.contents().unwrap();
    assert_eq!(contents.folders.len(), 1);
    let found = Database::open_existing(&bench.spool, &contents.folders[0]).unwrap();
    assert_eq!(found.path(), bench.path);
    assert_eq!(found.info(), &info());
    let nowhere = Spool::at(&bench.dir.path().join("nowhere"));
    assert!(nowhere.contents().unwrap_err().is_not_found());
    assert!(!nowhere.root().exists());
}
