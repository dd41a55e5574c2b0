//! "Update, patch, evict, fold" equals "build from scratch", and diff equals brute force, for any sequence of commits.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;

use super::files::{Commit, apply, commits, tell};
use super::world::{CHUNK, SMALL, World, from_scratch, identity};
use crate::list::Shape;
use crate::*;

/// Ranges of chunks that differ, by looking at all of them.
fn differing(old: &[u8], new: &[u8]) -> Vec<Range<u32>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.chunks(CHUNK).collect(), new.chunks(CHUNK).collect());
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for i in (0..old.len().max(new.len())).filter(|&i| old.get(i) != new.get(i)) {
        match ranges.last_mut() {
            Some(last) if last.end == i as u32 => last.end += 1,
            _ => ranges.push(i as u32..i as u32 + 1),
        }
    }
    ranges
}

fn check_limits(manifest: &Manifest, budget: PatchBudget, world: &World) {
    let (list, shape) = (&manifest.list, manifest.list.shape);
    assert!(list.overlay.len() <= shape.overlay_max as usize);
    assert!(list.count > shape.flat_max || list.nodes.is_empty());
    assert!(!list.inner || list.count.div_ceil(shape.leaf_entries) > shape.leaves_max);
    let cost: u64 = manifest.patches.values().map(Patch::cost).sum();
    assert!(cost <= u64::from(budget.bytes()));

    let mut named = BTreeSet::new();
    for index in (0..manifest.chunk_count()).map(ChunkIndex) {
        let entry = world.lookup(|nodes| Ok(manifest.chunk(index, nodes)?.entry));
        named.extend(entry.pack());
    }
    let nodes = world.lookup(|nodes| manifest.node_refs(nodes));
    named.extend(nodes.iter().map(|node| node.at.pack));
    let all = world.lookup(|nodes| manifest.pack_ids(nodes));
    assert!(all.is_superset(&named));
    assert!(all.iter().all(|pack| world.packs.contains_key(pack)));
}

fn run(commits: &[Commit], shape: Shape) {
    let mut world = World::default();
    let mut manifests = vec![Manifest::empty_shaped(identity(), Generation(0), shape)];
    let mut history = vec![Vec::new()];
    for commit in commits {
        let (base, old) = (&manifests[manifests.len() - 1], &history[history.len() - 1]);
        let new = apply(&history, commit);
        let next = tell(old, &new, commit, &mut world);
        let manifest = world.update(base, &next, commit.budget);
        assert_eq!(manifest.generation().0, base.generation().0 + 1);
        assert!(world.read(&manifest) == new);
        check_limits(&manifest, commit.budget, &world);

        let empty = Manifest::empty_shaped(identity(), Generation(0), shape);
        let scratch = world.update(&empty, &from_scratch(&new, 4_096), PatchBudget::NONE);
        assert!(world.read(&scratch) == new);
        assert_eq!(world.lookup(|nodes| manifest.diff(&scratch, nodes)), []);

        for (older, file) in manifests.iter().zip(&history) {
            assert_eq!(
                world.lookup(|nodes| older.diff(&manifest, nodes)),
                differing(file, &new)
            );
            assert_eq!(
                world.lookup(|nodes| manifest.diff(older, nodes)),
                differing(&new, file)
            );
        }
        manifests.push(manifest);
        history.push(new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn updates_equal_building_from_scratch_in_a_small_tree(commits in commits()) {
        run(&commits, SMALL);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn updates_equal_building_from_scratch_in_the_formats_tree(commits in commits()) {
        run(&commits, Shape::FORMAT);
    }
}
