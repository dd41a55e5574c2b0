//! Reads a sealed generation back: which chunks it changes, and how each looks afterwards. Made by `drain`, used by `verneuil-copier`.
//!
//! Only an index is kept in memory; the bytes of a chunk are put together when they are asked for, so that a log of 1 GiB costs no more
//! memory than one of 1 MiB.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::chunks::{ChunkSet, chunk_count, chunk_len};
use crate::control::LogHead;
use crate::error::SpoolError;
use crate::record::{self, PEEK_LEN_BYTES, Record};
use crate::spans::Spans;

/// What happens to a chunk, in order.
#[derive(Debug)]
enum Step {
    /// Bytes of the log go to this offset of the chunk, which grows if need be.
    Write(u32, Range<u64>),
    /// The file became shorter: this much of the chunk is left.
    Cut(u32),
}

#[derive(Debug, Default)]
struct History {
    steps: Vec<Step>,
    written: Spans,
}

/// A sealed generation, checked and indexed.
#[derive(Debug)]
pub struct Replay {
    file: File,
    path: PathBuf,
    chunks: BTreeMap<u32, History>,
    touched: ChunkSet,
    last: Option<record::RecordHead>,
    records: u64,
    len_bytes: u64,
    /// The log has lost its name: this is all that is left of it.
    is_unlinked: bool,
}

/// Replays that live in this process: as many open files.
static OPEN: AtomicUsize = AtomicUsize::new(0);

impl Drop for Replay {
    /// Writers of any process may have the log open for a long time yet; its blocks are given back now.
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
        if self.is_unlinked
            && let Err(error) = self.file.set_len(0)
        {
            tracing::debug!(%error, "a change log that was published stays until its last user closes it");
        }
    }
}

impl Replay {
    /// Reads exactly `head.len_bytes` bytes of the log at `path` (copier step 8).
    ///
    /// # Errors
    /// When the log is missing, short, or holds anything but whole records: it can't be used then, and every chunk must be read.
    pub(crate) fn read(path: &Path, head: LogHead) -> Result<Self, SpoolError> {
        let mut replay = Self::open(path)?;
        replay.len_bytes = u64::from(head.len_bytes);
        let mut buffer = Vec::new();
        let mut offset = 0;
        while offset < head.len_bytes {
            let record = replay
                .record_at(
                    head.generation,
                    offset,
                    head.len_bytes - offset,
                    &mut buffer,
                )?
                .ok_or_else(|| {
                    SpoolError::unusable(path, format!("is damaged at byte {offset}"))
                })?;
            offset += record.len as u32;
            replay
                .apply(record)
                .map_err(|why| SpoolError::unusable(path, why))?;
        }
        Ok(replay)
    }

    /// The chunks in the records of a log whose length nobody knows, up to the first that is torn; possibly more than were sealed.
    ///
    /// # Errors
    /// When the log can't be read.
    pub(crate) fn scan_chunks(path: &Path, generation: u32) -> Result<ChunkSet, SpoolError> {
        let replay = Self::open(path)?;
        let len = replay
            .file
            .metadata()
            .map_err(SpoolError::io("stat", path))?
            .len();
        let (mut set, mut buffer, mut offset) = (ChunkSet::default(), Vec::new(), 0u32);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        while let Some(record) =
            replay.record_at(generation, offset, len.saturating_sub(offset), &mut buffer)?
        {
            add_touched(&mut set, &record);
            offset += record.len as u32;
        }
        Ok(set)
    }

    fn open(path: &Path) -> Result<Self, SpoolError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .and_then(verneuil_dbfile::off_standard_streams)
            .map_err(SpoolError::io("open", path))?;
        OPEN.fetch_add(1, Relaxed);
        let (chunks, touched) = (BTreeMap::new(), ChunkSet::default());
        Ok(Self {
            file,
            path: path.to_owned(),
            chunks,
            touched,
            last: None,
            records: 0,
            len_bytes: 0,
            is_unlinked: false,
        })
    }

    fn record_at(
        &self,
        generation: u32,
        offset: u32,
        left: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Record>, SpoolError> {
        let mut peek = [0u8; PEEK_LEN_BYTES];
        if (left as usize) < PEEK_LEN_BYTES || !self.read_exact(&mut peek, offset)? {
            return Ok(None);
        }
        let Some(len) = record::peek_len(&peek).filter(|len| *len <= left as usize) else {
            return Ok(None);
        };
        buffer.clear();
        buffer.resize(len, 0);
        if !self.read_exact(buffer, offset)? {
            return Ok(None);
        }
        Ok(record::decode(buffer, generation, offset))
    }

    /// `false` when the file ends before.
    fn read_exact(&self, buffer: &mut [u8], offset: u32) -> Result<bool, SpoolError> {
        match self.file.read_exact_at(buffer, u64::from(offset)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(SpoolError::io("read", &self.path)(error)),
        }
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        let file_len = record.head.file_len;
        add_touched(&mut self.touched, &record);
        for entry in record.entries {
            if !entry.full_image && !self.chunks.contains_key(&entry.chunk) {
                return Err(format!(
                    "changes a part of chunk {} that it has no image of",
                    entry.chunk
                ));
            }
            let history = self.chunks.entry(entry.chunk).or_default();
            if entry.full_image {
                history.steps.clear();
                history.steps.push(Step::Cut(0));
            }
            history.steps.extend(
                entry
                    .pieces
                    .into_iter()
                    .map(|(at, bytes)| Step::Write(at, bytes)),
            );
            entry
                .spans
                .as_slice()
                .iter()
                .for_each(|span| history.written.insert(span.clone()));
        }
        // What was cut off and grows again comes back as written spans, zeros included: the writer marks all that lies beyond the old end.
        if record
            .head
            .file_len_before
            .max(self.last.map_or(0, |last| last.file_len))
            > file_len
        {
            let from = u32::try_from(file_len / crate::CHUNK_LEN_BYTES).unwrap_or(u32::MAX);
            for (chunk, history) in self.chunks.range_mut(from..) {
                history.steps.push(Step::Cut(chunk_len(file_len, *chunk)));
            }
        }
        self.last = Some(record.head);
        self.records += 1;
        Ok(())
    }

    /// Number of transactions.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The chunks that it changes and that lie below the file's end afterwards, in ascending order.
    pub fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        let end = self.last.map_or(0, |last| chunk_count(last.file_len));
        self.chunks
            .keys()
            .copied()
            .take_while(move |chunk| u64::from(*chunk) < end)
    }

    /// The chunks that it holds an image of, whether or not they were cut off later.
    pub(crate) fn changed(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.keys().copied()
    }

    /// How many live in this process.
    pub(crate) fn open_count() -> usize {
        OPEN.load(Relaxed)
    }

    /// Says that the log has lost its name, and that nobody else will read it.
    pub(crate) fn is_unlinked(&mut self) {
        self.is_unlinked = true;
    }

    /// Length of the log in bytes: what it takes on disk for as long as this lives.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// All chunks that it ever touched, those that it cut off included.
    pub fn touched(&self) -> &ChunkSet {
        &self.touched
    }

    /// Whether it changes `chunk`.
    pub fn contains(&self, chunk: u32) -> bool {
        self.chunks.contains_key(&chunk)
    }

    /// Length of the file after the last record; `None` without records.
    pub fn file_len(&self) -> Option<u64> {
        self.last.map(|last| last.file_len)
    }

    /// Change counter after the last record; `None` without records.
    pub fn change_counter(&self) -> Option<u32> {
        self.last.map(|last| last.cc_after)
    }

    /// Page size after the last record, in bytes; `None` without records.
    pub fn page_size(&self) -> Option<u32> {
        self.last.map(|last| last.page_size)
    }

    /// When the last transaction was committed, in nanoseconds since the epoch; `None` without records.
    pub fn commit_time_ns(&self) -> Option<i64> {
        self.last.map(|last| last.commit_time_ns)
    }

    /// Which bytes of `chunk` the generation's transactions wrote.
    pub fn written(&self, chunk: u32) -> &[Range<u32>] {
        self.chunks
            .get(&chunk)
            .map_or(&[], |history| history.written.as_slice())
    }

    /// The whole content of `chunk` after the last record.
    ///
    /// # Errors
    /// When the log can't be read any more.
    pub fn bytes(&self, chunk: u32) -> Result<Vec<u8>, SpoolError> {
        let mut bytes = Vec::new();
        for step in self
            .chunks
            .get(&chunk)
            .map_or(&[][..], |history| &history.steps)
        {
            match step {
                Step::Cut(len) => bytes.truncate(*len as usize),
                Step::Write(at, range) => {
                    let (from, to) = (
                        *at as usize,
                        *at as usize + (range.end - range.start) as usize,
                    );
                    if bytes.len() < to {
                        bytes.resize(to, 0);
                    }
                    self.file
                        .read_exact_at(&mut bytes[from..to], range.start)
                        .map_err(SpoolError::io("read", &self.path))?;
                }
            }
        }
        bytes.resize(
            self.last.map_or(0, |last| chunk_len(last.file_len, chunk)) as usize,
            0,
        );
        Ok(bytes)
    }
}

/// A chunk that a transaction cut off, and the one that it shortened, count as changed too.
fn add_touched(set: &mut ChunkSet, record: &Record) {
    record
        .entries
        .iter()
        .for_each(|entry| set.insert(entry.chunk));
    let (after, before) = (record.head.file_len, record.head.file_len_before);
    if after < before {
        let chunk_of = |at: u64| u32::try_from(at / crate::CHUNK_LEN_BYTES).unwrap_or(u32::MAX);
        set.insert_range(chunk_of(after), chunk_of(before - 1));
    }
}
