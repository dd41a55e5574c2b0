//! A spool that is full, read-only, deleted or overwritten while it is used: commits go on, the reason is told, and replication recovers by
//! itself.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Follower, World, fill, status};

/// Longer than the spool is left alone after a failure.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

fn with_table() -> (World, Connection) {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    (world, db)
}

/// The folder of the database in the spool.
fn folder(world: &World) -> PathBuf {
    let boot = fs::read_dir(world.dir().join("spool"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    fs::read_dir(boot).unwrap().next().unwrap().unwrap().path()
}

/// Commits until the database is replicated again.
fn recovers(world: &World, db: &Connection) {
    let until = Instant::now() + RECOVERY_LIMIT;
    loop {
        fill(db, 1, 10);
        if status(db)["replicated"] == true {
            break;
        }
        assert!(Instant::now() < until, "{}", status(db));
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut follower = Follower::start(world);
    fill(db, 1, 10);
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(world));
}

#[test]
fn a_spool_that_was_deleted_comes_back_with_its_instance_id_and_everything_to_do() {
    let (world, db) = with_table();
    fill(&db, 10, 100);
    let id = Follower::start(&world).lock.instance_id();
    fs::remove_dir_all(world.dir().join("spool")).unwrap();
    fill(&db, 10, 100);
    assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
    let lock = world.database().lock_copier().unwrap().unwrap();
    assert_eq!(lock.instance_id(), id);
    assert!(lock.has_todo().unwrap());
    drop(lock);
    recovers(&world, &db);
}

#[test]
fn a_spool_that_vanishes_in_the_middle_of_a_transaction_is_made_anew() {
    let (world, db) = with_table();
    drop(Follower::start(&world));
    db.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
    fill(&db, 300, 900);
    fs::remove_dir_all(world.dir().join("spool")).unwrap();
    db.execute_batch("COMMIT").unwrap();
    let lock = world.database().lock_copier().unwrap().unwrap();
    assert!(lock.has_todo().unwrap());
    drop(lock);
    recovers(&world, &db);
}

#[test]
fn a_control_page_that_was_overwritten_is_made_anew_with_everything_to_do() {
    for noise in [0x00, 0x5a, 0xff] {
        let (world, db) = with_table();
        drop(Follower::start(&world));
        let control = fs::OpenOptions::new()
            .write(true)
            .open(folder(&world).join("control"))
            .unwrap();
        control.write_all_at(&[noise; 4096], 0).unwrap();
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
        let lock = world.database().lock_copier().unwrap().unwrap();
        assert!(lock.has_todo().unwrap());
        drop(lock);
        recovers(&world, &db);

        // In the middle of a transaction, too.
        db.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
        fill(&db, 300, 900);
        let control = fs::OpenOptions::new()
            .write(true)
            .open(folder(&world).join("control"))
            .unwrap();
        control.write_all_at(&[noise; 4096], 0).unwrap();
        db.execute_batch("COMMIT").unwrap();
        let lock = world.database().lock_copier().unwrap().unwrap();
        assert!(lock.has_todo().unwrap());
        drop(lock);
        recovers(&world, &db);
    }
}

#[test]
fn a_control_page_that_was_cut_is_made_anew_before_it_is_touched() {
    for len in [0, 4096, 8192] {
        let (world, db) = with_table();
        drop(Follower::start(&world));
        fs::OpenOptions::new()
            .write(true)
            .open(folder(&world).join("control"))
            .unwrap()
            .set_len(len)
            .unwrap();
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
        recovers(&world, &db);
    }
}

#[test]
fn a_spool_of_another_user_is_not_used_and_names_its_owner() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let spool = world.dir().join("spool");
    fs::create_dir(&spool).unwrap();
    std::os::unix::fs::chown(&spool, Some(65_534), None).unwrap();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    let row = status(&db);
    assert!(
        row["reason"]
            .as_str()
            .unwrap()
            .contains("belongs to user 65534"),
        "{row}"
    );
    std::os::unix::fs::chown(&spool, Some(0), None).unwrap();
    recovers(&world, &db);
}

#[test]
fn a_log_that_was_deleted_or_overwritten_is_not_believed() {
    for is_deleted in [true, false] {
        let (world, db) = with_table();
        let follower = Follower::start(&world);
        fill(&db, 10, 100);
        let sealed_generation = follower.lock.head().generation;
        let log = folder(&world).join(format!("log-{sealed_generation}"));
        if is_deleted {
            fs::remove_file(&log).unwrap();
        } else {
            fs::OpenOptions::new()
                .write(true)
                .open(&log)
                .unwrap()
                .write_all_at(&[0x5a; 64], 100)
                .unwrap();
        }
        fill(&db, 10, 100);
        let sealed = follower.lock.seal().unwrap();
        assert!(
            follower.lock.replay(sealed).is_err(),
            "to be read from the file"
        );
        drop(follower);
        recovers(&world, &db);
    }
}

#[test]
fn a_spool_whose_directory_cannot_be_written_recovers_when_it_can() {
    if is_root() {
        // Nothing is forbidden to root; a read-only file system is.
        let world = World::new();
        let spool = world.dir().join("spool");
        let Some(mount) = Mount::tmpfs(&spool, "size=1m,mode=700") else {
            return;
        };
        assert!(mount.remount("ro"));
        let db = world.open();
        db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
            .unwrap();
        let row = status(&db);
        assert!(
            row["reason"].as_str().unwrap().contains("Read-only"),
            "{row}"
        );
        assert!(mount.remount("rw"));
        recovers(&world, &db);
        drop(db);
    } else {
        let world = World::new();
        let spool = world.dir().join("spool");
        fs::create_dir(&spool).unwrap();
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o500)).unwrap();
        let db = world.open();
        db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
            .unwrap();
        assert_eq!(status(&db)["replicated"], false);
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).unwrap();
        recovers(&world, &db);
    }
}

#[test]
fn a_full_spool_costs_no_commit_and_recovers_when_there_is_room() {
    let world = World::new();
    let spool = world.dir().join("spool");
    let Some(_mount) = Mount::tmpfs(&spool, "size=512k,mode=700") else {
        return;
    };
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    fill(&db, 10, 100);
    assert_eq!(status(&db)["replicated"], true);
    let filler = spool.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    for _ in 0..3 {
        fill(&db, 100, 900);
    }
    let row = status(&db);
    assert_eq!(row["replicated"], false);
    assert!(
        row["reason"].as_str().unwrap().contains("No space"),
        "{row}"
    );
    // Also from the first moment.
    let other = world.dir().join("other.db");
    let vfs = world.vfs.as_c_str();
    let second =
        Connection::open_with_flags_and_vfs(&other, rusqlite::OpenFlags::default(), vfs).unwrap();
    second.execute_batch("CREATE TABLE t(x)").unwrap();
    assert_eq!(status(&second)["replicated"], false);
    drop(second);
    fs::remove_file(&filler).unwrap();
    let until = Instant::now() + RECOVERY_LIMIT;
    while status(&db)["replicated"] != true {
        assert!(Instant::now() < until);
        fill(&db, 1, 10);
        // As a copier would: what was logged makes room.
        let database = world.notes.served.lock().unwrap()[0].clone();
        drop(Follower::of(database, &world.path()));
    }
    drop(db);
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// A mounted file system, unmounted when it is dropped. None where mounting is not allowed.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, options: &str) -> Option<Mount> {
        fs::create_dir(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting is not allowed here");
            fs::remove_dir(at).unwrap();
        }
        mounted.then(|| Mount(at.to_owned()))
    }

    fn remount(&self, how: &str) -> bool {
        Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: mapped files may be alive for a moment.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
