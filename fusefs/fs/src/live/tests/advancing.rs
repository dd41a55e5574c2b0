//! When a live file moves to a newer snapshot, and in which order that happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::*;
use crate::options::{DRAIN_WAIT, OPEN_READ_BYTES};

#[test]
fn an_advance_drops_pages_stores_the_tail_and_then_answers_locks() {
    let mut stage = Stage::new(5, database(b'a', 3, 1, 1));
    let (first, second) = (stage.open(1, false), stage.open(2, false));
    stage.lock(first, 1);
    stage.lock(second, 2);
    let mut newer = database(b'a', 5, 1, 2);
    newer[2 * BLOCK..].fill(b'b');
    stage.store.put(PATH, newer.clone());
    stage.wait_until_ready();
    stage.kernel.take();

    stage.unlock(second, 2);
    assert_eq!(stage.kernel.take(), [], "process 1 still reads");
    stage.kernel.hold(true);
    stage.unlock(first, 1);
    eventually("pages are being dropped", || {
        stage.kernel.has(&Event::Data(INO, 0..4_096))
    });
    stage.lock_later(first, 1);
    assert_eq!(
        stage.read(second, 2 * BLOCK, 1).unwrap(),
        b"b",
        "reads are served from the new snapshot"
    );
    std::thread::sleep(2 * DRAIN_WAIT);
    assert!(
        !stage.kernel.has(&answered()),
        "no lock is granted while pages are being dropped"
    );
    stage.kernel.hold(false);
    eventually("the lock is granted", || stage.kernel.has(&answered()));
    let tail = Event::Store(INO, 4 * BLOCK as u64, newer[4 * BLOCK..].to_vec());
    let dropped = [
        Event::Data(INO, 0..4_096),
        Event::Data(INO, 8_192..5 * 4_096),
    ];
    assert_eq!(
        stage.kernel.take(),
        [&dropped[..], &[tail, answered()]].concat()
    );
}

#[test]
fn a_reader_in_a_transaction_keeps_its_snapshot_and_the_next_transaction_is_new() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    for round in 0..20u8 {
        let (now, next) = (b'a' + round, b'a' + round + 1);
        stage.lock(handle, 1);
        assert_eq!(stage.fill(handle), Ok(now));
        stage
            .store
            .put(PATH, database(next, 2, 1, u32::from(round) + 2));
        stage.wait_until_ready();
        assert_eq!(stage.fill(handle), Ok(now));
        stage.unlock(handle, 1);
    }
}

#[test]
fn a_lock_waits_briefly_for_readers_to_drain_and_is_then_granted_on_the_old_snapshot() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (long, short) = (stage.open(1, false), stage.open(2, false));
    stage.lock(long, 1);
    stage.lock(short, 2);
    stage.unlock(short, 2);
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.wait_until_ready();

    let start = Instant::now();
    stage.lock(short, 2);
    let waited = start.elapsed();
    assert!(
        waited >= DRAIN_WAIT && waited < 10 * DRAIN_WAIT,
        "{waited:?}"
    );
    assert_eq!(stage.fill(short), Ok(b'a'));
    stage.unlock(short, 2);
    let (mut locks, mut waits) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        let asked = Instant::now();
        stage.lock(short, 2);
        locks += 1;
        waits += u32::from(asked.elapsed() >= DRAIN_WAIT);
        stage.unlock(short, 2);
    }
    assert!(
        waits < locks / 4,
        "one long transaction does not make every other wait: {waits} of {locks}"
    );
    stage.lock(short, 2);
    stage.unlock(short, 2);
    stage.unlock(long, 1);
    stage.lock(short, 2);
    assert_eq!(stage.fill(short), Ok(b'b'));
}

#[test]
fn readers_that_never_drain_retire_the_inode() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    stage.lock(handle, 1);
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    eventually("retired", || stage.file.is_retired());
    eventually("the name is dropped", || {
        stage.kernel.has(&Event::Name(7, "db".into()))
    });
    assert_eq!(stage.fill(handle), Ok(b'a'));
    stage.unlock(handle, 1);
    stage.lock(handle, 1);
    assert_eq!(
        stage.fill(handle),
        Ok(b'b'),
        "a retired inode still advances when it can"
    );
}

#[test]
fn the_first_lock_of_a_handle_ends_its_pin() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    assert_eq!(
        stage.fill(handle),
        Ok(b'a'),
        "sqlite reads the header before it locks"
    );
    stage.read(handle, OPEN_READ_BYTES as usize, 1).unwrap();
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.wait_until_ready();
    stage.lock(handle, 1);
    assert_eq!(stage.fill(handle), Ok(b'b'));
}

#[test]
fn a_connection_that_reads_under_its_process_s_lock_does_not_pin() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (locking, sibling) = (stage.open(1, false), stage.open(1, false));
    stage.lock(locking, 1);
    stage.unlock(locking, 1);
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    eventually("the file advances", || stage.fill(sibling) == Ok(b'b'));
}

#[test]
fn an_advance_ends_reads_in_flight_of_pages_that_it_drops() {
    let mut stage = Stage::new(5, Vec::new());
    let gate = Arc::new(Semaphore::new(0));
    stage
        .store
        .put_gated(PATH, database(b'a', 64, 1, 1), Some(gate.clone()));
    let handle = stage.open(1, false);
    stage.lock(handle, 1);
    let mut newer = database(b'a', 64, 1, 2);
    newer[8 * BLOCK..9 * BLOCK].fill(b'b');
    let (changed, kept) = (stage.kernel.clone(), stage.kernel.clone());
    let note = |kernel: Recorder, name: &'static str| -> Reply<Vec<u8>> {
        Box::new(move |result| {
            kernel.note(Event::Answer(format!(
                "{name} {:?}",
                result.map(|bytes| bytes.len())
            )))
        })
    };
    stage.file.read(
        handle,
        8 * BLOCK as u64,
        BLOCK,
        false,
        note(changed, "changed"),
    );
    stage
        .file
        .read(handle, 20 * BLOCK as u64, BLOCK, false, note(kept, "kept"));
    stage.store.put(PATH, newer);
    stage.wait_until_ready();
    stage.unlock(handle, 1);
    eventually("ended", || {
        stage.kernel.has(&Event::Answer("changed Err(EIO)".into()))
    });
    assert!(!stage.kernel.has(&Event::Answer("kept Ok(4096)".into())));
    gate.add_permits(2);
    eventually("answered", || {
        stage.kernel.has(&Event::Answer("kept Ok(4096)".into()))
    });
}
