//! What a live file promises to the readers of one inode, shown with a store in memory and a recording kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::*;
use crate::locks::{LockKind, LockRequest, SHARED_FIRST, SHARED_LAST};
use crate::options::{DRAIN_WAIT, LINGER, PIN_MAX};
use crate::testing::*;

const INO: u64 = 42;
const PATH: &str = "/db";

struct Stage {
    store: MemorySource,
    kernel: Recorder,
    file: Arc<LiveFile<MemorySource>>,
    next_handle: u64,
    // Last: the file's tasks end before what they use.
    _runtime: Runtime,
}

/// A database of `pages` pages; every byte that the header does not define is `fill`.
fn database(fill: u8, pages: usize, version: u8, counter: u32) -> Vec<u8> {
    let mut bytes = vec![fill; pages * BLOCK];
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[18..20].fill(version);
    bytes[24..28].copy_from_slice(&counter.to_be_bytes());
    bytes[92..96].copy_from_slice(&counter.to_be_bytes());
    bytes
}

impl Stage {
    fn new(refresh_ms: u64, first: Vec<u8>) -> Self {
        let (runtime, store, kernel) = (runtime(), MemorySource::default(), Recorder::default());
        store.put(PATH, first);
        let refresh_interval = Duration::from_millis(refresh_ms);
        let options = Options { refresh_interval, uid: 1, gid: 2, umask: Options::DEFAULT_UMASK };
        let notify = Notifications::start(Arc::new(kernel.clone())).unwrap();
        let mut shared = Shared::new(store.clone(), runtime.handle().clone(), options, notify);
        shared.process_of = |thread| Some(thread / 10);
        let place = Place { parent: 7, name: b"db".to_vec(), host: HOST.into(), path: PATH.into() };
        let file = Arc::new(LiveFile::new(INO, place, Arc::new(shared)));
        Self { store, kernel, file, next_handle: 1, _runtime: runtime }
    }

    /// Opens as a thread of process `process`.
    fn open(&mut self, process: u32, private: bool) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        let request = OpenRequest { handle, thread: process * 10 + 3, private };
        wait(|reply| self.file.open(request, reply)).unwrap();
        handle
    }

    fn request(process: u32, kind: LockKind) -> LockRequest {
        LockRequest { owner: process.into(), pid: process, start: SHARED_FIRST, end: SHARED_LAST, kind }
    }

    fn lock(&self, handle: u64, process: u32) {
        wait(|reply| self.file.set_lock(handle, Self::request(process, LockKind::Read), reply)).unwrap();
    }

    fn unlock(&self, handle: u64, process: u32) {
        wait(|reply| self.file.set_lock(handle, Self::request(process, LockKind::Unlock), reply)).unwrap();
    }

    /// Asks for the lock; the answer is noted as an event.
    fn lock_later(&self, handle: u64, process: u32) {
        let kernel = self.kernel.clone();
        let reply = Box::new(move |result| kernel.note(Event::Answer(format!("{result:?}"))));
        self.file.set_lock(handle, Self::request(process, LockKind::Read), reply);
    }

    fn read(&self, handle: u64, offset: usize, len: usize) -> Result<Vec<u8>, Errno> {
        wait(|reply| self.file.read(handle, offset as u64, len, reply))
    }

    /// One byte that the content defines.
    fn fill(&self, handle: u64) -> Result<u8, Errno> {
        self.read(handle, BLOCK - 1, 1).map(|bytes| bytes[0])
    }

    fn wait_until_ready(&self) {
        eventually("a newer snapshot is ready", || self.file.lock().ready.is_some());
    }
}

fn answered() -> Event {
    Event::Answer("Ok(())".into())
}

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
    eventually("pages are being dropped", || stage.kernel.has(&Event::Data(INO, 0..4_096)));
    stage.lock_later(first, 1);
    assert_eq!(stage.read(second, 2 * BLOCK, 1).unwrap(), b"b", "reads are served from the new snapshot");
    std::thread::sleep(2 * DRAIN_WAIT);
    assert!(!stage.kernel.has(&answered()), "no lock is granted while pages are being dropped");
    stage.kernel.hold(false);
    eventually("the lock is granted", || stage.kernel.has(&answered()));
    let tail = Event::Store(INO, 4 * BLOCK as u64, newer[4 * BLOCK..].to_vec());
    let dropped = [Event::Data(INO, 0..4_096), Event::Data(INO, 8_192..5 * 4_096)];
    assert_eq!(stage.kernel.take(), [&dropped[..], &[tail, answered()]].concat());
}

#[test]
fn a_reader_in_a_transaction_keeps_its_snapshot_and_the_next_transaction_is_new() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    for round in 0..20u8 {
        let (now, next) = (b'a' + round, b'a' + round + 1);
        stage.lock(handle, 1);
        assert_eq!(stage.fill(handle), Ok(now));
        stage.store.put(PATH, database(next, 2, 1, u32::from(round) + 2));
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
    assert!(waited >= DRAIN_WAIT && waited < 10 * DRAIN_WAIT, "{waited:?}");
    assert_eq!(stage.fill(short), Ok(b'a'));
    stage.unlock(short, 2);
    let start = Instant::now();
    stage.lock(short, 2);
    assert!(start.elapsed() < DRAIN_WAIT, "one long transaction does not make every other wait");
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
    eventually("the name is dropped", || stage.kernel.has(&Event::Name(7, "db".into())));
    assert_eq!(stage.fill(handle), Ok(b'a'));
    stage.unlock(handle, 1);
    stage.lock(handle, 1);
    assert_eq!(stage.fill(handle), Ok(b'b'), "a retired inode still advances when it can");
}

#[test]
fn a_handle_that_never_locks_pins_its_snapshot_and_then_gets_an_error() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let lockless = stage.open(1, false);
    let reader = stage.open(2, false);
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.wait_until_ready();
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'a'), "pinned by the other");
    stage.unlock(reader, 2);
    assert_eq!(stage.fill(lockless), Ok(b'a'));

    stage.file.lock().handles.get_mut(&lockless).unwrap().opened -= PIN_MAX;
    eventually("the pin expired", || stage.fill(lockless) == Err(Errno::EIO));
    stage.lock(reader, 2);
    assert_eq!(stage.fill(reader), Ok(b'b'));
}

#[test]
fn the_first_lock_of_a_handle_ends_its_pin() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    assert_eq!(stage.fill(handle), Ok(b'a'), "sqlite reads the header before it locks");
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
fn a_private_handle_keeps_its_snapshot_and_holds_nobody_up() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let (copy, reader) = (stage.open(1, true), stage.open(2, false));
    stage.lock(reader, 2);
    stage.unlock(reader, 2);
    for round in 1..5u8 {
        stage.store.put(PATH, database(b'a' + round, 2, 1, 1 + u32::from(round)));
        eventually("the file advances", || stage.fill(reader) == Ok(b'a' + round));
        assert_eq!(stage.fill(copy), Ok(b'a'));
    }
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
        assert_eq!(stage.read(handle, 0, 100).unwrap(), header, "one header throughout a transaction");
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
    eventually("stored", || stage.kernel.has(&Event::Store(INO, 0, served.clone())));
}

#[test]
fn an_advance_ends_reads_in_flight_of_pages_that_it_drops() {
    let mut stage = Stage::new(5, Vec::new());
    let gate = Arc::new(Semaphore::new(0));
    stage.store.put_gated(PATH, database(b'a', 64, 1, 1), Some(gate.clone()));
    let handle = stage.open(1, false);
    stage.lock(handle, 1);
    let mut newer = database(b'a', 64, 1, 2);
    newer[8 * BLOCK..9 * BLOCK].fill(b'b');
    let (changed, kept) = (stage.kernel.clone(), stage.kernel.clone());
    let note = |kernel: Recorder, name: &'static str| -> Reply<Vec<u8>> {
        Box::new(move |result| kernel.note(Event::Answer(format!("{name} {:?}", result.map(|bytes| bytes.len())))))
    };
    stage.file.read(handle, 8 * BLOCK as u64, BLOCK, note(changed, "changed"));
    stage.file.read(handle, 20 * BLOCK as u64, BLOCK, note(kept, "kept"));
    stage.store.put(PATH, newer);
    stage.wait_until_ready();
    stage.unlock(handle, 1);
    eventually("ended", || stage.kernel.has(&Event::Answer("changed Err(EIO)".into())));
    assert!(!stage.kernel.has(&Event::Answer("kept Ok(4096)".into())));
    gate.add_permits(2);
    eventually("answered", || stage.kernel.has(&Event::Answer("kept Ok(4096)".into())));
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
    assert!(stage.store.requests() - asked < 5, "what is quiet is refreshed less often");
    stage.store.put(PATH, database(b'b', 2, 1, 2));
    stage.lock(handle, 1);
    assert_eq!(stage.fill(handle), Ok(b'b'));
}

#[test]
fn what_is_closed_costs_no_requests() {
    let mut stage = Stage::new(20, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    stage.file.release(handle);
    eventually("attributes are not kept any more", || stage.kernel.has(&Event::Attributes(INO)));
    let asked = stage.store.requests();
    std::thread::sleep(LINGER / 4);
    assert_eq!(stage.store.requests(), asked);
    stage.store.put(PATH, database(b'b', 3, 1, 2));
    let (head, ttl) = wait(|reply| stage.file.head(reply)).unwrap();
    assert_eq!((head.len, ttl), (3 * BLOCK as u64, SHORT_TTL));
    let handle = stage.open(1, false);
    assert_eq!(stage.fill(handle), Ok(b'b'), "reopened on the newest snapshot");
    assert!(stage.kernel.has(&Event::Data(INO, 0..3 * BLOCK as u64)), "and the pages kept since were dropped");
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
    let request = OpenRequest { handle: 1, thread: 1, private: false };
    assert_eq!(wait(|reply| fresh.file.open(request, reply)), Err(Errno::EIO));
    fresh.store.set_away(false);
    fresh.store.remove(PATH);
    assert_eq!(wait(|reply| fresh.file.open(request, reply)), Err(Errno::ENOENT));
}

#[test]
fn a_damaged_object_is_an_error_and_no_data() {
    let mut stage = Stage::new(5, Vec::new());
    let gate = Arc::new(Semaphore::new(0));
    stage.store.put_gated(PATH, database(b'a', 64, 1, 1), Some(gate.clone()));
    let handle = stage.open(1, false);
    gate.close();
    assert_eq!(stage.read(handle, 8 * BLOCK, BLOCK), Err(Errno::EIO));
}

#[test]
fn writers_are_refused_and_unknown_handles_too() {
    let mut stage = Stage::new(5, database(b'a', 2, 1, 1));
    let handle = stage.open(1, false);
    let write = Stage::request(1, LockKind::Write);
    assert_eq!(wait(|reply| stage.file.set_lock(handle, write, reply)), Err(Errno::EACCES));
    assert_eq!(stage.file.get_lock(handle, &write), Ok(None));
    stage.lock(handle, 2);
    assert_eq!(stage.file.get_lock(handle, &write), Ok(Some(Stage::request(2, LockKind::Read))));
    assert_eq!(wait(|reply| stage.file.set_lock(99, write, reply)), Err(Errno::EBADF));
    assert_eq!(stage.file.get_lock(99, &write), Err(Errno::EBADF));
    assert_eq!(stage.read(99, 0, 1), Err(Errno::EBADF));
}
