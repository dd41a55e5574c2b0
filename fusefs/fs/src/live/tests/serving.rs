//! What a live file serves to whom, and what that costs.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Semaphore;

use super::*;
use crate::options::{LINGER, OPEN_READ_BYTES, PIN_MAX};

#[test]
fn a_handle_that_never_locks_pins_its_snapshot_and_then_gets_an_error() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let lockless = stage.open(1, false);
    let reader = stage.open(2, false);
    stage.read(lockless, OPEN_READ_BYTES as usize, 1).unwrap();
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.wait_until_ready();
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'a'), "pinned by the other");
    stage.unlock(reader, 2);
    assert_eq!(stage.fill(lockless), Ok(b'a'));

    stage.file.lock().handles.get_mut(&lockless).unwrap().opened -= PIN_MAX;
    eventually("the pin expired", || {
        stage.fill(lockless) == Err(Errno::EIO)
    });
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'b'));
}

#[test]
fn a_connection_that_has_only_read_the_header_holds_nobody_up() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (idle, reader) = (stage.open(1, false), stage.open(2, false));
    stage.read(idle, 0, 100).unwrap();
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    eventually("the file advances", || {
        stage.lock(reader, 2);
        let seen = stage.fill(reader);
        stage.unlock(reader, 2);
        seen == Ok(b'b')
    });
    stage.lock(idle, 1);
    assert_eq!(stage.fill(idle), Ok(b'b'));
}

#[test]
fn a_private_handle_keeps_its_snapshot_and_holds_nobody_up() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (copy, reader) = (stage.open(1, true), stage.open(2, false));
    stage.lock(reader, 2);
    stage.unlock(reader, 2);
    for round in 1..5u8 {
        stage
            .store
            .put(PATH, database(b'a' + round, 2, 1, 1 + u32::from(round)));
        eventually("the file advances", || {
            stage.fill(reader) == Ok(b'a' + round)
        });
        assert_eq!(stage.fill_direct(copy), Ok(b'a'));
    }
}

#[test]
fn a_private_handle_that_fills_the_page_cache_pins_the_snapshot_that_all_read() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (sender, reader) = (stage.open(1, true), stage.open(2, false));
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    eventually("the file advances", || {
        stage.lock(reader, 2);
        let seen = stage.fill(reader);
        stage.unlock(reader, 2);
        seen == Ok(b'b')
    });
    assert_eq!(
        stage.fill(sender),
        Ok(b'b'),
        "what it was opened with is old, and nobody has seen it"
    );
    stage.store.put(PATH, database(b'c', 2, 1, 3));
    stage.wait_until_ready();
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'b'), "pinned by the other");
    stage.unlock(reader, 2);
    assert_eq!(
        (stage.fill(sender), stage.fill_direct(sender)),
        (Ok(b'b'), Ok(b'b'))
    );

    stage.file.lock().handles.get_mut(&sender).unwrap().opened -= PIN_MAX;
    eventually("the pin expired", || stage.fill(sender) == Err(Errno::EIO));
    assert_eq!(stage.fill_direct(sender), Ok(b'b'));
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'c'));
}

#[test]
fn a_private_handle_that_has_read_an_older_snapshot_fills_no_page() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (copy, reader) = (stage.open(1, true), stage.open(2, false));
    assert_eq!(stage.fill_direct(copy), Ok(b'a'));
    stage.lock(reader, 2);
    stage.unlock(reader, 2);
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    eventually("the file advances", || stage.fill(reader) == Ok(b'b'));
    assert_eq!(stage.fill(copy), Err(Errno::EIO));
    assert_eq!(stage.fill_direct(copy), Ok(b'a'));
}

#[test]
fn wal_headers_and_repeated_change_counters_are_served_as_a_changed_number() {
    let mut stage = Stage::new(5, database(b'a', 2, 2, 9));
    let handle = stage.open(1, false);
    let mut seen = Vec::new();
    for (fill, version, counter) in [(b'b', 2, 9), (b'c', 1, 9), (b'd', 1, 3), (b'e', 1, 50)] {
        stage.lock(handle, 1);
        let header = stage.read(handle, 0, 100).unwrap();
        assert_eq!(header[18..20], [1, 1]);
        assert_eq!(header[24..28], header[92..96]);
        seen.push(u32::from_be_bytes(header[24..28].try_into().unwrap()));
        stage.store.put(PATH, database(fill, 2, version, counter));
        stage.wait_until_ready();
        assert_eq!(
            stage.read(handle, 0, 100).unwrap(),
            header,
            "one header throughout a transaction"
        );
        stage.unlock(handle, 1);
    }
    assert_eq!(seen, [9, 10, 11, 12]);
    stage.lock(handle, 1);
    assert_eq!(stage.read(handle, 24, 4).unwrap(), 50u32.to_be_bytes());
}

#[test]
fn the_stored_tail_of_a_one_page_file_carries_the_rewritten_header() {
    let mut stage = Stage::new(5, Vec::new());
    let handle = stage.open(1, false);
    stage.lock(handle, 1);
    stage.store.put(PATH, database(b'b', 1, 2, 1));
    stage.wait_until_ready();
    stage.kernel.take();
    stage.unlock(handle, 1);
    let mut served = database(b'b', 1, 1, 1);
    served[18..20].fill(1);
    eventually("stored", || {
        stage.kernel.has(&Event::Store(INO, 0, served.clone()))
    });
}

#[test]
fn the_first_transaction_after_a_quiet_time_sees_the_newest_snapshot() {
    let mut stage = Stage::new(20, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    stage.lock(handle, 1);
    stage.unlock(handle, 1);
    std::thread::sleep(Duration::from_millis(700));
    let asked = stage.store.requests();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        stage.store.requests() - asked < 5,
        "what is quiet is refreshed less often"
    );
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.lock(handle, 1);
    assert_eq!(stage.fill(handle), Ok(b'b'));
}

#[test]
fn what_is_closed_costs_no_requests() {
    let mut stage = Stage::new(20, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    stage.file.release(handle);
    eventually("attributes are not kept any more", || {
        stage.kernel.has(&Event::Attributes(INO))
    });
    let asked = stage.store.requests();
    std::thread::sleep(LINGER / 4);
    assert_eq!(stage.store.requests(), asked);
    stage.store.put(PATH, database(b'b', 3, 1, 2));
    let (head, ttl) = wait(|reply| stage.file.head(reply)).unwrap();
    assert_eq!((head.len, ttl), (3 * BLOCK as u64, SHORT_TTL));
    let handle = stage.open(1, false);
    assert_eq!(
        stage.fill(handle),
        Ok(b'b'),
        "reopened on the newest snapshot"
    );
    assert!(
        stage.kernel.has(&Event::Data(INO, 0..3 * BLOCK as u64)),
        "and the pages kept since were dropped"
    );
}

#[test]
fn while_the_store_is_away_readers_stay_and_unknown_files_fail() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    stage.store.set_away(true);
    stage.lock(handle, 1);
    assert_eq!(stage.fill(handle), Ok(b'a'));
    stage.unlock(handle, 1);
    let second = stage.open(2, false);
    assert_eq!(stage.fill(second), Ok(b'a'));

    let fresh = Stage::new(5, database(b'a', 2, 1, 1));
    fresh.store.set_away(true);
    let request = OpenRequest {
        handle: 1,
        thread: 1,
        private: false,
    };
    assert_eq!(
        wait(|reply| fresh.file.open(request, reply)),
        Err(Errno::EIO)
    );
    fresh.store.set_away(false);
    fresh.store.remove(PATH);
    assert_eq!(
        wait(|reply| fresh.file.open(request, reply)),
        Err(Errno::ENOENT)
    );
}

#[test]
fn a_damaged_object_is_an_error_and_no_data() {
    let mut stage = Stage::new(5, Vec::new());
    let gate = Arc::new(Semaphore::new(0));
    stage
        .store
        .put_gated(PATH, database(b'a', 64, 1, 1), Some(gate.clone()));
    let handle = stage.open(1, false);
    gate.close();
    assert_eq!(stage.read(handle, 8 * BLOCK, BLOCK), Err(Errno::EREMOTEIO));
}

#[test]
fn writers_are_refused_and_unknown_handles_too() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    let write = Stage::request(1, LockKind::Write);
    assert_eq!(
        wait(|reply| stage.file.set_lock(handle, write, reply)),
        Err(Errno::EACCES)
    );
    assert_eq!(stage.file.get_lock(handle, &write), Ok(None));
    stage.lock(handle, 2);
    assert_eq!(
        stage.file.get_lock(handle, &write),
        Ok(Some(Stage::request(2, LockKind::Read)))
    );
    assert_eq!(
        wait(|reply| stage.file.set_lock(99, write, reply)),
        Err(Errno::EBADF)
    );
    assert_eq!(stage.file.get_lock(99, &write), Err(Errno::EBADF));
    assert_eq!(stage.read(99, 0, 1), Err(Errno::EBADF));
}
