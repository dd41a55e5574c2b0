//! Nodes of the chunk list: leaves of 1,024 entries and inner nodes of 1,024 leaves; `fold` writes them into packs, `list` reads them through a [`NodeSource`].

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::entry::{Entry, FrameRef};
use crate::error::FormatError;
use crate::ids::NodeId;

/// Names a node and says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// BLAKE3 of its raw bytes.
    pub id: NodeId,
    /// The frame that holds them.
    pub at: FrameRef,
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The entries of consecutive chunks; those that are missing at the end are zero.
    Leaf(Vec<Entry>),
    /// References to leaf nodes by slot; those that are missing are all zero.
    Inner(BTreeMap<u32, NodeRef>),
}

/// Where decoded nodes come from: the caller's cache.
pub trait NodeSource {
    /// The node, if it was loaded.
    fn node(&self, id: &NodeId) -> Option<Arc<Node>>;
}

impl<S: BuildHasher> NodeSource for HashMap<NodeId, Arc<Node>, S> {
    fn node(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.get(id).cloned()
    }
}

/// Why something could not be looked up in a chunk list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// These nodes are not in the [`NodeSource`]: load them and call again.
    #[error("{} nodes of the chunk list have to be loaded first", .0.len())]
    Missing(Vec<NodeRef>),
    /// A node contradicts the manifest.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Node {
    /// Decodes the raw (decompressed) bytes of a node, and checks them against their id.
    ///
    /// # Errors
    /// If the bytes do not have that id, contradict themselves or exceed a limit.
    pub fn decode(reference: &NodeRef, raw: &[u8]) -> Result<Self, FormatError> {
        let _ = (reference, raw);
        todo!()
    }
}
