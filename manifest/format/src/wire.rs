//! Between protobuf columns and values: pack tables, entries and sparse lists; `codec` (manifests) and `node` use it.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Entry, FrameRef, Stored};
use crate::error::{FormatError, malformed, within};
use crate::generated as proto;
use crate::ids::{ChunkId, PackId};
use crate::limits::{CHUNK_LEN_BYTES, FRAME_LEN_MAX_BYTES, PACK_LEN_MAX_BYTES};

/// Length of an id.
pub(crate) const ID_LEN: usize = 32;

/// Collects pack ids in the order of their first use, each once.
#[derive(Default)]
pub(crate) struct PackTableWriter {
    bytes: Vec<u8>,
    places: HashMap<PackId, u32>,
}

impl PackTableWriter {
    /// 1 + the place of `pack` in the table.
    fn number_of(&mut self, pack: PackId) -> u32 {
        let next = self.places.len() as u32 + 1;
        *self.places.entry(pack).or_insert_with(|| {
            self.bytes.extend_from_slice(&pack.0);
            next
        })
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A pack table as it was read.
pub(crate) struct PackTable<'a>(&'a [[u8; ID_LEN]]);

impl<'a> PackTable<'a> {
    pub fn new(bytes: &'a [u8], packs_max: usize) -> Result<Self, FormatError> {
        let ids = ids("pack table", bytes)?;
        within("number of packs", ids.len() as u64, packs_max as u64)?;
        Ok(Self(ids))
    }

    fn get(&self, number: u32) -> Result<PackId, FormatError> {
        let place = (number as usize).wrapping_sub(1);
        let id = self
            .0
            .get(place)
            .ok_or(malformed("entries", "a pack is not in the pack table"))?;
        Ok(PackId(*id))
    }
}

/// Splits a column of ids.
pub(crate) fn ids<'a>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<&'a [[u8; ID_LEN]], FormatError> {
    match bytes.as_chunks() {
        (ids, []) => Ok(ids),
        _ => Err(malformed(what, "its length is not a multiple of 32")),
    }
}

/// A frame can be where this says.
pub(crate) fn check_frame(at: &FrameRef) -> Result<(), FormatError> {
    within(
        "length of a frame",
        u64::from(at.len),
        u64::from(FRAME_LEN_MAX_BYTES),
    )?;
    within(
        "end of a frame",
        u64::from(at.offset) + u64::from(at.len),
        PACK_LEN_MAX_BYTES as u64,
    )?;
    if at.len == 0 {
        return Err(malformed("entries", "a frame is empty"));
    }
    Ok(())
}

pub(crate) fn encode_entries<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    table: &mut PackTableWriter,
) -> proto::Entries {
    let mut columns = proto::Entries::default();
    for entry in entries {
        match entry.stored {
            Stored::Zero => columns.packs.push(0),
            Stored::Frame(at) => {
                columns.packs.push(table.number_of(at.pack));
                columns.ids.extend_from_slice(&entry.id.0);
                columns.offsets.push(at.offset);
                columns.lens.push(at.len);
            }
        }
    }
    columns
}

/// Zero entries come out with the id of a full chunk of zeros; `ChunkList::entry` adapts it to the chunk's length.
pub(crate) fn decode_entries(
    columns: &proto::Entries,
    table: &PackTable<'_>,
    entries_max: usize,
) -> Result<Vec<Entry>, FormatError> {
    within(
        "number of entries",
        columns.packs.len() as u64,
        entries_max as u64,
    )?;
    let stored = columns.packs.iter().filter(|&&number| number != 0).count();
    let ids = ids("entries", &columns.ids)?;
    if ids.len() != stored || columns.offsets.len() != stored || columns.lens.len() != stored {
        return Err(malformed("entries", "the columns have different lengths"));
    }
    let mut places = ids.iter().zip(&columns.offsets).zip(&columns.lens);
    let mut entries = Vec::with_capacity(columns.packs.len());
    for &number in &columns.packs {
        if number == 0 {
            entries.push(Entry::zero(CHUNK_LEN_BYTES));
        } else if let Some(((id, &offset), &len)) = places.next() {
            let at = FrameRef {
                pack: table.get(number)?,
                offset,
                len,
            };
            check_frame(&at)?;
            entries.push(Entry {
                id: ChunkId(*id),
                stored: Stored::Frame(at),
            });
        }
    }
    Ok(entries)
}

pub(crate) fn encode_sparse(
    entries: impl Iterator<Item = (u32, Entry)>,
    table: &mut PackTableWriter,
) -> proto::Sparse {
    let (places, entries): (Vec<u32>, Vec<Entry>) = entries.unzip();
    proto::Sparse {
        gaps: encode_gaps(places),
        entries: Some(encode_entries(&entries, table)),
    }
}

/// `places` bounds what the list may hold: all of them are smaller.
pub(crate) fn decode_sparse(
    sparse: Option<&proto::Sparse>,
    table: &PackTable<'_>,
    entries_max: usize,
    places: u32,
) -> Result<BTreeMap<u32, Entry>, FormatError> {
    let Some(sparse) = sparse else {
        return Ok(BTreeMap::new());
    };
    let entries = match &sparse.entries {
        Some(columns) => decode_entries(columns, table, entries_max)?,
        None => Vec::new(),
    };
    if sparse.gaps.len() != entries.len() {
        return Err(malformed(
            "sparse list",
            "the columns have different lengths",
        ));
    }
    Ok(decode_gaps(&sparse.gaps, places)?
        .into_iter()
        .zip(entries)
        .collect())
}

/// Ascending numbers as the gaps between them.
pub(crate) fn encode_gaps(places: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut next = 0;
    let gap = |place| {
        let gap = place - next;
        next = place + 1;
        gap
    };
    places.into_iter().map(gap).collect()
}

/// Gaps can only give strictly ascending numbers; all of them must be below `places`.
pub(crate) fn decode_gaps(gaps: &[u32], places: u32) -> Result<Vec<u32>, FormatError> {
    let mut next = 0u64;
    let place = |&gap: &u32| {
        let place = next + u64::from(gap);
        next = place + 1;
        u32::try_from(place)
            .ok()
            .filter(|&p| p < places)
            .ok_or(malformed("sparse list", "an index is beyond the end"))
    };
    gaps.iter().map(place).collect()
}
