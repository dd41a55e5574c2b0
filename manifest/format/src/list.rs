//! The chunk list: entries of the manifest itself (the overlay) over leaf nodes, over all zeros; `fold` changes it, `diff` compares two.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entry::Entry;
use crate::error::{FormatError, malformed};
use crate::ids::NodeId;
use crate::limits::{
    CHUNK_LEN_BYTES, FLAT_CHUNKS_MAX, INNER_SLOTS, LEAF_ENTRIES, LEAVES_IN_MANIFEST_MAX,
    OVERLAY_ENTRIES_MAX,
};
use crate::node::{LookupError, Node, NodeRef, NodeSource};

/// The constants of the tree, as values: tests reach deep trees with small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Up to so many chunks there are no nodes.
    pub flat_max: u32,
    /// Chunks in a leaf.
    pub leaf_entries: u32,
    /// With more leaf slots than this, the manifest lists inner nodes.
    pub leaves_max: u32,
    /// Leaf slots in an inner node.
    pub inner_slots: u32,
    /// Entries in the overlay. At least `flat_max`.
    pub overlay_max: u32,
}

impl Shape {
    /// The format's.
    pub const FORMAT: Self = Self {
        flat_max: FLAT_CHUNKS_MAX,
        leaf_entries: LEAF_ENTRIES,
        leaves_max: LEAVES_IN_MANIFEST_MAX,
        inner_slots: INNER_SLOTS,
        overlay_max: OVERLAY_ENTRIES_MAX,
    };

    /// Whether the list of a file of `count` chunks has inner nodes.
    pub fn has_inner(&self, count: u32) -> bool {
        count.div_ceil(self.leaf_entries) > self.leaves_max
    }

    /// Chunks below one node that the manifest lists.
    pub fn top_span(&self, inner: bool) -> u64 {
        u64::from(self.leaf_entries)
            * if inner {
                u64::from(self.inner_slots)
            } else {
                1
            }
    }
}

/// Entries of all chunks of a file.
///
/// Chunk `i` is `overlay[i]`, else (if `i < covered`) what its leaf node says, else zero. Invariants: no zero in the overlay at or
/// beyond `covered`; nothing at or beyond `count`; without nodes if `count <= flat_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkList {
    pub shape: Shape,
    /// Number of chunks of the file.
    pub count: u32,
    /// What nodes say of chunks from here on is stale (the file was shorter meanwhile).
    pub covered: u32,
    /// Whether `nodes` are inner nodes: `shape.has_inner(count)`, except while `fold` works.
    pub inner: bool,
    /// Nodes by slot; a slot without a node is all zero.
    pub nodes: BTreeMap<u32, NodeRef>,
    /// Entries that nodes do not have (yet).
    pub overlay: BTreeMap<u32, Entry>,
}

impl ChunkList {
    pub fn empty(shape: Shape) -> Self {
        Self {
            shape,
            count: 0,
            covered: 0,
            inner: false,
            nodes: BTreeMap::new(),
            overlay: BTreeMap::new(),
        }
    }

    /// The entry of chunk `index`.
    pub fn entry(&self, index: u32, nodes: &dyn NodeSource) -> Result<Entry, LookupError> {
        if let Some(entry) = self.overlay.get(&index) {
            return Ok(*entry);
        }
        let zero = Entry::zero(CHUNK_LEN_BYTES);
        if index >= self.covered {
            return Ok(zero);
        }
        let Some(leaf) = self.leaf_ref(index / self.shape.leaf_entries, nodes)? else {
            return Ok(zero);
        };
        let leaf = load(&leaf, nodes)?;
        let place = (index % self.shape.leaf_entries) as usize;
        Ok(leaf_entries(&leaf)?.get(place).copied().unwrap_or(zero))
    }

    /// Leaf slots that nodes may be believed about.
    pub fn covered_slots(&self) -> u32 {
        self.covered.div_ceil(self.shape.leaf_entries)
    }

    /// The leaf of a slot, if it is not all zero.
    pub fn leaf_ref(
        &self,
        slot: u32,
        nodes: &dyn NodeSource,
    ) -> Result<Option<NodeRef>, LookupError> {
        if slot >= self.covered_slots() {
            return Ok(None);
        }
        if !self.inner {
            return Ok(self.nodes.get(&slot).copied());
        }
        let Some(inner) = self.nodes.get(&(slot / self.shape.inner_slots)) else {
            return Ok(None);
        };
        let inner = load(inner, nodes)?;
        Ok(inner_leaves(&inner)?
            .get(&(slot % self.shape.inner_slots))
            .copied())
    }

    /// The leaves below the node in slot `top` of the manifest, by slot.
    pub fn leaves_below(
        &self,
        top: u32,
        nodes: &dyn NodeSource,
    ) -> Result<BTreeMap<u32, NodeRef>, LookupError> {
        let Some(node) = self.nodes.get(&top) else {
            return Ok(BTreeMap::new());
        };
        if !self.inner {
            return Ok(BTreeMap::from([(top, *node)]));
        }
        let node = load(node, nodes)?;
        let first = top * self.shape.inner_slots;
        let leaves = inner_leaves(&node)?
            .iter()
            .map(|(slot, leaf)| (first + slot, *leaf));
        Ok(leaves
            .filter(|(slot, _)| *slot < self.covered_slots())
            .collect())
    }

    /// All leaves by slot.
    pub fn leaf_refs(&self, nodes: &dyn NodeSource) -> Result<BTreeMap<u32, NodeRef>, LookupError> {
        let mut leaves = BTreeMap::new();
        let mut missing = Missing::default();
        for &top in self.nodes.keys() {
            if let Some(below) = missing.note(self.leaves_below(top, nodes))? {
                leaves.extend(below);
            }
        }
        missing.into_result(leaves)
    }
}

/// The node, from the caller's cache.
pub(crate) fn load(node: &NodeRef, nodes: &dyn NodeSource) -> Result<Arc<Node>, LookupError> {
    nodes
        .node(&node.id)
        .ok_or_else(|| LookupError::Missing(vec![*node]))
}

/// The entries of what must be a leaf.
pub(crate) fn leaf_entries(node: &Node) -> Result<&[Entry], FormatError> {
    match node {
        Node::Leaf(entries) => Ok(entries),
        Node::Inner(_) => Err(malformed(
            "chunk list",
            "an inner node stands where a leaf should",
        )),
    }
}

/// The leaves of what must be an inner node.
pub(crate) fn inner_leaves(node: &Node) -> Result<&BTreeMap<u32, NodeRef>, FormatError> {
    match node {
        Node::Inner(leaves) => Ok(leaves),
        Node::Leaf(_) => Err(malformed(
            "chunk list",
            "a leaf stands where an inner node should",
        )),
    }
}

/// Collects missing nodes, so that the caller can load them all at once.
#[derive(Default)]
pub(crate) struct Missing(BTreeMap<NodeId, NodeRef>);

impl Missing {
    /// `None` if nodes are missing, which are remembered.
    pub fn note<T>(&mut self, result: Result<T, LookupError>) -> Result<Option<T>, LookupError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(LookupError::Missing(nodes)) => {
                self.0.extend(nodes.into_iter().map(|node| (node.id, node)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// `value`, unless nodes are missing.
    pub fn into_result<T>(self, value: T) -> Result<T, LookupError> {
        if self.0.is_empty() {
            return Ok(value);
        }
        Err(LookupError::Missing(self.0.into_values().collect()))
    }
}
