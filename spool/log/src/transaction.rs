//! One write transaction, from its first write to its record in the log: writer steps 1 to 7 of the protocol. Held by `writer`; marks in `control`,
//! appends `record`s.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;
use std::time::SystemTime;

use verneuil_dbfile::{FileId, Header, read_header};

use crate::chunks::{CHUNK_LEN_BYTES, ChunkSet, chunk_len};
use crate::control::{Control, LogHead};
use crate::database::Database;
use crate::error::SpoolError;
use crate::folder::Folder;
use crate::record::{self, NewEntry, RecordHead, encoded_len};
use crate::spans::{Spans, insert_file_range};

/// A transaction that touches more chunks than this (64 MiB) is not copied: reading it back would delay the commit and take memory.
const COPIED_CHUNKS_MAX: u64 = 1_024;
/// A generation may always grow to this, so that small databases don't overflow at once.
const GENERATION_LEN_MIN_BYTES: u64 = 8 << 20;
/// A generation never grows beyond this: what waits longer for a store is better read from the database once than written to a log.
const GENERATION_LEN_MAX_BYTES: u64 = 1 << 30;

/// Which file a connection writes, and what its path led to when it began to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    file: FileId,
    /// As `stat` of the path says: in a union of file systems its device may be another one than the descriptor's.
    at_path: FileId,
}

impl Place {
    /// # Errors
    /// When the file can't be looked at.
    pub fn of(file: &File, path: &Path) -> Result<Self, SpoolError> {
        let file = FileId::of(&file.metadata().map_err(SpoolError::io("stat", path))?);
        let at_path = fs::metadata(path)
            .ok()
            .map(|meta| FileId::of(&meta))
            .filter(|found| found.ino == file.ino)
            .unwrap_or(file);
        Ok(Self { file, at_path })
    }

    /// The length of the file, if it is still behind its name (one system call).
    ///
    /// # Errors
    /// In words: it was renamed, deleted or replaced, or can't be looked at.
    fn check(self, file: &File, path: &Path) -> Result<u64, String> {
        let meta = match fs::metadata(path) {
            Ok(meta) if FileId::of(&meta) == self.at_path => return Ok(meta.len()),
            Ok(_) => None,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                None
            }
            // The path can't be looked at any more (a process that gave up its rights): the descriptor can.
            Err(_) => {
                let meta = file
                    .metadata()
                    .map_err(|error| SpoolError::io("stat", path)(error).to_string())?;
                (meta.nlink() > 0).then_some(meta)
            }
        };
        meta.map(|meta| meta.len()).ok_or_else(|| {
            format!(
                "{path:?} was renamed, deleted or replaced while it was open: what is written through the old descriptor is not \
                 replicated; open the database again"
            )
        })
    }
}

/// A transaction that is being followed.
#[derive(Debug)]
pub(crate) struct Transaction {
    database: Arc<Database>,
    folder: Arc<Folder>,
    /// Our odd epoch.
    epoch: u64,
    /// As it was before.
    header: Header,
    file_len_before: u64,
    /// Length of the file, as the writes so far have left it.
    file_len: u64,
    /// Chunks that this transaction has marked.
    mine: ChunkSet,
    /// Chunks that a dead writer had left marked.
    adopted: ChunkSet,
    spans: BTreeMap<u32, Spans>,
    /// No payload: `mine` becomes to-do at the end.
    overflow: bool,
    /// Some chunk could not be marked: everything becomes to-do at the end.
    unmarked: bool,
}

/// How the end of a transaction left the log.
enum Appended {
    /// In the log of this generation, with these chunks.
    Logged(u32, Vec<u32>),
    /// Not in the log: to-do.
    ToDo,
}

impl Transaction {
    /// `Ok(None)` when there is no spool, which is known already.
    pub fn begin(
        database: &Arc<Database>,
        file: &File,
        place: Place,
        is_leaving_wal: bool,
    ) -> Result<Option<Self>, String> {
        let Some(mut folder) = database.folder_for_writer() else {
            return Ok(None);
        };
        if !folder.is_current() {
            match database.reattach() {
                Some(attached) => folder = attached,
                None => return Ok(None),
            }
        }
        let file_len = place.check(file, database.path())?;
        let header = read_header(file)
            .map_err(|error| SpoolError::io("read", database.path())(error).to_string())?;
        if header.is_wal() && !is_leaving_wal {
            // Somebody else has switched: this connection will see it when it reads the header.
            database.set_wal(true);
            return Ok(None);
        }
        let (epoch, adopted) = announce(&folder.control, database, &header, place.file)
            .map_err(|error| error.to_string())?;
        Ok(Some(Self {
            folder,
            database: database.clone(),
            epoch,
            header,
            file_len_before: file_len,
            file_len,
            mine: ChunkSet::default(),
            adopted,
            spans: BTreeMap::new(),
            overflow: false,
            unmarked: false,
        }))
    }

    /// Before a write (step 4).
    pub fn will_write(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        // A write beyond the end fills the gap with zeros: they are written too.
        self.mark(offset.min(self.file_len), end);
        self.file_len = self.file_len.max(end);
    }

    /// Before a change of the file's length (step 4).
    pub fn will_truncate(&mut self, new_len: u64) {
        self.mark(new_len.min(self.file_len), new_len.max(self.file_len));
        self.file_len = new_len;
    }

    /// Step 4: the dirty bits of the bytes `start..end` of the file, before they are written.
    fn mark(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let control = &self.folder.control;
        let (first, last) = (start / CHUNK_LEN_BYTES, (end - 1) / CHUNK_LEN_BYTES);
        let marked = control.grow(last + 1).and_then(|()| {
            // Fits: `grow` has refused anything larger.
            let (first, last) = (first as u32, last as u32);
            if first == last && self.mine.contains(first) {
                return Ok(());
            }
            // Ours even if marking fails half-way: they are cleared at the end.
            self.mine.insert_range(first, last);
            control.mark_dirty(first, last)
        });
        if let Err(error) = marked {
            // What can't be marked is covered by the flag that needs no room: now, and again at the end.
            control.need_everything();
            self.unmarked = true;
            self.database.note_trouble(error.to_string());
        } else if self.mine.len() > COPIED_CHUNKS_MAX {
            self.overflow = true;
            self.spans = BTreeMap::new();
        } else if !self.overflow {
            insert_file_range(&mut self.spans, start, end);
        }
        fence(SeqCst);
    }

    /// Steps 5 to 7, under SHARED.
    pub fn end(self, file: &File, buffer: &mut Vec<u8>) {
        let database = &self.database;
        fence(SeqCst);
        if !self.folder.is_current() {
            // Nobody sees this control page any more: the new one has everything to do.
            if database.reattach().is_none() {
                database.note_missed();
            }
            return;
        }
        let control = &self.folder.control;
        let mut header = None;
        match self.append(file, buffer, &mut header) {
            Ok(appended) => {
                match appended {
                    Appended::Logged(generation, chunks) => {
                        chunks
                            .iter()
                            .for_each(|chunk| control.set_imaged_gen(*chunk, generation));
                    }
                    Appended::ToDo => self.hand_over(),
                }
                if !self.unmarked {
                    database.note_success();
                }
            }
            Err(error) => {
                self.hand_over();
                if error.is_not_found() {
                    // The current log is not there: what it held must be read from the file.
                    control.need_everything();
                }
                database.note_trouble(error.to_string());
            }
        }
        let header = match header.map_or_else(|| read_header(file), Ok) {
            Ok(header) => header,
            Err(error) => {
                // Without the counter nobody can vouch for the file: leave bits and epoch, as if this writer had died.
                control.set_writer(0);
                database.note_trouble(SpoolError::io("read", database.path())(error).to_string());
                return;
            }
        };
        // Step 7, in this order. A dead writer's bits go too: since step 1 its chunks are to-do, and nobody else would ever clear them.
        control.set_last_cc(u64::from(header.change_counter));
        control.clear_dirty(&self.mine);
        control.clear_dirty(&self.adopted);
        control.set_epoch(self.epoch + 1);
    }

    /// The transaction ends as if its writer had died, though its process lives.
    pub fn abandon(self) {
        self.folder.control.set_writer(0);
    }

    /// Overflow, or an error: the copier reads what this transaction wrote from the file.
    fn hand_over(&self) {
        let control = &self.folder.control;
        if self.unmarked || control.add_todo(&self.mine).is_err() {
            control.need_everything();
        }
    }

    /// Steps 5 and 6. Fills in the header that the file has now, if it came along with what was read.
    fn append(
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
        for _ in 0..2 {
            let head = self.folder.control.head();
            let entries = self.entries(head.generation);
            let len = encoded_len(&entries);
            if u64::from(head.len_bytes) + len as u64 > bound {
                break;
            }
            *header = Some(self.encode(file, head, &entries, buffer)?);
            let log = match self.folder.open_log(head.generation) {
                Err(error) if error.is_not_found() && self.folder.control.head() != head => {
                    continue;
                }
                log => log?,
            };
            fence(SeqCst);
            // At `len`, never at the end of the file: what lies beyond is the torn record of a dead writer.
            log.write_all_at(buffer, u64::from(head.len_bytes))
                .map_err(SpoolError::io(
                    "write",
                    &self.folder.log_path(head.generation),
                ))?;
            fence(SeqCst);
            let after = LogHead {
                len_bytes: head.len_bytes + len as u32,
                ..head
            };
            if self.folder.control.move_head(head, after) {
                return Ok(Appended::Logged(
                    head.generation,
                    entries.iter().map(|entry| entry.chunk).collect(),
                ));
            }
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

    /// Reads the payload back from the file, one `pread` per chunk, and makes the record. Returns the file's header.
    fn encode(
        &self,
        file: &File,
        head: LogHead,
        entries: &[NewEntry],
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

/// Steps 1 to 3; returns the odd epoch, and what a dead writer had left dirty.
fn announce(
    control: &Control,
    database: &Database,
    file_header: &Header,
    file: FileId,
) -> Result<(u64, ChunkSet), SpoolError> {
    fence(SeqCst);
    let before = control.epoch();
    // Step 1. An odd epoch means that a writer died: this one holds EXCLUSIVE.
    let mut adopted = ChunkSet::default();
    if before % 2 == 1 {
        adopted = control.adopt_leftovers()?;
    }
    // Step 2.
    let epoch = before + 1 + before % 2;
    control.set_writer(database.pid());
    control.set_epoch(epoch);
    // Step 3. A foreign commit, a transaction of ours that went by unspooled, or another file of that name.
    let header = control.map.header();
    let same_file =
        header.db_dev.load(SeqCst) == file.dev && header.db_ino.load(SeqCst) == file.ino;
    // Taken in any case: what was missed is to do from now on, whatever else there is to say.
    let has_missed = database.take_missed();
    if control.last_cc() != u64::from(file_header.change_counter) || !same_file || has_missed {
        control.need_everything();
    }
    if !same_file {
        header.db_dev.store(file.dev, SeqCst);
        header.db_ino.store(file.ino, SeqCst);
    }
    Ok((epoch, adopted))
}

/// Now, in nanoseconds since the epoch: for people who look at a record's age, nothing depends on it.
fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |age| age.as_nanos() as i64)
}
