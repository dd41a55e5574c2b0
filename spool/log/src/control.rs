//! What the fields of the control page mean, and in which order they may change: protocol fields on top of `map`, for `writer` (which
//! marks) and `drain` (which claims and seals).
//!
//! System calls are not formal fences: writers and copier put a sequentially consistent [`fence`] between their accesses here and the
//! `pwrite`, `pread` or lock look that the protocol orders them with.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::chunks::{ChunkSet, set_bits};
use crate::error::SpoolError;
use crate::layout::{CHUNKS_MAX, Header, SEGMENT_CHUNKS, SEGMENT_WORDS, SEGMENTS_MAX, Segment};
use crate::map::Map;
use crate::sync::{AtomicU64, fence};

/// "VNLCTL" and the version of the layout.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"VNLCTL\x00\x02");
/// `last_cc` before the first transaction of ours: equals no change counter.
pub(crate) const CC_UNKNOWN: u64 = u64::MAX;

/// A page whose generation is beyond this is damaged: at the shortest interval between two publications it would take a year and more without a
/// reboot, and a page that ran out of numbers would stop its copier for good.
pub(crate) const GENERATION_MAX: u32 = u32::MAX / 2;

/// Where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Generation of the log; at least 1.
    pub generation: u32,
    /// Length of the log in bytes: everything beyond is torn or nobody's.
    pub len_bytes: u32,
}

impl LogHead {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.len_bytes)
    }

    fn unpack(word: u64) -> Self {
        Self {
            generation: (word >> 32) as u32,
            len_bytes: word as u32,
        }
    }
}

/// How a database file looks from outside, at an epoch of its control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The control page's epoch.
    pub epoch: u64,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub len: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
}

/// The control page of one database.
#[derive(Debug)]
pub(crate) struct Control {
    pub map: Map,
}

impl Control {
    /// Fills a new control page, not yet visible to anybody: everything is to do, nothing is known.
    ///
    /// # Errors
    /// When the disk is full or the kernel refuses to map.
    pub fn build(
        file: File,
        path: &Path,
        identity: &PageIdentity,
        generation: u32,
        chunks: u64,
    ) -> Result<Self, SpoolError> {
        let segments = segments_for(chunks)?.max(1);
        Map::allocate(&file, path, segments)?;
        let map = Map::new(file, path)?;
        let header = map.header();
        for k in 0..2 {
            header.boot_id[k].store(half(&identity.boot_id, k), Relaxed);
            header.instance_id[k].store(half(&identity.instance_id, k), Relaxed);
        }
        header.segments.store(segments, Relaxed);
        header.head.store(
            LogHead {
                generation,
                len_bytes: 0,
            }
            .pack(),
            Relaxed,
        );
        header.last_cc.store(CC_UNKNOWN, Relaxed);
        header.page_id.store(identity.page_id, Relaxed);
        header.todo_all.store(1, Relaxed);
        header.magic.store(MAGIC, Release);
        fence(SeqCst);
        Self::map_all(map)
    }

    /// Opens a control page that somebody else may be using.
    ///
    /// # Errors
    /// [`SpoolError::Unusable`] when it is damaged or of another boot or spool; it must be replaced then.
    pub fn open(file: File, path: &Path, identity: &PageIdentity) -> Result<Self, SpoolError> {
        let map = Map::new(file, path)?;
        let header = map.header();
        if header.magic.load(Acquire) != MAGIC {
            return Err(SpoolError::unusable(
                path,
                "is not a control page of this version",
            ));
        }
        if !is_of(header, identity) {
            return Err(SpoolError::unusable(
                path,
                "belongs to another boot or spool",
            ));
        }
        let segments = header.segments.load(Acquire);
        let generation = LogHead::unpack(header.head.load(Acquire)).generation;
        if segments == 0 || segments > SEGMENTS_MAX || !(1..=GENERATION_MAX).contains(&generation) {
            return Err(SpoolError::unusable(path, "is damaged"));
        }
        Self::map_all(map)
    }

    /// Whether this is still the page that others see, and nobody has written over its beginning (one system call).
    pub fn is_current(&self, identity: &PageIdentity) -> bool {
        let header = self.map.header();
        self.map.is_whole() && header.magic.load(Acquire) == MAGIC && is_of(header, identity)
    }

    /// Maps every segment now, so that no commit has to.
    fn map_all(map: Map) -> Result<Self, SpoolError> {
        for k in 0..map.header().segments.load(Acquire) {
            map.segment(k)?;
        }
        Ok(Self { map })
    }

    pub fn head(&self) -> LogHead {
        LogHead::unpack(self.map.header().head.load(Acquire))
    }

    /// Writer step 6 (and the copier's seal): moves the head, unless somebody moved it first.
    pub fn move_head(&self, from: LogHead, to: LogHead) -> bool {
        self.map
            .header()
            .head
            .compare_exchange(from.pack(), to.pack(), AcqRel, Acquire)
            .is_ok()
    }

    /// The head at the last seal. Stored before the head moves, so that a copier which finds the generation of a dead one knows its length.
    pub fn sealed(&self) -> LogHead {
        LogHead::unpack(self.map.header().sealed.load(Acquire))
    }

    pub fn set_sealed(&self, head: LogHead) {
        self.map.header().sealed.store(head.pack(), Release);
    }

    pub fn epoch(&self) -> u64 {
        self.map.header().epoch.load(Acquire)
    }

    pub fn set_epoch(&self, epoch: u64) {
        self.map.header().epoch.store(epoch, Release);
        fence(SeqCst);
    }

    /// Says whose transaction the epoch is.
    pub fn set_writer(&self, pid: u32) {
        self.map.header().writer_pid.store(pid, Release);
    }

    /// Says whose connection keeps EXCLUSIVE between its transactions (`locking_mode=EXCLUSIVE`); 0 for none.
    pub fn set_exclusive_owner(&self, pid: u32) {
        self.map.header().exclusive_pid.store(pid, SeqCst);
    }

    pub fn exclusive_owner(&self) -> u32 {
        self.map.header().exclusive_pid.load(SeqCst)
    }

    pub fn last_cc(&self) -> u64 {
        self.map.header().last_cc.load(Acquire)
    }

    pub fn set_last_cc(&self, cc: u64) {
        self.map.header().last_cc.store(cc, Release);
    }

    pub fn page_id(&self) -> u64 {
        self.map.header().page_id.load(Acquire)
    }

    pub fn seen(&self) -> Option<Seen> {
        let [epoch, dev, ino, len, mtime_ns] =
            std::array::from_fn(|k| self.map.header().seen[k].load(Acquire));
        (ino != 0).then_some(Seen {
            epoch,
            dev,
            ino,
            len,
            mtime_ns: mtime_ns.cast_signed(),
        })
    }

    /// Written and read under the copier's lock only.
    pub fn set_seen(&self, seen: &Seen) {
        let words = [
            seen.epoch,
            seen.dev,
            seen.ino,
            seen.len,
            seen.mtime_ns.cast_unsigned(),
        ];
        for (place, word) in self.map.header().seen.iter().zip(words) {
            place.store(word, Release);
        }
    }

    /// When the first record of the current log was committed.
    pub fn pending_since_ns(&self) -> i64 {
        self.map
            .header()
            .pending_since_ns
            .load(Acquire)
            .cast_signed()
    }

    pub fn set_pending_since_ns(&self, at_ns: i64) {
        self.map
            .header()
            .pending_since_ns
            .store(at_ns.cast_unsigned(), Release);
    }

    /// `todo = all`.
    pub fn need_everything(&self) {
        self.map.header().todo_all.store(1, Release);
        fence(SeqCst);
    }

    /// How many segments there are; others may add some at any time.
    pub fn segment_count(&self) -> u32 {
        self.map.header().segments.load(Acquire).min(SEGMENTS_MAX)
    }

    /// Makes room for `chunks` chunks. Called under EXCLUSIVE, so by one process at a time.
    ///
    /// # Errors
    /// When the disk is full or the database too large; what was there stays usable.
    pub fn grow(&self, chunks: u64) -> Result<(), SpoolError> {
        let wanted = segments_for(chunks)?;
        let have = self.segment_count();
        if wanted <= have {
            return Ok(());
        }
        Map::allocate(self.map.file(), self.map.path(), wanted)?;
        for k in have..wanted {
            self.map.segment(k)?;
        }
        self.map.header().segments.fetch_max(wanted, AcqRel);
        Ok(())
    }

    /// Calls `f` with each segment and the index of its first chunk.
    ///
    /// # Errors
    /// When a segment that another process added can't be mapped.
    pub fn each_segment(&self, mut f: impl FnMut(u32, &Segment)) -> Result<(), SpoolError> {
        for k in 0..self.segment_count() {
            f(k * SEGMENT_CHUNKS, self.map.segment(k)?);
        }
        Ok(())
    }

    /// Writer step 4: sets the dirty bits of the chunks `first..=last`, a word at a time.
    ///
    /// # Errors
    /// When a segment can't be mapped; some bits may be set then.
    pub fn mark_dirty(&self, first: u32, last: u32) -> Result<(), SpoolError> {
        for k in first / SEGMENT_CHUNKS..=last / SEGMENT_CHUNKS {
            let segment = self.map.segment(k)?;
            let from = first.max(k * SEGMENT_CHUNKS) % SEGMENT_CHUNKS;
            let to = if k == last / SEGMENT_CHUNKS {
                last % SEGMENT_CHUNKS
            } else {
                SEGMENT_CHUNKS - 1
            };
            set_bits(&segment.dirty, from, to);
        }
        Ok(())
    }

    /// Writer step 1: what a dead writer left dirty becomes to-do, and its images in the log no longer count. Returns those chunks: from now
    /// on their dirty bits are the caller's, to be cleared at the end of its transaction.
    ///
    /// # Errors
    /// When a segment can't be mapped.
    pub fn adopt_leftovers(&self) -> Result<ChunkSet, SpoolError> {
        let mut adopted = ChunkSet::default();
        self.each_segment(|first, segment| {
            for (word, dirty) in segment.dirty.iter().enumerate() {
                let mut bits = dirty.load(Acquire);
                if bits == 0 {
                    continue;
                }
                adopted.insert_word(first / SEGMENT_CHUNKS, word, bits);
                segment.todo[word].fetch_or(bits, AcqRel);
                while bits != 0 {
                    let chunk = word * 64 + bits.trailing_zeros() as usize;
                    segment.imaged_gen[chunk].store(0, Release);
                    bits &= bits - 1;
                }
            }
        })?;
        Ok(adopted)
    }

    /// `todo |= set`.
    ///
    /// # Errors
    /// When a segment can't be mapped; the caller then needs everything.
    pub fn add_todo(&self, set: &ChunkSet) -> Result<(), SpoolError> {
        self.or_into(set, |segment| &segment.todo)
    }

    /// `inflight |= set`.
    ///
    /// # Errors
    /// As [`Self::add_todo`].
    pub fn add_inflight(&self, set: &ChunkSet) -> Result<(), SpoolError> {
        self.or_into(set, |segment| &segment.inflight)
    }

    fn or_into(
        &self,
        set: &ChunkSet,
        field: impl Fn(&Segment) -> &[AtomicU64; SEGMENT_WORDS],
    ) -> Result<(), SpoolError> {
        for (k, words) in set.segments() {
            let segment = self.map.segment(k)?;
            for (word, bits) in words.iter().enumerate().filter(|(_, bits)| **bits != 0) {
                field(segment)[word].fetch_or(*bits, AcqRel);
            }
        }
        fence(SeqCst);
        Ok(())
    }

    /// Writer step 7: clears the writer's own dirty bits.
    pub fn clear_dirty(&self, mine: &ChunkSet) {
        for (k, words) in mine.segments() {
            // Mapped already, or the bits could not have been set.
            let Ok(segment) = self.map.segment(k) else {
                continue;
            };
            for (word, bits) in words.iter().enumerate().filter(|(_, bits)| **bits != 0) {
                segment.dirty[word].fetch_and(!bits, AcqRel);
            }
        }
    }

    /// Generation whose log holds a full image of `chunk`.
    pub fn imaged_gen(&self, chunk: u32) -> u32 {
        self.map
            .segment(chunk / SEGMENT_CHUNKS)
            .map_or(0, |segment| {
                segment.imaged_gen[(chunk % SEGMENT_CHUNKS) as usize].load(Acquire)
            })
    }

    pub fn set_imaged_gen(&self, chunk: u32, generation: u32) {
        if let Ok(segment) = self.map.segment(chunk / SEGMENT_CHUNKS) {
            segment.imaged_gen[(chunk % SEGMENT_CHUNKS) as usize].store(generation, Release);
        }
    }
}

/// What a control page must match to be used (but for the page id, which a new one gets).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageIdentity {
    pub page_id: u64,
    pub boot_id: [u8; 16],
    pub instance_id: [u8; 16],
}

fn is_of(header: &Header, identity: &PageIdentity) -> bool {
    (0..2).all(|k| {
        header.boot_id[k].load(Relaxed) == half(&identity.boot_id, k)
            && header.instance_id[k].load(Relaxed) == half(&identity.instance_id, k)
    })
}

fn half(id: &[u8; 16], k: usize) -> u64 {
    let (low, high) = id.split_at(8);
    let part = if k == 0 { low } else { high };
    part.iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn segments_for(chunks: u64) -> Result<u32, SpoolError> {
    match u32::try_from(chunks.div_ceil(u64::from(SEGMENT_CHUNKS))) {
        Ok(segments) if segments <= SEGMENTS_MAX => Ok(segments),
        _ => Err(SpoolError::TooLarge {
            chunks,
            chunks_max: CHUNKS_MAX,
        }),
    }
}
