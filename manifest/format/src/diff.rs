//! What differs between two manifests, node by node: readers ask it which pages to drop when a newer manifest arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::ids::{ChunkIndex, chunk_len};
use crate::list::{ChunkList, Missing};
use crate::manifest::Manifest;
use crate::node::{LookupError, NodeRef, NodeSource};

impl Manifest {
    /// Ranges of chunks (ascending, apart) whose content differs, or that only one of the two has.
    ///
    /// # Errors
    /// [`LookupError::Missing`] if nodes have to be loaded first: only those that differ (at most twice: inner nodes, then leaves).
    pub fn diff(
        &self,
        newer: &Self,
        nodes: &dyn NodeSource,
    ) -> Result<Vec<Range<u32>>, LookupError> {
        // Below this, both have all chunks; from here on, one has them.
        let common = self.list.count.min(newer.list.count);
        let mut candidates = BTreeSet::new();
        for manifest in [self, newer] {
            candidates.extend(manifest.list.overlay.keys().copied());
            candidates.extend(manifest.patches.keys().copied());
            // Its length may differ, and then its content does.
            candidates.extend(manifest.list.count.checked_sub(1));
        }
        let leaf_entries = self.list.shape.leaf_entries;
        let differing = differing_slots(&self.list, &newer.list, nodes)?;
        for slot in &differing {
            let first = slot * leaf_entries;
            candidates.extend(first..first.saturating_add(leaf_entries).min(common));
        }

        let mut ranges: Vec<Range<u32>> = Vec::new();
        let mut missing = Missing::default();
        for &index in candidates.range(..common) {
            let same_leaf = !differing.contains(&(index / leaf_entries));
            if let Some(true) = missing.note(self.differs_at(newer, index, same_leaf, nodes))? {
                push(&mut ranges, index..index + 1);
            }
        }
        push(&mut ranges, common..self.list.count.max(newer.list.count));
        missing.into_result(ranges)
    }

    /// Whether a chunk that both have differs. An ordinary commit only patches chunks: that needs no nodes.
    fn differs_at(
        &self,
        newer: &Self,
        index: u32,
        same_leaf: bool,
        nodes: &dyn NodeSource,
    ) -> Result<bool, LookupError> {
        let at = ChunkIndex(index);
        if chunk_len(self.file_len(), at) != chunk_len(newer.file_len(), at) {
            return Ok(true);
        }
        let same_entry =
            same_leaf && self.list.overlay.get(&index) == newer.list.overlay.get(&index);
        match (self.patches.get(&index), newer.patches.get(&index)) {
            (Some(old), Some(new)) => Ok(old.id != new.id),
            // A patch always makes a difference to the stored version (else `step` drops it).
            (Some(_), None) | (None, Some(_)) if same_entry => Ok(true),
            (None, None) if same_entry => Ok(false),
            _ => {
                let old = self.chunk(at, nodes);
                let new = newer.chunk(at, nodes);
                let mut missing = Missing::default();
                let (old, new) = (missing.note(old)?, missing.note(new)?);
                missing.into_result(old.map(|view| view.id) != new.map(|view| view.id))
            }
        }
    }
}

/// Slots of leaves that are not the same in both lists.
fn differing_slots(
    old: &ChunkList,
    new: &ChunkList,
    nodes: &dyn NodeSource,
) -> Result<BTreeSet<u32>, LookupError> {
    let mut missing = Missing::default();
    let mut leaves = [BTreeMap::new(), BTreeMap::new()];
    // An inner node that both have in the same place need not be looked into, if it is believed about the same chunks.
    let same = |top: &u32, node: &NodeRef| {
        let end = (u64::from(*top) + 1) * old.shape.top_span(true);
        let believed_alike =
            old.covered == new.covered || end <= u64::from(old.covered.min(new.covered));
        old.inner == new.inner
            && believed_alike
            && old.nodes.get(top) == Some(node)
            && new.nodes.get(top) == Some(node)
    };
    for (list, leaves) in [old, new].into_iter().zip(&mut leaves) {
        for (top, _) in list.nodes.iter().filter(|(top, node)| !same(top, node)) {
            if let Some(below) = missing.note(list.leaves_below(*top, nodes))? {
                leaves.extend(below);
            }
        }
    }
    let [old_leaves, new_leaves] = leaves;
    let slots: BTreeSet<u32> = old_leaves
        .keys()
        .chain(new_leaves.keys())
        .copied()
        .collect();
    // A leaf on the border of what one list believes of it is not the same leaf to both.
    let border = old.covered.min(new.covered) / old.shape.leaf_entries;
    let differs = |slot: &u32| {
        old_leaves.get(slot) != new_leaves.get(slot)
            || (*slot == border && old.covered != new.covered)
    };
    missing.into_result(slots.into_iter().filter(differs).collect())
}

/// Appends a range, joined to the last one where they touch.
fn push(ranges: &mut Vec<Range<u32>>, range: Range<u32>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}
