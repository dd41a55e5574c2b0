//! The manifest: one committed state of one database; `update` makes the next, `codec` its bytes, `diff` compares two.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::Entry;
use crate::head::Head;
use crate::ids::{ChunkIndex, Generation, PackId, chunk_len};
use crate::list::{ChunkList, Missing, Shape, leaf_entries, load};
use crate::node::{LookupError, NodeRef, NodeSource};
use crate::patch::{ChunkView, Patch};

/// Whose snapshot it is, and who made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The software that wrote the manifest.
    pub software_version: String,
    /// Name of the source host.
    pub host: String,
    /// Absolute canonical path of the database there.
    pub path: Vec<u8>,
    /// Id of the spool that it came through: tells two hosts with one name apart.
    pub instance: [u8; 16],
}

/// What is known of the database file at the commit that a manifest describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceState {
    /// Length of the file, in bytes.
    pub file_len: u64,
    /// Its page size in bytes; 0 if unknown (not, or not yet, a database).
    pub page_size: u32,
    /// Change counter of its header.
    pub change_counter: u32,
    /// Time of its last modification, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of its last status change, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// When the snapshot was taken (the commit time in the head), in nanoseconds since 1970.
    pub taken_ns: i64,
}

/// One committed state of one database: its chunks by id and where their bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) identity: Identity,
    pub(crate) source: SourceState,
    pub(crate) generation: Generation,
    pub(crate) list: ChunkList,
    /// By chunk; all of them below the end of the file.
    pub(crate) patches: BTreeMap<u32, Patch>,
}

impl Manifest {
    /// Generation 0: a file of length 0, never published.
    pub fn empty(identity: Identity) -> Self {
        Self::empty_after(identity, Generation(0))
    }

    /// A file of length 0 with a given generation: what to update when the store's manifest (of this generation) is of no use, so
    /// that generations go on growing.
    pub fn empty_after(identity: Identity, generation: Generation) -> Self {
        Self::empty_shaped(identity, generation, Shape::FORMAT)
    }

    pub(crate) fn empty_shaped(identity: Identity, generation: Generation, shape: Shape) -> Self {
        let list = ChunkList::empty(shape);
        Self {
            identity,
            source: SourceState::default(),
            generation,
            list,
            patches: BTreeMap::new(),
        }
    }

    /// The same manifest under another identity (a new software version or instance), for the next update.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// What the head says. (`body_len` is 0: it is known when the manifest is encoded.)
    pub fn head(&self) -> Head {
        Head {
            generation: self.generation,
            file_len: self.source.file_len,
            commit_time_ns: self.source.taken_ns,
            body_len: 0,
        }
    }

    /// Whose snapshot it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is known of the database file.
    pub fn source(&self) -> &SourceState {
        &self.source
    }

    /// Number of the manifest.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Length of the database file, in bytes.
    pub fn file_len(&self) -> u64 {
        self.source.file_len
    }

    /// How many chunks the file has.
    pub fn chunk_count(&self) -> u32 {
        self.list.count
    }

    /// All that is needed to read chunk `index`; beyond the end: a chunk of length 0.
    ///
    /// # Errors
    /// [`LookupError::Missing`] (one node) if a node has to be loaded first.
    pub fn chunk(
        &self,
        index: ChunkIndex,
        nodes: &dyn NodeSource,
    ) -> Result<ChunkView<'_>, LookupError> {
        let len = chunk_len(self.source.file_len, index);
        let mut entry = self.list.entry(index.0, nodes)?;
        if entry.is_zero() {
            entry = Entry::zero(len);
        }
        let patch = self.patches.get(&index.0);
        Ok(ChunkView {
            index,
            id: patch.map_or(entry.id, |patch| patch.id),
            len,
            entry,
            patch,
        })
    }

    /// The inline patches, ascending.
    pub fn patches(&self) -> impl Iterator<Item = (ChunkIndex, &Patch)> {
        self.patches
            .iter()
            .map(|(&index, patch)| (ChunkIndex(index), patch))
    }

    /// All nodes, inner ones first.
    ///
    /// # Errors
    /// [`LookupError::Missing`] if inner nodes have to be loaded first.
    pub fn node_refs(&self, nodes: &dyn NodeSource) -> Result<Vec<NodeRef>, LookupError> {
        let inner = self
            .list
            .nodes
            .values()
            .copied()
            .filter(|_| self.list.inner);
        let mut all: Vec<NodeRef> = inner.collect();
        all.extend(self.list.leaf_refs(nodes)?.into_values());
        Ok(all)
    }

    /// Every pack that the manifest or its nodes refer to.
    ///
    /// # Errors
    /// [`LookupError::Missing`] if nodes have to be loaded first (at most twice: inner nodes, then leaves).
    pub fn pack_ids(&self, nodes: &dyn NodeSource) -> Result<BTreeSet<PackId>, LookupError> {
        let mut packs = BTreeSet::new();
        packs.extend(self.list.overlay.values().filter_map(Entry::pack));
        packs.extend(self.list.nodes.values().map(|node| node.at.pack));
        let mut missing = Missing::default();
        for leaf in self.list.leaf_refs(nodes)?.values() {
            packs.insert(leaf.at.pack);
            if let Some(leaf) = missing.note(load(leaf, nodes))? {
                packs.extend(leaf_entries(&leaf)?.iter().filter_map(Entry::pack));
            }
        }
        missing.into_result(packs)
    }
}
