//! The chunk list alone, with entries that nobody stored: thousands of histories of a small tree, where `updates` affords few.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;

use super::world::{SMALL, identity, source};
use crate::*;

/// 7 inner slots of 3 leaf slots of 4 chunks.
const COUNT_MAX: u32 = 84;

/// A new number of chunks, and new entries: 0 is zero.
type Commit = (u32, Vec<(u32, u8)>);

fn commits() -> impl Strategy<Value = Vec<Commit>> {
    let count = prop_oneof![0..12u32, 0..=COUNT_MAX, Just(COUNT_MAX)];
    let run = (0..COUNT_MAX, 1..9u32, 0..4u8).prop_map(|(first, len, version)| {
        (first..first + len).map(|index| (index, version)).collect()
    });
    let single = (0..COUNT_MAX, 0..4u8).prop_map(|change| vec![change]);
    let changes = prop::collection::vec(prop_oneof![2 => run, 3 => single], 0..5);
    prop::collection::vec(
        (
            count,
            changes.prop_map(|changes: Vec<Vec<_>>| changes.concat()),
        ),
        1..12,
    )
}

fn entry(index: u32, version: u8) -> Entry {
    if version == 0 {
        return Entry::zero(CHUNK_LEN_BYTES);
    }
    let id = ChunkId::of(&[index as u8, version]);
    Entry {
        id,
        stored: Stored::Frame(FrameRef {
            pack: PackId([version; 32]),
            offset: index,
            len: 1,
        }),
    }
}

fn differing(old: &[u8], new: &[u8]) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for i in (0..old.len().max(new.len())).filter(|&i| old.get(i) != new.get(i)) {
        match ranges.last_mut() {
            Some(last) if last.end == i as u32 => last.end += 1,
            _ => ranges.push(i as u32..i as u32 + 1),
        }
    }
    ranges
}

/// Nodes that were asked for may be any of the past.
fn run(commits: &[Commit]) {
    let mut nodes: HashMap<NodeId, Arc<Node>> = HashMap::new();
    let chunks: HashMap<ChunkId, bytes::Bytes> = HashMap::new();
    let mut history = vec![(
        Manifest::empty_shaped(identity(), Generation(0), SMALL),
        Vec::new(),
    )];
    for (count, changes) in commits {
        let (base, old) = &history[history.len() - 1];
        let mut model: Vec<u8> = old.clone();
        model.resize(*count as usize, 0);
        let changes: BTreeMap<u32, u8> = changes.iter().copied().collect();
        for (&index, &version) in changes.range(..count) {
            model[index as usize] = version;
        }
        let stored = changes
            .iter()
            .map(|(&i, &version)| (ChunkIndex(i), Change::Stored(entry(i, version))))
            .collect();
        let next = NextState {
            source: source(*count as usize * 65_536, 4_096),
            changes: stored,
        };
        let updated = base
            .update(&next, &nodes, &chunks, PatchBudget::NONE)
            .unwrap();
        nodes.extend(
            updated
                .nodes
                .iter()
                .map(|(node, decoded)| (node.id, decoded.clone())),
        );

        let manifest = Manifest::decode_shaped(&updated.manifest.encode().unwrap(), SMALL).unwrap();
        assert_eq!(manifest, updated.manifest);
        assert!(manifest.list.overlay.len() <= SMALL.overlay_max as usize);
        for (index, version) in (0..).zip(&model) {
            assert_eq!(
                manifest.chunk(ChunkIndex(index), &nodes).unwrap().entry,
                entry(index, *version)
            );
        }
        for (older, old) in &history {
            assert_eq!(older.diff(&manifest, &nodes), Ok(differing(old, &model)));
            assert_eq!(manifest.diff(older, &nodes), Ok(differing(&model, old)));
        }
        history.push((manifest, model));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn any_history_of_a_chunk_list_equals_a_plain_list(commits in commits()) {
        run(&commits);
    }
}
