//! Nodes of the chunk list: leaves of 1,024 entries and inner nodes of 1,024 leaves; `fold` writes them into packs, `list` reads them through a [`NodeSource`].

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use prost::Message;

use crate::entry::{Entry, FrameRef, Stored};
use crate::error::{FormatError, malformed, within};
use crate::generated as proto;
use crate::ids::{ChunkId, NodeId};
use crate::limits::{INNER_SLOTS, LEAF_ENTRIES, NODE_LEN_MAX_BYTES};
use crate::wire::{
    PackTable, PackTableWriter, decode_entries, decode_sparse, encode_entries, encode_sparse,
};

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
        within(
            "length of a node",
            raw.len() as u64,
            NODE_LEN_MAX_BYTES as u64,
        )?;
        if NodeId::of(raw) != reference.id {
            return Err(FormatError::WrongNode { id: reference.id });
        }
        Self::parse(raw)
    }

    /// Any bytes give a node or an error.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, FormatError> {
        let node =
            proto::Node::decode(raw).map_err(|_| malformed("node", "it is not valid protobuf"))?;
        let table = PackTable::new(&node.packs, LEAF_ENTRIES.max(INNER_SLOTS) as usize)?;
        match (&node.entries, &node.leaves) {
            (Some(entries), None) => Ok(Self::Leaf(decode_entries(
                entries,
                &table,
                LEAF_ENTRIES as usize,
            )?)),
            (None, Some(leaves)) => {
                let leaves =
                    decode_sparse(Some(leaves), &table, INNER_SLOTS as usize, INNER_SLOTS)?;
                Ok(Self::Inner(node_refs(leaves)?))
            }
            _ => Err(malformed("node", "it is neither a leaf nor an inner node")),
        }
    }

    /// The raw bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut table = PackTableWriter::default();
        let mut node = proto::Node::default();
        match self {
            Self::Leaf(entries) => node.entries = Some(encode_entries(entries, &mut table)),
            Self::Inner(leaves) => {
                node.leaves = Some(encode_sparse(
                    leaves.iter().map(|(slot, leaf)| (*slot, as_entry(leaf))),
                    &mut table,
                ));
            }
        }
        node.packs = table.finish();
        node.encode_to_vec()
    }

    /// Whether everything below it is zero.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(entries) => entries.iter().all(Entry::is_zero),
            Self::Inner(leaves) => leaves.is_empty(),
        }
    }
}

/// What must be references to nodes: none may be zero.
pub(crate) fn node_refs(
    entries: BTreeMap<u32, Entry>,
) -> Result<BTreeMap<u32, NodeRef>, FormatError> {
    let reference = |(slot, entry): (u32, Entry)| match entry.stored {
        Stored::Frame(at) => Ok((
            slot,
            NodeRef {
                id: NodeId(entry.id.0),
                at,
            },
        )),
        Stored::Zero => Err(malformed("chunk list", "a reference to a node is zero")),
    };
    entries.into_iter().map(reference).collect()
}

/// A node's reference in the shape of an entry: both are an id and a frame.
pub(crate) fn as_entry(node: &NodeRef) -> Entry {
    Entry {
        id: ChunkId(node.id.0),
        stored: Stored::Frame(node.at),
    }
}
