//! The change log, from a writer's calls to a replay: what sqlite did to the file is what comes back.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use common::{Bench, CHUNK, Op, replay_over};
use proptest::prelude::*;
use verneuil_spool::{Need, Spool, Writer};

fn op() -> impl Strategy<Value = Op> {
    let write = (0u64..6 * 128, 1u64..40, any::<u8>()).prop_map(|(page, pages, byte)| Op::Write {
        offset: page * 512,
        len: pages * 512,
        byte,
    });
    let odd = (0..6 * CHUNK, 1u64..3_000, any::<u8>()).prop_map(|(offset, len, byte)| Op::Write {
        offset,
        len,
        byte,
    });
    let truncate = (0..6 * CHUNK / 512).prop_map(|pages| Op::Truncate { len: pages * 512 });
    prop_oneof![5 => write, 1 => odd, 2 => truncate]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn replayed_generations_equal_the_file(
        transactions in proptest::collection::vec((proptest::collection::vec(op(), 0..6), any::<bool>()), 1..25),
        len in 0..4 * CHUNK,
    ) {
        let mut bench = Bench::new(len);
        bench.transaction(&[]);
        bench.settle();
        let mut base = bench.content();
        let lock = bench.lock();
        for (ops, seal) in &transactions {
            bench.transaction(ops);
            if *seal {
                let sealed = lock.seal().unwrap();
                let replay = lock.replay(sealed).unwrap();
                replay_over(&mut base, &replay);
                prop_assert!(base == bench.content());
                prop_assert_eq!(replay.change_counter(), Some(bench.commits).filter(|_| replay.records() > 0));
                lock.delete(sealed).unwrap();
            }
        }
        replay_over(&mut base, &lock.replay(lock.seal().unwrap()).unwrap());
        prop_assert!(base == bench.content());
        prop_assert!(!lock.has_todo().unwrap(), "nothing had to be read from the file");
        prop_assert!(lock.dirty().unwrap().is_empty());
        prop_assert_eq!(bench.database.trouble(), None);
    }
}

#[test]
fn a_chunk_that_is_cut_off_and_grows_again_in_one_generation_replays() {
    let mut bench = Bench::new(4 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    bench.transaction(&[Op::Write {
        offset: 2 * CHUNK,
        len: 2 * CHUNK,
        byte: 7,
    }]);
    bench.transaction(&[Op::Truncate {
        len: 2 * CHUNK + 512,
    }]);
    // Grows by a write beyond the end: what lies between is zero again, not 7.
    bench.transaction(&[Op::Write {
        offset: 3 * CHUNK + 1_024,
        len: 512,
        byte: 9,
    }]);
    let lock = bench.lock();
    let replay = lock.replay(lock.seal().unwrap()).unwrap();
    replay_over(&mut base, &replay);
    assert!(base == bench.content());
    assert_eq!(base[2 * CHUNK as usize + 511], 7);
    assert_eq!(base[2 * CHUNK as usize + 512], 0);
    assert_eq!(replay.records(), 3);
}

#[test]
fn a_second_small_commit_of_a_generation_logs_only_what_it_wrote() {
    let mut bench = Bench::new(4 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let lock = bench.lock();
    bench.transaction(&[Op::Write {
        offset: CHUNK,
        len: 512,
        byte: 1,
    }]);
    let first = lock.head().len_bytes;
    assert!(u64::from(first) > 2 * CHUNK, "two full images");
    bench.transaction(&[Op::Write {
        offset: CHUNK,
        len: 512,
        byte: 2,
    }]);
    let second = lock.head().len_bytes - first;
    assert!(
        second < 2 * 512 + 200,
        "two pages, not two chunks: {second}"
    );
}

#[test]
fn a_torn_record_of_a_dead_writer_is_overwritten() {
    let mut bench = Bench::new(2 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    bench.transaction(&[Op::Write {
        offset: CHUNK,
        len: 512,
        byte: 1,
    }]);
    let lock = bench.lock();
    let log = File::options()
        .write(true)
        .open(&bench.log_files()[0])
        .unwrap();
    log.write_all_at(&[0xAA; 5_000], u64::from(lock.head().len_bytes))
        .unwrap();
    bench.transaction(&[Op::Write {
        offset: CHUNK + 512,
        len: 512,
        byte: 2,
    }]);
    let replay = lock.replay(lock.seal().unwrap()).unwrap();
    assert_eq!(replay.records(), 2);
    replay_over(&mut base, &replay);
    assert!(base == bench.content());
}

#[test]
fn a_dead_writers_dirty_chunks_become_to_do_at_the_next_transaction() {
    let mut bench = Bench::new(8 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let lock = bench.lock();
    bench.apply(&Op::Write {
        offset: 5 * CHUNK,
        len: 512,
        byte: 1,
    });
    bench.writer.abandon();
    assert_eq!(lock.epoch() % 2, 1);
    assert_eq!(lock.dirty().unwrap().iter().collect::<Vec<_>>(), [5]);
    assert!(!lock.has_todo().unwrap());

    bench.transaction(&[]);
    assert_eq!(lock.epoch() % 2, 0);
    lock.claim().unwrap();
    let Need::Chunks(need) = lock.inflight().unwrap() else {
        panic!("everything")
    };
    assert_eq!(need.iter().collect::<Vec<_>>(), [5]);
    // Its bits are gone with it, or the copier would wait for them for ever.
    assert!(lock.dirty().unwrap().is_empty());
}

#[test]
fn a_hot_journal_at_the_end_logs_nothing() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let lock = bench.lock();
    bench.bump();
    bench.writer.end(&bench.file, || Ok(true));
    assert!(!bench.writer.is_active());
    assert_eq!(lock.head().len_bytes, 0);
    assert_eq!(lock.epoch() % 2, 1);
    assert!(lock.dirty().unwrap().contains(0));
}

#[test]
fn an_unlock_without_a_write_logs_nothing() {
    let mut bench = Bench::new(CHUNK);
    bench.settle();
    let epoch = bench.lock().epoch();
    bench
        .writer
        .end(&bench.file, || panic!("nobody asks for the journal"));
    assert_eq!(bench.lock().epoch(), epoch);
}

#[test]
fn a_foreign_commit_makes_everything_to_do() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    bench.file.write_all_at(&77u32.to_be_bytes(), 24).unwrap();
    bench.transaction(&[]);
    let lock = bench.lock();
    lock.claim().unwrap();
    assert_eq!(lock.inflight().unwrap(), Need::All);
}

#[test]
fn a_huge_transaction_overflows_into_to_do_without_payload() {
    let mut bench = Bench::new(0);
    bench.transaction(&[]);
    bench.settle();
    let lock = bench.lock();
    // 80 MiB in one transaction, most of it a hole.
    bench.transaction(&[Op::Write {
        offset: 80 << 20,
        len: 512,
        byte: 3,
    }]);
    assert_eq!(lock.head().len_bytes, 0);
    assert!(lock.dirty().unwrap().is_empty());
    lock.claim().unwrap();
    let Need::Chunks(need) = lock.inflight().unwrap() else {
        panic!("everything")
    };
    assert_eq!(need.len(), (80 << 20) / CHUNK + 1);
    assert_eq!(bench.database.trouble(), None);
}

#[test]
fn a_generation_that_passes_its_bound_overflows() {
    let mut bench = Bench::new(4 << 20);
    bench.transaction(&[]);
    bench.settle();
    let lock = bench.lock();
    let mut longest = 0;
    for byte in 0..20 {
        bench.transaction(&[Op::Write {
            offset: 0,
            len: 2 << 20,
            byte,
        }]);
        longest = longest.max(lock.head().len_bytes);
    }
    assert!(longest <= 8 << 20, "{longest}");
    assert!(lock.has_todo().unwrap());
}

#[test]
fn a_commit_while_the_copier_seals_goes_to_the_next_generation() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    let lock = bench.lock();
    // The seal falls between the writer's last write and its end, so its cached log is the sealed one.
    bench.bump();
    let sealed = lock.seal().unwrap();
    bench.end();
    assert_eq!(lock.replay(sealed).unwrap().records(), 0);
    let replay = lock.replay(lock.seal().unwrap()).unwrap();
    assert_eq!(replay.records(), 1);
    replay_over(&mut base, &replay);
    assert!(base == bench.content());
}

#[test]
fn a_record_that_comes_too_late_is_written_once_more_and_replays() {
    const LATE_MIN: usize = 5;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut bench = Bench::new(4 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    let lock = bench.lock();
    let (stop, late) = (AtomicBool::new(false), AtomicUsize::new(0));
    let sealed = std::thread::scope(|scope| {
        // At most one seal for each transaction, at another moment each time: some fall between a record and its head.
        let sealer = scope.spawn(|| {
            let mut sealed = Vec::new();
            while !stop.load(SeqCst) {
                let epoch = lock.epoch();
                if epoch.is_multiple_of(2) {
                    continue;
                }
                for _ in 0..(epoch * 37) % 5_000 {
                    std::hint::spin_loop();
                }
                sealed.push(lock.seal().unwrap());
                // It may be another transaction by now.
                let sealed_in = lock.epoch();
                while sealed_in % 2 == 1 && lock.epoch() == sealed_in {}
                let last = sealed[sealed.len() - 1];
                let on_disk = log_len(&bench.spool, last.generation);
                if on_disk > u64::from(last.len_bytes.unwrap()) {
                    late.fetch_add(1, SeqCst);
                }
            }
            sealed
        });
        let mut round = 0;
        let mut writer = Writer::new(bench.database.clone());
        while late.load(SeqCst) < LATE_MIN && std::time::Instant::now() < until {
            round += 1;
            let (offset, byte) = ((round * 4_099) % (3 * CHUNK), round as u8);
            let page = page_with_counter(round as u32 + 1);
            for (offset, bytes) in [(offset.max(512), &vec![byte; 700]), (0, &page)] {
                if !writer.is_active() {
                    writer.begin(&bench.file);
                }
                writer.will_write(offset, bytes.len() as u64);
                bench.file.write_all_at(bytes, offset).unwrap();
            }
            writer.end(&bench.file, || Ok(false));
        }
        stop.store(true, SeqCst);
        sealer.join().unwrap()
    });
    assert!(late.load(SeqCst) >= LATE_MIN, "no record came too late");
    assert!(!lock.has_todo().unwrap(), "all of them are in a log");
    for sealed in sealed.into_iter().chain([lock.seal().unwrap()]) {
        replay_over(&mut base, &lock.replay(sealed).unwrap());
        lock.delete(sealed).unwrap();
    }
    assert!(base == bench.content());
}

fn log_len(spool: &Spool, generation: u32) -> u64 {
    let folder = &spool.contents().unwrap().folders[0];
    std::fs::metadata(folder.join(format!("log-{generation}"))).map_or(0, |meta| meta.len())
}

fn page_with_counter(counter: u32) -> Vec<u8> {
    let mut page = vec![0; 512];
    page[16..18].copy_from_slice(&512u16.to_be_bytes());
    page[18..20].copy_from_slice(&[1, 1]);
    page[24..28].copy_from_slice(&counter.to_be_bytes());
    page
}

#[test]
fn a_damaged_or_missing_log_makes_everything_needed() {
    for damage in [true, false] {
        let mut bench = Bench::new(CHUNK);
        bench.transaction(&[]);
        bench.settle();
        bench.transaction(&[]);
        let path = bench.log_files()[0].clone();
        if damage {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(b"noise", 200)
                .unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        let lock = bench.lock();
        let sealed = lock.seal().unwrap();
        assert!(lock.replay(sealed).is_err());
        lock.hand_to_inflight(sealed).unwrap();
        assert_eq!(lock.inflight().unwrap(), Need::All);
    }
}

#[test]
fn the_sealed_generation_of_a_dead_copier_is_found_with_its_length() {
    let mut bench = Bench::new(CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    bench.transaction(&[]);
    drop({
        let lock = bench.lock();
        lock.seal().unwrap();
        lock
    });
    let lock = bench.lock();
    let leftover = lock.leftover().unwrap().expect("a leftover");
    replay_over(&mut base, &lock.replay(leftover).unwrap());
    assert!(base == bench.content());
    lock.delete(leftover).unwrap();
    assert_eq!(lock.leftover().unwrap(), None);
}

#[test]
fn commits_in_a_row_wake_the_copier_once() {
    let mut bench = Bench::new(CHUNK);
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    bench.database.set_waker(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    bench.transaction(&[]);
    bench.transaction(&[]);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    bench.database.arm();
    bench.transaction(&[]);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn one_copier_at_a_time() {
    let bench = Bench::new(0);
    let lock = bench.lock();
    assert!(bench.database.lock_copier().unwrap().is_none());
    drop(lock);
    assert!(bench.database.lock_copier().unwrap().is_some());
}

#[test]
fn two_connections_take_turns() {
    let mut bench = Bench::new(2 * CHUNK);
    bench.transaction(&[]);
    bench.settle();
    let mut base = bench.content();
    let mut other = Writer::new(bench.database.clone());
    for _ in 0..3 {
        std::mem::swap(&mut bench.writer, &mut other);
        bench.transaction(&[Op::Write {
            offset: CHUNK,
            len: 700,
            byte: 5,
        }]);
    }
    let lock = bench.lock();
    replay_over(&mut base, &lock.replay(lock.seal().unwrap()).unwrap());
    assert!(base == bench.content());
}
