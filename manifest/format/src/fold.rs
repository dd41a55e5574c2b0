//! Changes of the chunk list in O(changes): `update` calls [`ChunkList::edit`]; a full overlay is folded into the leaf nodes that it touches most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::entry::{Entry, FrameRef, Stored};
use crate::error::FormatError;
use crate::ids::{ChunkId, NodeId, PackId};
use crate::limits::CHUNK_LEN_BYTES;
use crate::list::{ChunkList, Missing, leaf_entries, load};
use crate::node::{LookupError, Node, NodeRef, NodeSource};
use crate::pack::{Pack, PackBuilder};

/// A change of the list, of which all is known but the places of the chunks that are still to be packed.
pub(crate) struct ListEdit {
    list: ChunkList,
    /// What the nodes were believed about before the fold.
    covered_before: u32,
    /// Leaves to be written: their slots, and what they were.
    folds: BTreeMap<u32, Option<Arc<Node>>>,
    /// Inner nodes to be written: their slots, and the leaves that they have so far (by slot in the file).
    inners: BTreeMap<u32, BTreeMap<u32, NodeRef>>,
}

/// The changed list.
pub(crate) struct Edited {
    pub list: ChunkList,
    pub packs: Vec<Pack>,
    pub nodes: Vec<(NodeRef, Arc<Node>)>,
}

impl ChunkList {
    /// Decides what becomes of the list when the file has `count` chunks and `changes` have new entries; `None` for those that will be
    /// known when [`ListEdit::finish`] is called.
    ///
    /// # Errors
    /// [`LookupError::Missing`] if nodes have to be loaded first.
    pub fn edit(
        &self,
        count: u32,
        changes: &BTreeMap<u32, Option<Entry>>,
        nodes: &dyn NodeSource,
    ) -> Result<ListEdit, LookupError> {
        let mut list = self.clone();
        list.resize(count);
        for (&index, entry) in changes {
            match entry {
                Some(entry) if entry.is_zero() && index >= list.covered => {
                    list.overlay.remove(&index)
                }
                Some(entry) if entry.is_zero() => {
                    list.overlay.insert(index, Entry::zero(CHUNK_LEN_BYTES))
                }
                Some(entry) => list.overlay.insert(index, *entry),
                None => list.overlay.insert(index, UNKNOWN),
            };
        }
        if count <= list.shape.flat_max {
            list.flatten(nodes)?;
        }
        let folds = list.choose_folds();
        let covered_before = list.covered;
        if let Some(&last) = folds.last() {
            let end = (u64::from(last) + 1) * u64::from(list.shape.leaf_entries);
            list.covered = list.covered.max(end.min(u64::from(count)) as u32);
        }
        let edit = ListEdit {
            list,
            covered_before,
            folds: BTreeMap::new(),
            inners: BTreeMap::new(),
        };
        edit.load_nodes(&folds, nodes)
    }

    /// Forgets what lies beyond a new end.
    fn resize(&mut self, count: u32) {
        if count < self.count {
            self.overlay.split_off(&count);
            self.covered = self.covered.min(count);
            let (covered, span) = (u64::from(self.covered), self.shape.top_span(self.inner));
            self.nodes
                .retain(|&slot, _| u64::from(slot) * span < covered);
        }
        self.count = count;
    }

    /// Moves what the leaves say into the overlay, for a file that has become small.
    fn flatten(&mut self, nodes: &dyn NodeSource) -> Result<(), LookupError> {
        let mut missing = Missing::default();
        for (slot, leaf) in self.leaf_refs(nodes)? {
            let Some(leaf) = missing.note(load(&leaf, nodes))? else {
                continue;
            };
            let first = slot * self.shape.leaf_entries;
            for (index, entry) in (first..self.covered).zip(leaf_entries(&leaf)?) {
                self.overlay.entry(index).or_insert(*entry);
            }
        }
        missing.into_result(())?;
        self.overlay.retain(|_, entry| !entry.is_zero());
        self.nodes.clear();
        self.covered = 0;
        Ok(())
    }

    /// The leaf slots into which the overlay is folded: none unless it is full; then those that it touches most (of equals, the
    /// first), until half of it is left.
    fn choose_folds(&self) -> BTreeSet<u32> {
        let mut left = self.overlay.len();
        if left <= self.shape.overlay_max as usize {
            return BTreeSet::new();
        }
        let mut touched = BTreeMap::new();
        for index in self.overlay.keys() {
            *touched
                .entry(index / self.shape.leaf_entries)
                .or_insert(0usize) += 1;
        }
        let mut slots: Vec<(Reverse<usize>, u32)> = touched
            .into_iter()
            .map(|(slot, n)| (Reverse(n), slot))
            .collect();
        slots.sort_unstable();
        let mut folds = BTreeSet::new();
        for (Reverse(n), slot) in slots {
            if left <= self.shape.overlay_max as usize / 2 {
                break;
            }
            left -= n;
            folds.insert(slot);
        }
        // When nodes come to be believed about more chunks, the leaf on the old border loses what is stale in it.
        let border = self.covered / self.shape.leaf_entries;
        if !self.covered.is_multiple_of(self.shape.leaf_entries)
            && folds.last().is_some_and(|&last| last > border)
        {
            folds.insert(border);
        }
        folds
    }
}

impl ListEdit {
    /// Loads the nodes that will be rewritten, and converts between lists with and without inner nodes.
    fn load_nodes(
        mut self,
        folds: &BTreeSet<u32>,
        nodes: &dyn NodeSource,
    ) -> Result<Self, LookupError> {
        let mut before = self.list.clone();
        before.covered = self.covered_before;
        let mut missing = Missing::default();
        for &slot in folds {
            let leaf = before
                .leaf_ref(slot, nodes)
                .and_then(|leaf| leaf.map(|leaf| load(&leaf, nodes)).transpose());
            if let Some(leaf) = missing.note(leaf)? {
                self.folds.insert(slot, leaf);
            }
        }

        let list = &mut self.list;
        list.inner = list.shape.has_inner(list.count);
        match (before.inner, list.inner) {
            (true, true) => {
                let per_inner = list.shape.inner_slots;
                let mut tops: BTreeSet<u32> = folds.iter().map(|slot| slot / per_inner).collect();
                // As with leaves: the inner node on the old border must not bring back stale leaves.
                let border = before.covered_slots();
                if list.covered_slots() > border && !border.is_multiple_of(per_inner) {
                    tops.insert(border / per_inner);
                }
                for top in tops {
                    if let Some(leaves) = missing.note(before.leaves_below(top, nodes))? {
                        self.inners.insert(top, leaves);
                    }
                }
            }
            (false, true) => {
                for (slot, leaf) in std::mem::take(&mut list.nodes) {
                    self.inners
                        .entry(slot / list.shape.inner_slots)
                        .or_default()
                        .insert(slot, leaf);
                }
                for slot in folds {
                    self.inners
                        .entry(slot / list.shape.inner_slots)
                        .or_default();
                }
            }
            (true, false) => {
                if let Some(leaves) = missing.note(before.leaf_refs(nodes))? {
                    list.nodes = leaves;
                }
            }
            (false, false) => {}
        }
        missing.into_result(self)
    }

    /// The changed list, now that all entries are known, and its new nodes in packs.
    ///
    /// # Errors
    /// If a node cannot be compressed.
    pub fn finish(self, packed: &BTreeMap<u32, Entry>) -> Result<Edited, FormatError> {
        let Self {
            mut list,
            covered_before,
            folds,
            inners,
        } = self;
        for (index, entry) in packed {
            list.overlay.insert(*index, *entry);
        }
        let mut edited = Edited {
            list: ChunkList::empty(list.shape),
            packs: Vec::new(),
            nodes: Vec::new(),
        };

        let mut leaves = BTreeMap::new();
        for (slot, old) in folds {
            let old = old
                .as_deref()
                .map(leaf_entries)
                .transpose()?
                .unwrap_or_default();
            leaves.insert(slot, Node::Leaf(list.take_leaf(slot, old, covered_before)));
        }
        let leaves = edited.write(leaves)?;

        if list.inner {
            let mut nodes = inners;
            for (slot, leaf) in leaves {
                set(
                    nodes.entry(slot / list.shape.inner_slots).or_default(),
                    slot,
                    leaf,
                );
            }
            let per_inner = list.shape.inner_slots;
            let local = |(slot, leaf)| (slot % per_inner, leaf);
            let inner = |(top, below): (u32, BTreeMap<_, _>)| {
                (top, Node::Inner(below.into_iter().map(local).collect()))
            };
            for (top, node) in edited.write(nodes.into_iter().map(inner).collect())? {
                set(&mut list.nodes, top, node);
            }
        } else {
            for (slot, leaf) in leaves {
                set(&mut list.nodes, slot, leaf);
            }
        }
        edited.list = list;
        Ok(edited)
    }
}

impl ChunkList {
    /// The entries of a leaf to be written; those in the overlay leave it. Zeros at the end are not listed.
    fn take_leaf(&mut self, slot: u32, old: &[Entry], covered_before: u32) -> Vec<Entry> {
        let zero = Entry::zero(CHUNK_LEN_BYTES);
        let first = slot * self.shape.leaf_entries;
        let end = self
            .covered
            .min(first.saturating_add(self.shape.leaf_entries));
        let mut entries = Vec::with_capacity(self.shape.leaf_entries as usize);
        for index in first..end {
            let old = old
                .get((index - first) as usize)
                .filter(|_| index < covered_before);
            entries.push(self.overlay.remove(&index).or(old.copied()).unwrap_or(zero));
        }
        while entries.pop_if(|entry| entry.is_zero()).is_some() {}
        entries
    }
}

impl Edited {
    /// Writes nodes into packs of their own; `None` for those that are all zero.
    fn write(
        &mut self,
        nodes: BTreeMap<u32, Node>,
    ) -> Result<BTreeMap<u32, Option<NodeRef>>, FormatError> {
        let (empty, full): (BTreeMap<_, _>, BTreeMap<_, _>) =
            nodes.into_iter().partition(|(_, node)| node.is_empty());
        let mut refs: BTreeMap<u32, Option<NodeRef>> =
            empty.into_keys().map(|slot| (slot, None)).collect();
        let mut full = full.into_iter().peekable();
        while full.peek().is_some() {
            let mut builder = PackBuilder::new();
            let mut written = Vec::new();
            while !builder.is_full()
                && let Some((slot, node)) = full.next()
            {
                let raw = node.encode();
                builder.push(&raw)?;
                written.push((slot, NodeId::of(&raw), node));
            }
            let pack = builder.finish();
            for ((slot, id, node), at) in written.into_iter().zip(&pack.frames) {
                let reference = NodeRef { id, at: *at };
                refs.insert(slot, Some(reference));
                self.nodes.push((reference, Arc::new(node)));
            }
            self.packs.push(pack);
        }
        Ok(refs)
    }
}

/// Stands in the overlay until the chunk is packed; it only has to be other than zero.
const UNKNOWN: Entry = Entry {
    id: ChunkId([0; 32]),
    stored: Stored::Frame(FrameRef {
        pack: PackId([0; 32]),
        offset: 0,
        len: 0,
    }),
};

fn set(nodes: &mut BTreeMap<u32, NodeRef>, slot: u32, node: Option<NodeRef>) {
    match node {
        Some(node) => nodes.insert(slot, node),
        None => nodes.remove(&slot),
    };
}
