//! A forked child that goes on with inherited connections, or closes them: its parent's transactions and spool are not touched, and its own are
//! replicated.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use support::{Follower, World, fill, status};

/// One fork at a time: a child has one thread, and must not find the allocator's or a test's lock held by another.
static FORKS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body in a forked child, and says whether it came to its end.
fn in_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child runs the body in its only thread and leaves without destructors and handlers.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let done = catch_unwind(AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the process.
            unsafe { nix::libc::_exit(i32::from(!done)) }
        }
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
        }
    }
}

fn with_table() -> (World, Connection) {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    fill(&db, 10, 100);
    (world, db)
}

#[test]
fn a_child_writes_through_an_inherited_connection_and_is_replicated_by_itself() {
    let _alone = alone();
    let (world, db) = with_table();
    let mut follower = Follower::start(&world);
    assert!(in_child(|| {
        fill(&db, 10, 100);
        fill(&db, 10, 100);
        let served = world.notes.served.lock().unwrap();
        assert_eq!(served.len(), 2, "served anew");
        assert!(!Arc::ptr_eq(&served[0], &served[1]));
        drop(served);
        assert_eq!(status(&db)["replicated"], true);
    }));
    fill(&db, 10, 100);
    assert_eq!(follower.follow(), 3);
    assert!(follower.has_the_same_as(&world));
    assert_eq!(world.notes.served.lock().unwrap().len(), 1);
}

#[test]
fn a_child_that_only_reads_and_closes_connects_to_nothing() {
    let _alone = alone();
    let (world, db) = with_table();
    let mut inherited = Some(db);
    let mut follower = Follower::start(&world);
    assert!(in_child(|| {
        let db = inherited.take().unwrap();
        let rows: i64 = db
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 10);
        db.close().unwrap();
        assert_eq!(world.notes.served.lock().unwrap().len(), 1);
    }));
    let db = world.open();
    fill(&db, 1, 10);
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn a_child_that_closes_a_connection_in_a_transaction_leaves_it_to_its_parent() {
    let _alone = alone();
    for end in ["COMMIT", "ROLLBACK"] {
        let (world, db) = with_table();
        let mut follower = Follower::start(&world);
        db.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
        fill(&db, 300, 900);
        let epoch = follower.lock.epoch();
        assert_eq!(epoch % 2, 1);
        let mut inherited = Some(db);
        assert!(in_child(|| drop(inherited.take())));
        let db = inherited.unwrap();
        assert_eq!(follower.lock.epoch(), epoch);
        assert!(follower.lock.writer_lives(), "it is the parent's");
        db.execute_batch(end).unwrap();
        assert_eq!(follower.follow(), 1, "{end}");
        assert!(follower.has_the_same_as(&world), "{end}");
    }
}

#[test]
fn a_child_does_not_end_the_exclusive_mode_of_its_parent() {
    let _alone = alone();
    let (world, db) = with_table();
    let mut follower = Follower::start(&world);
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    fill(&db, 10, 100);
    assert_eq!(follower.follow(), 1);
    let mut inherited = Some(db);
    assert!(in_child(|| drop(inherited.take())));
    let db = inherited.unwrap();
    assert!(follower.lock.exclusive_owner_lives());
    fill(&db, 10, 100);
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}

#[test]
fn a_child_opens_and_serves_databases_of_its_own() {
    let _alone = alone();
    let (world, _db) = with_table();
    let mut follower = Follower::start(&world);
    assert!(in_child(|| {
        let db = world.open();
        fill(&db, 10, 100);
        assert_eq!(status(&db)["replicated"], true);
        let served = world.notes.served.lock().unwrap();
        assert!(!Arc::ptr_eq(&served[0], &served[1]));
    }));
    assert_eq!(follower.follow(), 1);
    assert!(follower.has_the_same_as(&world));
}
