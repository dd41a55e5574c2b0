//! Inline patches: what of a chunk differs from its stored version; `update` makes and evicts them, `codec` stores them, readers call [`assemble`].

use std::ops::Range;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::FormatError;
use crate::ids::{ChunkId, ChunkIndex, Generation};

/// Bytes that differ from the stored version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchedRange {
    /// Offset in the chunk.
    pub offset: u32,
    /// The new bytes.
    pub bytes: Bytes,
}

/// What turns the stored version of a chunk into the current one: resized to the chunk's current length (with zeros), then
/// overwritten by the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Id of the whole chunk after patching.
    pub id: ChunkId,
    /// Generation that last changed it: the coldest are evicted first.
    pub touched: Generation,
    /// Ascending, not touching each other; none at all if only the length differs.
    pub ranges: Vec<PatchedRange>,
}

/// All that is needed to read one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkView<'a> {
    /// Which chunk.
    pub index: ChunkIndex,
    /// Id of its current bytes.
    pub id: ChunkId,
    /// Its current length, in bytes.
    pub len: u32,
    /// Its stored version.
    pub entry: Entry,
    /// What differs from it.
    pub patch: Option<&'a Patch>,
}

impl ChunkView<'_> {
    /// Whether the bytes of a frame have to be fetched.
    pub fn needs_stored(&self) -> bool {
        !self.entry.is_zero()
    }
}

/// Makes the current bytes of a chunk out of its stored ones (nothing for a zero chunk), and checks them.
///
/// # Errors
/// [`FormatError::WrongChunk`] if the result does not have the chunk's id.
pub fn assemble(view: &ChunkView<'_>, stored_raw: Vec<u8>) -> Result<Vec<u8>, FormatError> {
    let mut raw = stored_raw;
    if view.patch.is_some() || view.entry.is_zero() {
        raw.resize(view.len as usize, 0);
    }
    for range in view.patch.iter().flat_map(|p| &p.ranges) {
        let start = range.offset as usize;
        let slot = raw
            .get_mut(start..start + range.bytes.len())
            .ok_or(FormatError::WrongChunk { index: view.index, id: view.id })?;
        slot.copy_from_slice(&range.bytes);
    }
    if raw.len() != view.len as usize || ChunkId::of(&raw) != view.id {
        return Err(FormatError::WrongChunk { index: view.index, id: view.id });
    }
    Ok(raw)
}

/// How many raw bytes of patches a manifest may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchBudget {
    bytes: u32,
}

impl PatchBudget {
    /// For a database that commits now and then: 64 KiB.
    pub const ORDINARY: Self = Self { bytes: crate::limits::PATCH_BUDGET_BYTES };
    /// For a database that commits all the time: 32 KiB.
    pub const BUSY: Self = Self { bytes: crate::limits::PATCH_BUDGET_BUSY_BYTES };
    /// No patches: every changed chunk goes into a pack.
    pub const NONE: Self = Self { bytes: 0 };

    /// Another budget, at most [`crate::limits::PATCH_BUDGET_MAX_BYTES`].
    pub fn of_bytes(bytes: u32) -> Self {
        Self { bytes: bytes.min(crate::limits::PATCH_BUDGET_MAX_BYTES) }
    }

    /// The budget, in bytes.
    pub fn bytes(self) -> u32 {
        self.bytes
    }
}

/// Ranges of bytes of one chunk, ascending.
pub(crate) type Ranges = Vec<Range<u32>>;
