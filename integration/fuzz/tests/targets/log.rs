//! Change logs: any bytes of the file that a sealed generation left give a replay within the database's file, or an error.

use std::fs;

use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seal, seeds};
use verneuil_spool::{CHUNK_LEN_BYTES, LogHead, Replay};

/// An entry without payload takes 12 bytes; its history some hundred.
const REPLAYED_FACTOR: usize = 64;
const REPLAYED_BYTES: usize = 64 * 1024;
/// Sets of chunks come in pieces of 512 bytes per 256 MiB of a database: a record may say that 16 TiB were cut off.
const SHRUNK_BYTES: usize = 64 << 20;
/// One chunk, growing.
const CHUNK_BYTES: usize = 3 * CHUNK_LEN_BYTES as usize;

fn check(path: &std::path::Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a log");
    let len_bytes = bytes.len() as u32;
    let head = LogHead {
        generation: 1,
        len_bytes,
    };
    let read = bounded(
        "replaying a log",
        bytes.len(),
        REPLAYED_FACTOR,
        REPLAYED_BYTES + SHRUNK_BYTES,
        || Replay::read(path, head),
    );
    let replay = match read {
        Ok(replay) => replay,
        Err(error) => return crate::says_something(&error),
    };
    // A log that was not sealed whole is not believed in part.
    if !bytes.is_empty() {
        assert!(
            Replay::read(
                path,
                LogHead {
                    generation: 1,
                    len_bytes: len_bytes - 1
                }
            )
            .is_err()
        );
        assert!(
            Replay::read(
                path,
                LogHead {
                    generation: 1,
                    len_bytes: len_bytes + 1
                }
            )
            .is_err()
        );
        assert!(
            Replay::read(
                path,
                LogHead {
                    generation: 2,
                    len_bytes
                }
            )
            .is_err()
        );
    }
    let Some(file_len) = replay.file_len() else {
        return assert!(bytes.is_empty() && replay.records() == 0);
    };
    for chunk in replay.chunks() {
        let start = u64::from(chunk) * CHUNK_LEN_BYTES;
        assert!(start < file_len, "chunk {chunk} is beyond the end");
        let expected = (file_len - start).min(CHUNK_LEN_BYTES);
        let made = bounded("a chunk of a log", 0, 0, CHUNK_BYTES, || {
            replay.bytes(chunk)
        })
        .expect("a chunk");
        assert_eq!(made.len() as u64, expected);
        for range in replay.written(chunk) {
            assert!(range.start < range.end && u64::from(range.end) <= CHUNK_LEN_BYTES);
        }
        assert!(replay.touched().contains(chunk));
    }
}

#[test]
fn any_bytes_of_a_log_are_replayed_within_the_file_or_refused() {
    let objects = seeds::bytes_of(&seeds::logs());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log-1");
    fuzz!("log", |input: &[u8]| {
        let mut bytes = script::object(&objects, input, input.starts_with(seal::RECORD_MAGIC));
        check(&path, &bytes);
        seal::log(&mut bytes);
        check(&path, &bytes);
    });
}
