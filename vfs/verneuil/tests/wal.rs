//! WAL mode is not replicated: a replicated database keeps its journal mode, and one that is in WAL mode works and says so.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use support::{Follower, World, fill, status};

fn journal_mode(db: &Connection, argument: &str) -> String {
    db.query_row(&format!("PRAGMA journal_mode{argument}"), [], |row| {
        row.get(0)
    })
    .unwrap()
}

fn with_table(keys: &str) -> World {
    let world = World::configured(keys);
    world
        .open()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    world
}

/// A connection of SQLite's own VFS.
fn foreign(world: &World) -> Connection {
    Connection::open(world.path()).unwrap()
}

const UNREPLICATED: &str = r#"{"journal_wal": "unreplicated"}"#;

#[test]
fn the_pragma_answers_the_mode_in_force_in_every_locking_mode() {
    for locking_mode in ["NORMAL", "EXCLUSIVE"] {
        for mode in ["delete", "persist", "truncate", "memory", "off"] {
            let world = with_table("{}");
            let mut follower = Follower::start(&world);
            let db = world.open();
            db.execute_batch(&format!("PRAGMA locking_mode={locking_mode}"))
                .unwrap();
            journal_mode(&db, &format!("={mode}"));
            for argument in ["=WAL", "=wal", "='Wal'", "(w)", "=wA"] {
                assert_eq!(journal_mode(&db, argument), mode, "{locking_mode}");
                fill(&db, 2, 100);
                assert_eq!(follower.follow(), 1);
                assert!(follower.has_the_same_as(&world));
            }
            assert_eq!(
                journal_mode(&db, "=delete"),
                "delete",
                "other arguments pass"
            );
        }
    }
}

#[test]
fn a_new_database_stays_in_rollback_mode_and_an_unreplicated_one_may_leave_it() {
    let world = World::new();
    let db = world.open();
    assert_eq!(journal_mode(&db, "=WAL"), "delete");
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    assert_eq!(journal_mode(&db, ""), "delete");
    drop(db);

    let excluded = World::configured(r#"{"replicate": {"exclude": ["$DIR/*"]}}"#);
    let db = excluded.open();
    assert_eq!(journal_mode(&db, "=WAL"), "wal");
    db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    assert_eq!(status(&db)["replicated"], false);
}

#[test]
fn a_database_in_wal_mode_works_unreplicated_until_it_leaves_it() {
    let world = with_table("{}");
    assert_eq!(journal_mode(&foreign(&world), "=WAL"), "wal");
    let (db, other) = (world.open(), world.open());
    fill(&db, 10, 100);
    fill(&other, 10, 100);
    assert_eq!(journal_mode(&db, ""), "wal");
    assert_eq!(journal_mode(&db, "=WAL"), "wal", "nothing to refuse: it is");
    let row = status(&db);
    assert_eq!(row["replicated"], false);
    assert!(
        row["reason"].as_str().unwrap().contains("WAL mode"),
        "{row}"
    );

    // A checkpoint writes to the file and is no transaction.
    let follower = Follower::start(&world);
    let epoch = follower.lock.epoch();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    assert_eq!(follower.lock.epoch(), epoch);
    assert!(follower.lock.dirty().unwrap().is_empty());
    drop(follower);

    drop(other);
    fill(&db, 10, 100);
    assert_eq!(journal_mode(&db, "=DELETE"), "delete");
    assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
    let mut follower = Follower::start(&world);
    fill(&db, 10, 100);
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn leaving_wal_mode_leaves_everything_to_do() {
    let world = with_table("{}");
    journal_mode(&foreign(&world), "=WAL");
    let db = world.open();
    fill(&db, 10, 100);
    let lock = world.database().lock_copier().unwrap().unwrap();
    lock.claim().unwrap();
    lock.clear_inflight().unwrap();
    assert!(!lock.has_todo().unwrap());
    assert_eq!(journal_mode(&db, "=DELETE"), "delete");
    assert!(lock.has_todo().unwrap());
}

#[test]
fn a_foreign_switch_to_wal_is_followed_by_an_open_connection() {
    let world = with_table("{}");
    let db = world.open();
    fill(&db, 10, 100);
    assert_eq!(status(&db)["replicated"], true);
    assert_eq!(journal_mode(&foreign(&world), "=WAL"), "wal");
    fill(&db, 10, 100);
    assert_eq!(journal_mode(&db, ""), "wal");
    assert_eq!(status(&db)["replicated"], false);
    let rows: i64 = foreign(&world)
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 20);
    // And a foreign switch back, seen at the next read.
    drop(db);
    assert_eq!(journal_mode(&foreign(&world), "=DELETE"), "delete");
    let db = world.open();
    fill(&db, 10, 100);
    assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
    let lock = world.database().lock_copier().unwrap().unwrap();
    assert!(lock.has_todo().unwrap());
}

#[test]
fn a_switch_whose_pragma_went_to_another_vfs_is_refused_and_harms_nothing() {
    for is_new in [false, true] {
        let world = if is_new {
            World::new()
        } else {
            with_table("{}")
        };
        let db = Connection::open(world.dir().join("foreign.db")).unwrap();
        let vfs = world.vfs.to_str().unwrap();
        let uri = format!("file:{}?vfs={vfs}", world.path().display());
        db.execute("ATTACH ? AS ours", [uri]).unwrap();
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
        // SQLite answers first and commits then.
        let mut statement = db.prepare("PRAGMA journal_mode=WAL").unwrap();
        let mut rows = statement.query([]).unwrap();
        let error = loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the switch was not refused"),
                Err(error) => break error,
            }
        };
        drop(rows);
        drop(statement);
        assert!(error.to_string().contains("readonly"), "{error}");
        db.execute_batch("CREATE TABLE ours.u(x); INSERT INTO ours.u VALUES(1)")
            .unwrap();
        assert_eq!(std::fs::read(world.path()).unwrap()[18..20], [1, 1]);
        let mut follower = Follower::start(&world);
        db.execute_batch("INSERT INTO ours.u VALUES(2)").unwrap();
        assert_eq!(follower.follow(), 1);
        assert!(follower.has_the_same_as(&world));
    }
}

#[test]
fn a_restore_from_a_database_in_wal_mode_passes() {
    let world = with_table("{}");
    let source = Connection::open(world.dir().join("source.db")).unwrap();
    assert_eq!(journal_mode(&source, "=WAL"), "wal");
    source
        .execute_batch("CREATE TABLE v(x); INSERT INTO v VALUES(1)")
        .unwrap();
    let mut db = world.open();
    rusqlite::backup::Backup::new(&source, &mut db)
        .unwrap()
        .run_to_completion(100, std::time::Duration::ZERO, None)
        .unwrap();
    let rows: i64 = db
        .query_row("SELECT count(*) FROM v", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
    let is_wal = journal_mode(&db, "") == "wal";
    assert_eq!(status(&db)["replicated"], !is_wal);
    db.execute_batch("INSERT INTO v VALUES(2)").unwrap();
}

#[test]
fn the_configuration_may_allow_wal_and_says_that_it_is_not_replicated() {
    for locking_mode in ["NORMAL", "EXCLUSIVE"] {
        let world = with_table(UNREPLICATED);
        let db = world.open();
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], true);
        db.execute_batch(&format!("PRAGMA locking_mode={locking_mode}"))
            .unwrap();
        assert_eq!(journal_mode(&db, "=WAL"), "wal");
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], false);
        let lock = world.database().lock_copier().unwrap().unwrap();
        let epoch = lock.epoch();
        fill(&db, 2000, 1000);
        assert_eq!(lock.epoch(), epoch, "checkpoints are no transactions");
        drop(lock);
        assert_eq!(journal_mode(&db, "=TRUNCATE"), "truncate");
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], true, "{}", status(&db));
        let mut follower = Follower::start(&world);
        fill(&db, 10, 100);
        assert_eq!(follower.follow(), 1);
        assert!(follower.has_the_same_as(&world));
    }
}

#[test]
fn a_roll_back_to_wal_mode_is_never_refused() {
    // Killed between the write of the new header and the end of the journal: the next opener brings WAL back.
    let world = with_table("{}");
    let db = foreign(&world);
    journal_mode(&db, "=WAL");
    fill(&db, 10, 100);
    drop(db);
    let wal = std::fs::read(world.path()).unwrap();
    let db = foreign(&world);
    journal_mode(&db, "=PERSIST");
    drop(db);
    let journal = world.dir().join("x.db-journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    assert!(bytes[..28].iter().all(|byte| *byte == 0));
    // The header that SQLite had zeroed: magic, one page, nonce, size of the database, sector and page size.
    bytes[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    let pages = u32::try_from(wal.len() / 4096).unwrap();
    let nonce = nonce_of(&bytes);
    for (at, number) in [(8, 1), (12, nonce), (16, pages), (20, 512), (24, 4096)] {
        bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }
    std::fs::write(&journal, &bytes).unwrap();
    for locking_mode in ["NORMAL", "EXCLUSIVE"] {
        std::fs::write(&journal, &bytes).unwrap();
        let db = world.open();
        db.execute_batch(&format!("PRAGMA locking_mode={locking_mode}"))
            .unwrap();
        let rows: i64 = db
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 10);
        assert_eq!(journal_mode(&db, ""), "wal", "rolled back");
        drop(db);
        let db = foreign(&world);
        journal_mode(&db, "=DELETE");
    }
}

/// The nonce with which the checksum of the first page of this journal comes out: SQLite adds every 200th byte from the end.
fn nonce_of(journal: &[u8]) -> u32 {
    let record = &journal[512..];
    let page = &record[4..4 + 4096];
    let stored = u32::from_be_bytes(record[4 + 4096..][..4].try_into().unwrap());
    let mut sum = 0_u32;
    let mut at = 4096 - 200;
    while at > 0 {
        sum = sum.wrapping_add(u32::from(page[at as usize]));
        at -= 200;
    }
    stored.wrapping_sub(sum)
}
