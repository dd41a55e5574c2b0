//! One write transaction, from its first write to the moment after its record: writer steps 1 to 7 of the protocol. Held by `writer`; marks in
//! `control`; `append` writes the record.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use verneuil_dbfile::{FileId, Header, read_header};

use crate::append::Appended;
use crate::chunks::{CHUNK_LEN_BYTES, ChunkSet};
use crate::control::Control;
use crate::database::Database;
use crate::error::SpoolError;
use crate::folder::Folder;
use crate::place::Place;
use crate::spans::{Spans, insert_file_range};
use crate::sync::{fence, scaled};
use crate::writer::Ended;

/// A transaction that touches more chunks than this (64 MiB) is not copied: reading it back would delay the commit and take memory.
pub(crate) const COPIED_CHUNKS_MAX: u64 = scaled(1_024, 2);

/// A transaction that is being followed.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) database: Arc<Database>,
    pub(crate) folder: Arc<Folder>,
    /// Our odd epoch.
    epoch: u64,
    /// As it was before.
    pub(crate) header: Header,
    pub(crate) file_len_before: u64,
    /// Length of the file, as the writes so far have left it.
    pub(crate) file_len: u64,
    /// Chunks that this transaction has marked.
    pub(crate) mine: ChunkSet,
    /// Chunks that a dead writer had left marked.
    adopted: ChunkSet,
    pub(crate) spans: BTreeMap<u32, Spans>,
    /// No payload: `mine` becomes to-do at the end.
    pub(crate) overflow: bool,
    /// Some chunk could not be marked: everything becomes to-do at the end.
    pub(crate) unmarked: bool,
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
    pub fn end(self, file: &File, buffer: &mut Vec<u8>) -> Ended {
        let database = &self.database;
        fence(SeqCst);
        if !self.folder.is_current() {
            // Nobody sees this control page any more: the new one has everything to do.
            if database.reattach().is_none() {
                database.note_missed();
            }
            return Ended::Unspooled;
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
                return Ended::Unspooled;
            }
        };
        // Step 7, in this order. A dead writer's bits go too: since step 1 its chunks are to-do, and nobody else would ever clear them.
        control.set_last_cc(u64::from(header.change_counter));
        control.clear_dirty(&self.mine);
        control.clear_dirty(&self.adopted);
        control.set_epoch(self.epoch.wrapping_add(1));
        Ended::Spooled
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
    // Step 2. A foreign commit, a transaction of ours that went by unspooled, or another file of that name.
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
    // Step 3, after that: whoever sees that a writer of ours has begun relies on its having looked.
    // Epochs are only ever compared for equality: noise at the end of the numbers begins them again.
    let epoch = before.wrapping_add(1 + before % 2);
    control.set_writer(database.pid());
    control.set_epoch(epoch);
    Ok((epoch, adopted))
}
