//! Bytes of the change log: one record per transaction, written by `writer`, read by `replay`. Little endian throughout.
//!
//! ```text
//! fixed part   80 bytes, below
//! entries      per chunk: chunk u32, flags u16 (1: full image), spans u16, image length u32, then per span: start u32, length u32
//! payload      in the order of the entries: the full image, or the bytes of the spans
//! checksum     XXH3-64 of everything before
//! ```
//! The spans of a full image say what the transaction wrote; its payload is the whole chunk. A record names the generation and the offset that
//! it was written for, so that bytes which merely look like a record (a page of a database that stores logs) aren't one. `kind` leaves room
//! for a second producer (WAL frames).

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::chunks::{CHUNK_LEN_BYTES, chunk_count, chunk_len};
use crate::layout::CHUNKS_MAX;
use crate::spans::{SPANS_PER_CHUNK_MAX, Spans};
use crate::transaction::COPIED_CHUNKS_MAX;

const MAGIC: u32 = u32::from_le_bytes(*b"VNL1");
const KIND_ROLLBACK_JOURNAL: u16 = 1;
const FLAG_FULL_IMAGE: u16 = 1;
const FIXED_LEN_BYTES: usize = 80;
pub(crate) const CHECKSUM_LEN_BYTES: usize = 8;
const ENTRY_LEN_BYTES: usize = 12;
const SPAN_LEN_BYTES: usize = 8;
/// The longest record that a transaction makes, with full images of as many chunks as are copied at all. What claims to be longer is none:
/// a reader holds a whole record in memory.
const RECORD_LEN_MAX_BYTES: usize = FIXED_LEN_BYTES
    + COPIED_CHUNKS_MAX as usize
        * (ENTRY_LEN_BYTES + SPANS_PER_CHUNK_MAX * SPAN_LEN_BYTES + CHUNK_LEN_BYTES as usize)
    + CHECKSUM_LEN_BYTES;

/// What a record says about its transaction as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub generation: u32,
    /// Where in the log the record begins.
    pub log_offset: u32,
    pub cc_before: u32,
    pub cc_after: u32,
    pub file_len_before: u64,
    pub file_len: u64,
    /// Nanoseconds since the epoch.
    pub commit_time_ns: i64,
    pub page_size: u32,
}

/// A chunk of a record that is being built.
pub(crate) struct NewEntry {
    pub chunk: u32,
    pub full_image: bool,
    pub spans: Vec<Range<u32>>,
    pub image_len: u32,
}

impl NewEntry {
    pub fn payload_len(&self) -> usize {
        if self.full_image {
            self.image_len as usize
        } else {
            self.spans.iter().map(|span| span.len()).sum()
        }
    }
}

/// Length of the record that `entries` make.
pub(crate) fn encoded_len(entries: &[NewEntry]) -> usize {
    let per_entry =
        |e: &NewEntry| ENTRY_LEN_BYTES + e.spans.len() * SPAN_LEN_BYTES + e.payload_len();
    FIXED_LEN_BYTES + entries.iter().map(per_entry).sum::<usize>() + CHECKSUM_LEN_BYTES
}

/// Begins a record in `out` (cleared first). The payload of each entry must be appended next, then [`finish`].
pub(crate) fn start(out: &mut Vec<u8>, entries: &[NewEntry]) {
    out.clear();
    out.reserve(encoded_len(entries));
    out.resize(FIXED_LEN_BYTES, 0);
    for entry in entries {
        out.extend_from_slice(&entry.chunk.to_le_bytes());
        out.extend_from_slice(&(u16::from(entry.full_image) * FLAG_FULL_IMAGE).to_le_bytes());
        out.extend_from_slice(&(entry.spans.len() as u16).to_le_bytes());
        out.extend_from_slice(&entry.image_len.to_le_bytes());
        for span in &entry.spans {
            out.extend_from_slice(&span.start.to_le_bytes());
            out.extend_from_slice(&(span.end - span.start).to_le_bytes());
        }
    }
}

/// Completes a record: its fixed part and its checksum.
pub(crate) fn finish(out: &mut Vec<u8>, head: &RecordHead, entries: &[NewEntry]) {
    let len = encoded_len(entries);
    debug_assert_eq!(out.len() + CHECKSUM_LEN_BYTES, len);
    let mut fixed = Vec::with_capacity(FIXED_LEN_BYTES);
    fixed.extend_from_slice(&MAGIC.to_le_bytes());
    fixed.extend_from_slice(&KIND_ROLLBACK_JOURNAL.to_le_bytes());
    fixed.extend_from_slice(&0u16.to_le_bytes());
    fixed.extend_from_slice(&(len as u32).to_le_bytes());
    fixed.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for word in [
        head.generation,
        head.log_offset,
        head.cc_before,
        head.cc_after,
    ] {
        fixed.extend_from_slice(&word.to_le_bytes());
    }
    fixed.extend_from_slice(&head.file_len_before.to_le_bytes());
    fixed.extend_from_slice(&head.file_len.to_le_bytes());
    fixed.extend_from_slice(&head.commit_time_ns.to_le_bytes());
    fixed.extend_from_slice(&head.page_size.to_le_bytes());
    out[..fixed.len()].copy_from_slice(&fixed);
    let checksum = xxh3_64(out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// A chunk of a record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub chunk: u32,
    pub full_image: bool,
    pub spans: Spans,
    /// Pieces of payload: offset within the chunk, and bytes within the log.
    pub pieces: Vec<(u32, Range<u64>)>,
}

/// A record that was read and whose checksum is right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub head: RecordHead,
    pub entries: Vec<Entry>,
    pub len: usize,
}

/// Length of the record that begins with `fixed`, if it is a record at all.
pub(crate) fn peek_len(fixed: &[u8]) -> Option<usize> {
    let mut reader = Reader {
        bytes: fixed,
        at: 0,
    };
    if reader.u32()? != MAGIC {
        return None;
    }
    reader.u32()?;
    let len = reader.u32()? as usize;
    (FIXED_LEN_BYTES + CHECKSUM_LEN_BYTES..=RECORD_LEN_MAX_BYTES)
        .contains(&len)
        .then_some(len)
}

/// Bytes that [`peek_len`] needs.
pub(crate) const PEEK_LEN_BYTES: usize = 12;

/// Decodes the record that `bytes` are, which was written for `generation` at `log_offset`. Any bytes give a record or `None`.
pub(crate) fn decode(bytes: &[u8], generation: u32, log_offset: u32) -> Option<Record> {
    if peek_len(bytes)? != bytes.len() {
        return None;
    }
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_LEN_BYTES);
    if xxh3_64(body).to_le_bytes() != checksum {
        return None;
    }
    let mut reader = Reader { bytes: body, at: 4 };
    if reader.u16()? != KIND_ROLLBACK_JOURNAL || reader.u16()? != 0 {
        return None;
    }
    reader.u32()?;
    let entry_count = reader.u32()?;
    let head = RecordHead {
        generation: reader.u32()?,
        log_offset: reader.u32()?,
        cc_before: reader.u32()?,
        cc_after: reader.u32()?,
        file_len_before: reader.u64()?,
        file_len: reader.u64()?,
        commit_time_ns: reader.u64()? as i64,
        page_size: reader.u32()?,
    };
    if head.generation != generation || head.log_offset != log_offset {
        return None;
    }
    // Whoever cuts a file off marks its chunks first, and has no room for more than these.
    if head.file_len < head.file_len_before && chunk_count(head.file_len_before) > CHUNKS_MAX {
        return None;
    }
    reader.at = FIXED_LEN_BYTES;
    let mut entries = Vec::new();
    for _ in 0..entry_count {
        entries.push(decode_entry(&mut reader, &head)?);
    }
    let mut at = u64::from(log_offset) + reader.at as u64;
    for (entry, image_len) in &mut entries {
        let mut take = |start: u32, len: u32| {
            entry.pieces.push((start, at..at + u64::from(len)));
            at += u64::from(len);
        };
        if entry.full_image {
            take(0, *image_len);
        } else {
            entry
                .spans
                .as_slice()
                .iter()
                .for_each(|span| take(span.start, span.end - span.start));
        }
    }
    if at != u64::from(log_offset) + body.len() as u64 {
        return None;
    }
    Some(Record {
        head,
        entries: entries.into_iter().map(|(entry, _)| entry).collect(),
        len: bytes.len(),
    })
}

fn decode_entry(reader: &mut Reader<'_>, head: &RecordHead) -> Option<(Entry, u32)> {
    let chunk = reader.u32()?;
    let flags = reader.u16()?;
    let span_count = reader.u16()?;
    let image_len = reader.u32()?;
    let full_image = flags == FLAG_FULL_IMAGE;
    let chunk_len = chunk_len(head.file_len, chunk);
    if flags & !FLAG_FULL_IMAGE != 0 || image_len != if full_image { chunk_len } else { 0 } {
        return None;
    }
    let mut spans = Spans::default();
    let mut least = 0;
    for _ in 0..span_count {
        let (start, len) = (reader.u32()?, reader.u32()?);
        let end = start.checked_add(len)?;
        if start < least || len == 0 || end > chunk_len || u64::from(end) > CHUNK_LEN_BYTES {
            return None;
        }
        least = end;
        spans.insert(start..end);
    }
    if spans.as_slice().len() != span_count as usize {
        return None;
    }
    Some((
        Entry {
            chunk,
            full_image,
            spans,
            pieces: Vec::new(),
        },
        image_len,
    ))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..self.at.checked_add(N)?)?;
        self.at += N;
        found.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the fields of the fixed part take of it.
    const FIXED_LEN_USED_BYTES: usize = 60;

    fn sample(log_offset: u32) -> Vec<u8> {
        let head = RecordHead {
            generation: 7,
            log_offset,
            cc_before: 3,
            cc_after: 4,
            file_len_before: 65_536,
            file_len: 70_000,
            commit_time_ns: -5,
            page_size: 4_096,
        };
        let entries = [
            NewEntry {
                chunk: 0,
                full_image: false,
                spans: vec![24..28, 100..200],
                image_len: 0,
            },
            NewEntry {
                chunk: 1,
                full_image: true,
                spans: std::iter::once(0..4_464).collect(),
                image_len: 4_464,
            },
        ];
        let mut out = Vec::new();
        start(&mut out, &entries);
        for entry in &entries {
            out.resize(out.len() + entry.payload_len(), entry.chunk as u8 + 1);
        }
        finish(&mut out, &head, &entries);
        assert_eq!(out.len(), encoded_len(&entries));
        out
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let bytes = sample(1_000);
        let record = decode(&bytes, 7, 1_000).expect("a record");
        assert_eq!(
            (
                record.head.cc_before,
                record.head.cc_after,
                record.head.commit_time_ns
            ),
            (3, 4, -5)
        );
        assert_eq!(
            (
                record.head.file_len_before,
                record.head.file_len,
                record.head.page_size
            ),
            (65_536, 70_000, 4_096)
        );
        assert_eq!(record.len, bytes.len());
        assert_eq!(
            record.entries[0]
                .pieces
                .iter()
                .map(|p| p.0)
                .collect::<Vec<_>>(),
            [24, 100]
        );
        assert_eq!(record.entries[1].pieces.len(), 1);
        for entry in &record.entries {
            for (_, range) in &entry.pieces {
                let payload = &bytes[range.start as usize - 1_000..range.end as usize - 1_000];
                assert!(payload.iter().all(|byte| *byte == entry.chunk as u8 + 1));
            }
        }
    }

    #[test]
    fn what_no_transaction_can_make_is_no_record() {
        let resealed = |at: usize, with: &[u8]| {
            let mut bytes = sample(0);
            bytes[at..at + with.len()].copy_from_slice(with);
            let end = bytes.len() - CHECKSUM_LEN_BYTES;
            let checksum = xxh3_64(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&checksum);
            bytes
        };
        let before = |len: u64| resealed(32, &len.to_le_bytes());
        assert!(decode(&before(CHUNKS_MAX * CHUNK_LEN_BYTES), 7, 0).is_some());
        assert!(decode(&before(CHUNKS_MAX * CHUNK_LEN_BYTES + 1), 7, 0).is_none());
        let len = |len: u32| peek_len(&resealed(8, &len.to_le_bytes()));
        assert_eq!(len(RECORD_LEN_MAX_BYTES as u32), Some(RECORD_LEN_MAX_BYTES));
        assert_eq!(len(RECORD_LEN_MAX_BYTES as u32 + 1), None);
    }

    #[test]
    fn a_record_counts_only_where_it_was_written() {
        let bytes = sample(1_000);
        assert!(decode(&bytes, 8, 1_000).is_none());
        assert!(decode(&bytes, 7, 1_001).is_none());
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_no_record(at in 0usize..4_900, flip in 1u8..) {
            let mut bytes = sample(0);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes, 7, 0).is_none());
        }

        #[test]
        fn a_record_that_decodes_is_the_only_one_of_its_content(at in 0usize..160, to in any::<u8>()) {
            let mut bytes = sample(0);
            bytes[at] = to;
            let end = bytes.len() - CHECKSUM_LEN_BYTES;
            let checksum = xxh3_64(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&checksum);
            let Some(record) = decode(&bytes, 7, 0) else { return Ok(()) };
            let entries: Vec<NewEntry> = record.entries.iter().map(|entry| NewEntry {
                chunk: entry.chunk,
                full_image: entry.full_image,
                spans: entry.spans.as_slice().to_vec(),
                image_len: if entry.full_image { chunk_len(record.head.file_len, entry.chunk) } else { 0 },
            }).collect();
            let mut again = Vec::new();
            start(&mut again, &entries);
            for (_, range) in record.entries.iter().flat_map(|entry| &entry.pieces) {
                again.extend_from_slice(&bytes[range.start as usize..range.end as usize]);
            }
            finish(&mut again, &record.head, &entries);
            // Some bytes of the fixed part are reserved, and not looked at.
            again[FIXED_LEN_USED_BYTES..FIXED_LEN_BYTES].copy_from_slice(&bytes[FIXED_LEN_USED_BYTES..FIXED_LEN_BYTES]);
            let end = again.len() - CHECKSUM_LEN_BYTES;
            prop_assert_eq!(&again[..end], &bytes[..end]);
        }

        #[test]
        fn any_bytes_decode_or_do_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), sign in any::<bool>()) {
            if sign && bytes.len() >= 88 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
                let len = bytes.len();
                bytes[8..12].copy_from_slice(&(len as u32).to_le_bytes());
                let checksum = xxh3_64(&bytes[..len - 8]).to_le_bytes();
                bytes[len - 8..].copy_from_slice(&checksum);
            }
            let _ = decode(&bytes, 0, 0);
        }
    }
}
