//! What the control page consists of: atomics only. Mapped by `map`; `control` gives the fields their meaning.

use crate::sync::{AtomicU32, AtomicU64, scaled};

/// Chunks that one segment describes (256 MiB of database).
pub(crate) const SEGMENT_CHUNKS: u32 = scaled(4_096, 8) as u32;
/// Words of one segment's bitmap.
pub(crate) const SEGMENT_WORDS: usize = (SEGMENT_CHUNKS as usize).div_ceil(64);
/// Segments beyond which a database is not replicated: 16 TiB.
pub(crate) const SEGMENTS_MAX: u32 = 65_536;
/// The same in chunks.
pub(crate) const CHUNKS_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_CHUNKS as u64;

/// The first 4 KiB of the control page. All fields are zero when the file is new.
#[repr(C, align(64))]
#[cfg_attr(verneuil_loom, derive(Default))]
pub(crate) struct Header {
    /// [`crate::control::MAGIC`], which includes the layout's version.
    pub magic: AtomicU64,
    /// Boot that the state belongs to.
    pub boot_id: [AtomicU64; 2],
    /// Spool that the state belongs to.
    pub instance_id: [AtomicU64; 2],
    /// Where the next record goes: generation in the upper half, length in the lower.
    pub head: AtomicU64,
    /// The head as it was when the copier last sealed.
    pub sealed: AtomicU64,
    /// Odd while a transaction writes.
    pub epoch: AtomicU64,
    /// Change counter after the last transaction of ours; `u64::MAX` before the first.
    pub last_cc: AtomicU64,
    /// Random: tells this control page from an earlier one of the same database.
    pub page_id: AtomicU64,
    /// Process whose transaction the odd epoch is; 0 for none.
    pub writer_pid: AtomicU32,
    /// Grows whenever the copier gets on.
    pub beats: AtomicU64,
    /// Device of the database file.
    pub db_dev: AtomicU64,
    /// Inode of the database file.
    pub db_ino: AtomicU64,
    /// How the file looked when it was last found published in full: epoch, device, inode, length, modification time. All zero: not yet.
    pub seen: [AtomicU64; 5],
    /// When the first record of the current log was committed, in nanoseconds since the epoch.
    pub pending_since_ns: AtomicU64,
    /// Nonzero: every chunk is to do.
    pub todo_all: AtomicU32,
    /// Nonzero: every chunk is in flight.
    pub inflight_all: AtomicU32,
    /// How many segments follow.
    pub segments: AtomicU32,
    /// Process whose connection keeps EXCLUSIVE between its transactions; 0 for none.
    pub exclusive_pid: AtomicU32,
}

/// State of [`SEGMENT_CHUNKS`] chunks; a whole number of memory pages of 4 KiB.
#[repr(C)]
#[cfg_attr(verneuil_loom, derive(Default))]
pub(crate) struct Segment {
    /// The chunk may differ from what log or store hold.
    pub dirty: [AtomicU64; SEGMENT_WORDS],
    /// The copier must read the chunk from the file.
    pub todo: [AtomicU64; SEGMENT_WORDS],
    /// Claimed by the copier and not yet published.
    pub inflight: [AtomicU64; SEGMENT_WORDS],
    _reserved: [AtomicU64; 5 * SEGMENT_WORDS],
    /// Generation whose log holds a full image of the chunk; 0 for none.
    pub imaged_gen: [AtomicU32; SEGMENT_CHUNKS as usize],
}
