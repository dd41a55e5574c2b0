//! Checksums that fit: without them a fuzzer would test the checksum and nothing behind it. The layouts are those of docs/FORMAT.md
//! and of `spool/log/src/record.rs`.

use verneuil_format::HEAD_LEN_BYTES;
use xxhash_rust::xxh3::xxh3_64;

/// Length of the hash that ends a manifest.
const HASH_LEN_BYTES: usize = 32;

/// Where the head's own checksum begins.
const HEAD_SUM_AT: usize = 48;

/// Makes lengths, checksum of the head and hash of a manifest fit its bytes.
pub fn manifest(bytes: &mut [u8]) {
    let Some(body_len) = bytes.len().checked_sub(HEAD_LEN_BYTES + HASH_LEN_BYTES) else {
        return;
    };
    bytes[40..44].copy_from_slice(&(body_len as u32).to_le_bytes());
    let sum = blake3::hash(&bytes[..HEAD_SUM_AT]);
    bytes[HEAD_SUM_AT..HEAD_LEN_BYTES]
        .copy_from_slice(&sum.as_bytes()[..HEAD_LEN_BYTES - HEAD_SUM_AT]);
    let (content, hash) = bytes.split_at_mut(HEAD_LEN_BYTES + body_len);
    hash.copy_from_slice(blake3::hash(content).as_bytes());
}

/// The first bytes of a record of the change log.
pub const RECORD_MAGIC: &[u8] = b"VNL1";

/// Length of a record without entries.
const RECORD_LEN_MIN_BYTES: usize = 88;

/// Makes lengths, offsets and checksums of all records of a change log fit its bytes.
pub fn log(bytes: &mut [u8]) {
    let mut at = 0;
    while bytes.len() - at >= RECORD_LEN_MIN_BYTES && bytes[at..].starts_with(RECORD_MAGIC) {
        let end = bytes[at + RECORD_LEN_MIN_BYTES..]
            .windows(RECORD_MAGIC.len())
            .position(|window| window == RECORD_MAGIC)
            .map_or(bytes.len(), |next| at + RECORD_LEN_MIN_BYTES + next);
        let record = &mut bytes[at..end];
        let (len, sum_at) = (record.len(), record.len() - 8);
        record[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        record[20..24].copy_from_slice(&(at as u32).to_le_bytes());
        let sum = xxh3_64(&record[..sum_at]);
        record[sum_at..].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

/// Takes the time of the commit out of every record, so that the same transactions make the same log.
pub fn forget_times(bytes: &mut [u8]) {
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|at| {
            bytes[*at..].starts_with(RECORD_MAGIC) && at + RECORD_LEN_MIN_BYTES <= bytes.len()
        })
        .collect();
    starts.iter().for_each(|at| bytes[at + 48..at + 56].fill(0));
    log(bytes);
}
