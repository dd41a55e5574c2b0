//! Files that are renamed, deleted, recreated or copied over while a connection has them open.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::fs;
use support::{Follower, World, fill, flush, status};

fn with_rows() -> (World, Connection) {
    let world = World::new();
    let db = world.open();
    // A journal in memory: with one on disk SQLite itself refuses to write to a file that was moved.
    db.execute_batch("PRAGMA journal_mode=MEMORY; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    fill(&db, 10, 100);
    (world, db)
}

/// That the connection works on, and nothing of what it writes is replicated.
fn works_unreplicated(world: &World, db: &Connection) {
    let epoch = world.database().progress().unwrap().unwrap().epoch;
    fill(db, 10, 100);
    let progress = world.database().progress().unwrap().unwrap();
    assert_eq!(progress.epoch, epoch, "nothing was logged");
    let row = status(db);
    assert_eq!(row["replicated"], false);
    assert!(
        row["reason"]
            .as_str()
            .unwrap()
            .contains("renamed, deleted or replaced"),
        "{row}"
    );
    says_no_success(db);
}

/// Nothing of what the connection asks for is said to be in the store, whatever is.
fn says_no_success(db: &Connection) {
    let waited = db
        .query_row("PRAGMA verneuil_wait=1000", [], |row| row.get(0))
        .map_err(|error| error.to_string());
    for answer in [flush(db, ""), waited] {
        let error = answer.unwrap_err();
        assert!(error.contains("renamed, deleted or replaced"), "{error}");
    }
}

#[test]
fn a_renamed_file_is_not_replicated_under_its_old_name_until_it_is_back() {
    let (world, db) = with_rows();
    let elsewhere = world.dir().join("elsewhere.db");
    fs::rename(world.path(), &elsewhere).unwrap();
    works_unreplicated(&world, &db);
    fs::rename(&elsewhere, world.path()).unwrap();
    let mut follower = Follower::start(&world);
    fill(&db, 1, 10);
    assert_eq!(status(&db)["replicated"], true);
    assert!(follower.lock.has_todo().unwrap(), "what was missed");
    drop(follower);
    follower = Follower::start(&world);
    fill(&db, 1, 10);
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn a_file_that_took_the_place_of_a_deleted_one_is_replicated_and_the_old_one_is_not() {
    for by_rename in [false, true] {
        let (world, old) = with_rows();
        let settled = Follower::start(&world);
        drop(settled);
        if by_rename {
            let aside = world.dir().join("aside.db");
            Connection::open(&aside)
                .unwrap()
                .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
                .unwrap();
            fs::rename(&aside, world.path()).unwrap();
        } else {
            fs::remove_file(world.path()).unwrap();
        }
        let new = world.open();
        new.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
            .unwrap();
        fill(&new, 3, 100);
        let lock = world.database().lock_copier().unwrap().unwrap();
        assert!(lock.has_todo().unwrap(), "everything");
        drop(lock);
        assert_eq!(status(&new)["replicated"], true);
        works_unreplicated(&world, &old);
        let mut follower = Follower::start(&world);
        fill(&new, 3, 100);
        assert_eq!(status(&new)["replicated"], true);
        assert_eq!(flush(&new, ""), Ok("1".to_owned()));
        assert_eq!(
            status(&old)["replicated"],
            false,
            "though nothing went by since"
        );
        says_no_success(&old);
        drop(follower);
        follower = Follower::start(&world);
        fill(&new, 3, 100);
        assert_eq!(follower.follow(), 1);
        assert!(follower.has_the_same_as(&world));
        let rows: i64 = new
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 9);
    }
}

#[test]
fn a_file_that_was_copied_over_is_read_as_a_whole() {
    let (world, db) = with_rows();
    let backup = world.dir().join("backup.db");
    fs::copy(world.path(), &backup).unwrap();
    fill(&db, 10, 100);
    let follower = Follower::start(&world);
    assert!(!follower.lock.has_todo().unwrap());
    drop(follower);
    // Same inode, other content.
    fs::copy(&backup, world.path()).unwrap();
    fill(&world.open(), 1, 10);
    let lock = world.database().lock_copier().unwrap().unwrap();
    assert!(lock.has_todo().unwrap());
}
