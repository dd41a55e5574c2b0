//! Inline patches: what of a chunk differs from its stored version; `update` makes and evicts them, `codec` stores them, readers call [`assemble`].

use std::ops::Range;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::FormatError;
use crate::ids::{ChunkId, ChunkIndex, Generation};
use crate::limits::{
    PATCH_BUDGET_BUSY_BYTES, PATCH_BUDGET_BYTES, PATCH_BUDGET_MAX_BYTES, PATCH_LEN_MAX_BYTES,
    PATCH_OVERHEAD_BYTES,
};
use crate::pages::patch_unit;
use crate::update::Written;

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
        let slot =
            raw.get_mut(start..start + range.bytes.len())
                .ok_or(FormatError::WrongChunk {
                    index: view.index,
                    id: view.id,
                })?;
        slot.copy_from_slice(&range.bytes);
    }
    if raw.len() != view.len as usize || ChunkId::of(&raw) != view.id {
        return Err(FormatError::WrongChunk {
            index: view.index,
            id: view.id,
        });
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
    pub const ORDINARY: Self = Self {
        bytes: PATCH_BUDGET_BYTES,
    };
    /// For a database that commits all the time: 32 KiB.
    pub const BUSY: Self = Self {
        bytes: PATCH_BUDGET_BUSY_BYTES,
    };
    /// No patches: every changed chunk goes into a pack.
    pub const NONE: Self = Self { bytes: 0 };

    /// Another budget, at most [`crate::limits::PATCH_BUDGET_MAX_BYTES`].
    pub fn of_bytes(bytes: u32) -> Self {
        Self {
            bytes: bytes.min(PATCH_BUDGET_MAX_BYTES),
        }
    }

    /// The budget, in bytes.
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// The largest patch that is worthwhile: one that leaves room for others.
    pub(crate) fn patch_len_max(self) -> u32 {
        PATCH_LEN_MAX_BYTES.min(self.bytes / 2)
    }
}

impl Patch {
    /// What it costs against the budget.
    pub(crate) fn cost(&self) -> u64 {
        u64::from(PATCH_OVERHEAD_BYTES)
            + self
                .ranges
                .iter()
                .map(|range| range.bytes.len() as u64)
                .sum::<u64>()
    }

    /// Takes the ranges of a chunk's new `content`, which the patch then need not keep alive.
    pub(crate) fn new(
        id: ChunkId,
        touched: Generation,
        ranges: &[Range<u32>],
        content: &[u8],
    ) -> Self {
        let range = |range: &Range<u32>| PatchedRange {
            offset: range.start,
            bytes: Bytes::copy_from_slice(&content[range.start as usize..range.end as usize]),
        };
        Self {
            id,
            touched,
            ranges: ranges.iter().map(range).collect(),
        }
    }
}

/// What may differ from the stored version: what did before, what was written since, and what lies beyond the old end. Whole pages,
/// ascending, not touching each other, none beyond `len`.
pub(crate) fn patched_ranges(
    old: Option<&Patch>,
    old_len: u32,
    written: &Written,
    len: u32,
    page_size: u32,
) -> Vec<Range<u32>> {
    let unit = patch_unit(page_size);
    let mut ranges = match written {
        Written::Unknown => vec![0..len],
        Written::Ranges(ranges) => ranges.clone(),
    };
    ranges.extend(
        old.iter()
            .flat_map(|patch| &patch.ranges)
            .map(|r| r.offset..r.offset + r.bytes.len() as u32),
    );
    ranges.push(old_len..len);
    ranges.retain(|range| range.start < range.end && range.start < len);
    for range in &mut ranges {
        range.start -= range.start % unit;
        range.end = range
            .end
            .checked_next_multiple_of(unit)
            .unwrap_or(len)
            .min(len);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    ranges
}
