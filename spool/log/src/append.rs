//! From the written spans of a `transaction` to a `record` in the log: writer steps 5 and 6.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use verneuil_dbfile::{Header, read_header};

use crate::chunks::{CHUNK_LEN_BYTES, chunk_len};
use crate::control::LogHead;
use crate::error::SpoolError;
use crate::record::{self, NewEntry, RecordHead, encoded_len};
use crate::spans::Spans;
use crate::sync::system_call;
use crate::target::now_ns;
use crate::transaction::Transaction;

/// A generation may always grow to this, so that small databases don't overflow at once.
const GENERATION_LEN_MIN_BYTES: u64 = 8 << 20;
/// A generation never grows beyond this: what waits longer for a store is better read from the database once than written to a log.
const GENERATION_LEN_MAX_BYTES: u64 = 1 << 30;

/// How the end of a transaction left the log.
pub(crate) enum Appended {
    /// In the log of this generation, with these chunks.
    Logged(u32, Vec<u32>),
    /// Not in the log: to-do.
    ToDo,
}

/// The record that came too late for its generation: its images serve the next try.
#[derive(Default)]
struct Kept {
    record: Vec<u8>,
    images: BTreeMap<u32, Range<usize>>,
}

impl Kept {
    fn of(record: Vec<u8>, entries: &[NewEntry]) -> Self {
        // The payload ends where the checksum begins.
        let payload_len: usize = entries.iter().map(NewEntry::payload_len).sum();
        let mut at = record.len() - record::CHECKSUM_LEN_BYTES - payload_len;
        let mut images = BTreeMap::new();
        for entry in entries {
            let range = at..at + entry.payload_len();
            at = range.end;
            if entry.full_image {
                images.insert(entry.chunk, range);
            }
        }
        Self { record, images }
    }

    fn image(&self, chunk: u32) -> Option<&[u8]> {
        self.record.get(self.images.get(&chunk)?.clone())
    }
}

impl Transaction {
    /// Steps 5 and 6. Fills in the header that the file has now, if it came along with what was read.
    pub(crate) fn append(
        &self,
        file: &File,
        buffer: &mut Vec<u8>,
        header: &mut Option<Header>,
    ) -> Result<Appended, SpoolError> {
        if self.overflow || self.unmarked {
            return Ok(Appended::ToDo);
        }
        let bound = self
            .file_len
            .clamp(GENERATION_LEN_MIN_BYTES, GENERATION_LEN_MAX_BYTES);
        // A second time when the copier seals in between; never a third: a fast copier could keep the writer here for ever.
        let mut kept = Kept::default();
        for _ in 0..2 {
            let head = self.folder.control.head();
            let entries = self.entries(head.generation);
            let len = encoded_len(&entries);
            if u64::from(head.len_bytes) + len as u64 > bound {
                break;
            }
            *header = Some(self.encode(file, head, &entries, &kept, buffer)?);
            let log = match self.folder.open_log(head.generation) {
                Err(error) if error.is_not_found() && self.folder.control.head() != head => {
                    continue;
                }
                log => log?,
            };
            // At `len`, never at the end of the file: what lies beyond is the torn record of a dead writer.
            system_call(|| log.write_all_at(buffer, u64::from(head.len_bytes))).map_err(
                SpoolError::io("write", &self.folder.log_path(head.generation)),
            )?;
            let after = LogHead {
                len_bytes: head.len_bytes + len as u32,
                ..head
            };
            if self.folder.control.move_head(head, after) {
                if head.len_bytes == 0 {
                    self.folder.control.set_pending_since_ns(now_ns());
                }
                return Ok(Appended::Logged(
                    head.generation,
                    entries.iter().map(|entry| entry.chunk).collect(),
                ));
            }
            kept = Kept::of(std::mem::take(buffer), &entries);
        }
        Ok(Appended::ToDo)
    }

    /// What a record of this transaction holds: full images of chunks that the log of `generation` has none of, else what was written.
    fn entries(&self, generation: u32) -> Vec<NewEntry> {
        let entry = |(chunk, spans): (&u32, &Spans)| {
            let len = chunk_len(self.file_len, *chunk);
            let full_image = self.folder.control.imaged_gen(*chunk) != generation;
            let image_len = if full_image { len } else { 0 };
            (len > 0).then(|| NewEntry {
                chunk: *chunk,
                full_image,
                spans: spans.clipped(len).collect(),
                image_len,
            })
        };
        self.spans.iter().filter_map(entry).collect()
    }

    /// Reads the payload back from the file, one `pread` per chunk that the first try did not read, and makes the record. Returns the file's header.
    fn encode(
        &self,
        file: &File,
        head: LogHead,
        entries: &[NewEntry],
        kept: &Kept,
        buffer: &mut Vec<u8>,
    ) -> Result<Header, SpoolError> {
        let read = |bytes: &mut [u8], offset: u64| {
            file.read_exact_at(bytes, offset)
                .map_err(SpoolError::io("read back", self.database.path()))
        };
        record::start(buffer, entries);
        let payload = buffer.len();
        for entry in entries {
            let first = u64::from(entry.chunk) * CHUNK_LEN_BYTES;
            let at = buffer.len();
            match (entry.full_image, entry.spans.as_slice()) {
                (true, _) if kept.image(entry.chunk).is_some() => {
                    buffer.extend_from_slice(kept.image(entry.chunk).unwrap_or_default());
                }
                (true, _) => {
                    buffer.resize(at + entry.image_len as usize, 0);
                    read(&mut buffer[at..], first)?;
                }
                (false, []) => {}
                (false, [start, .., end]) => {
                    // Several spans: one read of what covers them, then closed up.
                    buffer.resize(at + (end.end - start.start) as usize, 0);
                    read(&mut buffer[at..], first + u64::from(start.start))?;
                    let mut to = at;
                    for span in &entry.spans {
                        let from = at + (span.start - start.start) as usize;
                        buffer.copy_within(from..from + span.len(), to);
                        to += span.len();
                    }
                    buffer.truncate(to);
                }
                (false, [span]) => {
                    buffer.resize(at + span.len(), 0);
                    read(&mut buffer[at..], first + u64::from(span.start))?;
                }
            }
        }
        let header = self.header_after(file, entries, &buffer[payload..])?;
        let record_head = RecordHead {
            generation: head.generation,
            log_offset: head.len_bytes,
            cc_before: self.header.change_counter,
            cc_after: header.change_counter,
            file_len_before: self.file_len_before,
            file_len: self.file_len,
            commit_time_ns: now_ns(),
            page_size: header.page_size,
        };
        record::finish(buffer, &record_head, entries);
        Ok(header)
    }

    /// The header that the file has now: mostly among what was read back, for every commit changes it.
    fn header_after(
        &self,
        file: &File,
        entries: &[NewEntry],
        payload: &[u8],
    ) -> Result<Header, SpoolError> {
        if !self.mine.contains(0) {
            return Ok(self.header);
        }
        let whole = |entry: &NewEntry| {
            entry.full_image
                || entry
                    .spans
                    .first()
                    .is_some_and(|span| span.start == 0 && span.len() >= Header::LEN_BYTES)
        };
        let there = entries
            .first()
            .is_some_and(|entry| entry.chunk == 0 && whole(entry));
        match payload.first_chunk().filter(|_| there) {
            Some(bytes) => Ok(Header::parse(bytes)),
            None => read_header(file).map_err(SpoolError::io("read", self.database.path())),
        }
    }
}
