//! What the ledger says that targets lack, when records can't be written and copiers die. (`verneuil-copier`'s tests see the rest of it.)

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;

use common::{Bench, CHUNK, Op};
use verneuil_spool::{Ledger, Need, Published, SpoolError, TargetId};

const TARGETS: [TargetId; 2] = [TargetId(1), TargetId(2)];
const CHANGED: u32 = 3;

fn ledger(bench: &Bench) -> Ledger {
    let opened = bench.database.ledger().unwrap();
    opened.expect("nobody else copies")
}

/// All that is committed goes to a target.
fn publish(ledger: &Ledger, target: TargetId) -> Result<(), SpoolError> {
    if ledger.needs_reading(target)? {
        ledger.begin_catch_up(target)?;
    }
    ledger.take(target, true)?.expect("nothing more to read");
    let published = Published {
        generation: 1,
        change_counter: None,
    };
    ledger.settle(target, published, None)
}

/// A database whose targets hold everything, but for a commit that is in the log.
fn one_commit_ahead() -> Bench {
    let mut bench = Bench::new(5 * CHUNK);
    bench.transaction(&[]);
    let ledger = ledger(&bench);
    for target in TARGETS {
        ledger.enter(target, "somewhere");
        publish(&ledger, target).unwrap();
    }
    assert!(ledger.lock().inflight().unwrap().is_empty());
    drop(ledger);
    bench.transaction(&[Op::Write {
        offset: u64::from(CHANGED) * CHUNK,
        len: 512,
        byte: 1,
    }]);
    bench
}

/// The next copier knows that the target lacks the commit, and no more.
fn assert_lacks_commit(ledger: &Ledger, target: TargetId) {
    let Need::Chunks(need) = ledger.begin_catch_up(target).unwrap() else {
        panic!("everything")
    };
    assert_eq!(need.iter().collect::<Vec<_>>(), [0, CHANGED], "{target:?}");
}

/// The records are written one after the other, and each time it may be the last thing that a copier does.
#[test]
fn what_another_target_lacks_is_in_flight_until_every_record_is_written() {
    for unwritable in TARGETS {
        let bench = one_commit_ahead();
        let first = ledger(&bench);
        TARGETS
            .iter()
            .for_each(|target| first.enter(*target, "somewhere"));
        let name = format!("target-{:016x}.json", unwritable.0);
        let record = bench.control_file().with_file_name(name);
        let before = fs::read(&record).unwrap();
        fs::remove_file(&record).unwrap();
        fs::create_dir(&record).unwrap();
        publish(&first, TARGETS[0]).unwrap_err();
        drop(first);
        fs::remove_dir(&record).unwrap();
        fs::write(&record, before).unwrap();
        assert_lacks_commit(&ledger(&bench), TARGETS[1]);
    }
}

#[test]
fn what_a_copier_has_sealed_before_it_died_every_target_lacks() {
    for is_in_flight in [false, true] {
        let bench = one_commit_ahead();
        let lock = bench.lock();
        let sealed = lock.seal().unwrap();
        if is_in_flight {
            lock.hand_to_inflight(sealed).unwrap();
        }
        drop(lock);
        let ledger = ledger(&bench);
        TARGETS
            .iter()
            .for_each(|target| assert_lacks_commit(&ledger, *target));
        assert_eq!(bench.log_files().len(), 1, "the current one");
    }
}
