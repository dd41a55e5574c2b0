//! Control pages: whatever is in the file, the next opener has a page that works; what is written after that is not lost.

use std::cell::RefCell;
use std::fs;

use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seeds::Bench};
use verneuil_spool::{Database, Writer};

/// Tables of mapped segments, sets of chunks, buffers of records.
const OPENED_BYTES: usize = 16 << 20;

#[test]
fn any_bytes_of_a_control_page_are_used_or_made_anew_and_the_next_commit_is_not_lost() {
    let (mut bench, database) = Bench::new(3 * 65_536);
    let path = database.path().to_owned();
    let mut writer = Writer::new(database);
    bench.transaction(&mut writer, &[(70_000, 100, 1)], None);
    // Nobody has the page mapped from here on: an opener takes it from the file.
    drop(writer);
    let folder = bench.folder();
    let page = folder.join("control");
    // It names this spool and this boot: a page of others would be made anew, and nothing else.
    let objects = vec![fs::read(&page).unwrap()];
    let spool = bench.spool.clone();
    let bench = std::panic::AssertUnwindSafe(RefCell::new(bench));
    fuzz!("control_page", |input: &[u8]| {
        let mut bench = bench.borrow_mut();
        let bytes = script::object(&objects, input, input.first() == Some(&0xff));
        // A file of its own, as whoever mapped the last one goes on with that.
        let aside = folder.join("aside");
        fs::write(&aside, &bytes).expect("a page");
        fs::rename(&aside, &page).expect("a page");

        let database = bounded(
            "opening a control page",
            bytes.len(),
            1,
            OPENED_BYTES,
            || Database::open_or_repair(&spool, &folder),
        )
        .expect("a page that works");
        assert_eq!(database.path(), path);
        drop(database.progress().expect("progress").expect("a folder"));

        // What is committed now is to be read or in the log, whatever the page said.
        let mut writer = Writer::new(database.clone());
        bounded("a commit", bytes.len(), 1, OPENED_BYTES, || {
            bench.transaction(&mut writer, &[(140_000, 50, 2)], None);
        });
        let lock = database
            .lock_copier()
            .expect("a lock")
            .expect("nobody else copies");
        bounded("a seal", bytes.len(), 1, OPENED_BYTES, || {
            let sealed = lock.seal().expect("a seal");
            let need = lock.claim().expect("a claim");
            let replay = lock.replay(sealed);
            for chunk in [0, 2] {
                let is_logged = replay.as_ref().is_ok_and(|replay| replay.contains(chunk));
                // A log that can't be replayed makes everything to do.
                assert!(
                    is_logged || replay.is_err() || need.contains(chunk),
                    "chunk {chunk} of the last commit is lost: {need:?}"
                );
            }
            if replay.is_err() {
                lock.need_everything();
            }
            drop(replay);
            lock.delete(sealed).expect("the log goes");
            lock.clear_inflight().expect("nothing in flight");
        });
        drop(lock);
        drop(writer);
    });
}
