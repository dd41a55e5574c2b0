//! Chunks: what a store gives and what a manifest patches become a chunk's bytes, which have its id; or an error.

use bolero::generator::TypeGenerator;
use verneuil_format::{
    ChunkId, ChunkIndex, ChunkView, Entry, FrameRef, Generation, PackId, Patch, PatchedRange,
    Stored, assemble,
};
use verneuil_fuzz::memory::bounded;

/// A chunk of at most so many bytes: short ones have all the borders that long ones have.
const CHUNK_LEN_MAX: u32 = 600;
/// A chunk that is put together is held once more, at most.
const ASSEMBLED_BYTES: usize = 65_536 + 4_096;

#[derive(Clone, Debug, TypeGenerator)]
struct Case {
    /// What the store gave, if the chunk is stored at all.
    stored: Option<Vec<u8>>,
    len: u16,
    /// Offset and bytes.
    ranges: Option<Vec<(u16, Vec<u8>)>>,
    right_id: bool,
}

/// The same by another way: what docs/FORMAT.md says.
fn expected(case: &Case, len: u32) -> Option<Vec<u8>> {
    let mut bytes = case.stored.clone().unwrap_or_default();
    if case.ranges.is_some() || case.stored.is_none() {
        bytes.resize(len as usize, 0);
    }
    for (offset, range) in case.ranges.iter().flatten() {
        let (start, end) = (usize::from(*offset), usize::from(*offset) + range.len());
        if end > bytes.len() {
            return None;
        }
        for (at, byte) in (start..end).zip(range) {
            bytes[at] = *byte;
        }
    }
    (bytes.len() == len as usize).then_some(bytes)
}

#[test]
fn a_chunk_has_its_id_or_is_an_error() {
    bolero::check!(name = "chunk")
        .with_test_time(verneuil_fuzz::TEST_TIME)
        .with_iterations(verneuil_fuzz::TEST_ITERATIONS)
        .with_max_len(verneuil_fuzz::INPUT_LEN_MAX_BYTES)
        .with_type::<Case>()
        .for_each(|case: &Case| {
            let len = u32::from(case.len) % CHUNK_LEN_MAX;
            let expected = expected(case, len);
            let id = match &expected {
                Some(bytes) if case.right_id => ChunkId::of(bytes),
                _ => ChunkId([7; 32]),
            };
            let ranges = |ranges: &Vec<(u16, Vec<u8>)>| {
                let range = |(offset, bytes): &(u16, Vec<u8>)| PatchedRange {
                    offset: u32::from(*offset),
                    bytes: bytes.clone().into(),
                };
                ranges.iter().map(range).collect()
            };
            let patch = case.ranges.as_ref().map(|all| Patch {
                id,
                touched: Generation(1),
                ranges: ranges(all),
            });
            let at = FrameRef {
                pack: PackId([0; 32]),
                offset: 0,
                len: 1,
            };
            let stored = case
                .stored
                .as_ref()
                .map_or(Stored::Zero, |_| Stored::Frame(at));
            let view = ChunkView {
                index: ChunkIndex(3),
                id,
                len,
                entry: Entry { id, stored },
                patch: patch.as_ref(),
            };
            let raw = case.stored.clone().unwrap_or_default();
            let given = raw.len();
            let made = bounded("assembling a chunk", given, 2, ASSEMBLED_BYTES, || {
                assemble(&view, raw)
            });
            match (made, expected.filter(|_| case.right_id)) {
                (Ok(made), Some(expected)) => assert_eq!(made, expected),
                (Err(error), None) => crate::says_something(&error),
                (made, expected) => panic!("{made:?} instead of {expected:?}"),
            }
        });
}
