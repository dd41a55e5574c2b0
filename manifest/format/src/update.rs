//! From one manifest to the next: the copier's entry point and what it takes and gives; `step` does the work.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::FormatError;
use crate::ids::{ChunkId, ChunkIndex};
use crate::manifest::{Manifest, SourceState};
use crate::node::{LookupError, Node, NodeRef, NodeSource};
use crate::pack::Pack;
use crate::pages::PageIds;
use crate::patch::PatchBudget;
use crate::step::Step;

/// The next committed state of the database.
#[derive(Clone, Debug)]
pub struct NextState {
    /// Its length, header fields and times.
    pub source: SourceState,
    /// What changed against the manifest that is updated. Chunks beyond the new end are ignored; chunks that are new and not
    /// mentioned are zeros; a chunk whose length changed and that is not mentioned is resized with zeros.
    pub changes: BTreeMap<ChunkIndex, Change>,
}

/// The new content of one chunk.
#[derive(Clone, Debug)]
pub enum Change {
    /// These bytes.
    Bytes {
        /// The whole new content: as long as the chunk is in the new file.
        bytes: Bytes,
        /// What of it may differ from the manifest that is updated.
        written: Written,
    },
    /// What this entry names, which is already in the store (catch-up), as long as the chunk is in the new file.
    Stored(Entry),
}

/// Which bytes of a chunk may differ from its content in the manifest that is updated: a claim, which is checked before anything is built upon it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Any.
    Unknown,
    /// These ranges, in any order, overlapping or not (and what lies beyond the chunk's old length, which need not be mentioned).
    Ranges(Vec<Range<u32>>),
}

/// Where stored (unpatched) bytes of chunks come from.
pub trait ChunkSource {
    /// The bytes with this id, if they were loaded. They are checked.
    fn stored(&self, id: &ChunkId) -> Option<Bytes>;

    /// What is remembered of a content, stored or patched, that has this id. Spares the loading of a stored version.
    fn pages(&self, _id: &ChunkId) -> Option<&PageIds> {
        None
    }
}

impl<S: BuildHasher> ChunkSource for HashMap<ChunkId, Bytes, S> {
    fn stored(&self, id: &ChunkId) -> Option<Bytes> {
        self.get(id).cloned()
    }
}

/// A new manifest and what has to be in the store before it.
#[derive(Clone, Debug)]
pub struct Updated {
    /// The next manifest.
    pub manifest: Manifest,
    /// New packs (of chunks, then of nodes). The manifest may be stored only when all of them are.
    pub packs: Vec<Pack>,
    /// New nodes, for the caller's cache.
    pub nodes: Vec<(NodeRef, Arc<Node>)>,
}

/// Why there is no new manifest (yet). Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// These nodes are not in the [`NodeSource`]: load them and call again.
    #[error("{} nodes of the chunk list have to be loaded first", .0.len())]
    NeedNodes(Vec<NodeRef>),
    /// The stored versions of these chunks are not in the [`ChunkSource`]: load them (by their entries' ids) and call again.
    #[error("{} stored chunks have to be loaded first", .0.len())]
    NeedChunks(Vec<(ChunkIndex, Entry)>),
    /// A change's bytes are not as long as the chunk is in the new file.
    #[error("chunk {} was given {given} bytes, but has {len}", index.0)]
    WrongLength {
        /// Which chunk.
        index: ChunkIndex,
        /// How many bytes were given.
        given: u64,
        /// How many it has.
        len: u32,
    },
    /// A limit of the format, or bytes from the store that contradict the manifest.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl From<LookupError> for UpdateError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Missing(nodes) => Self::NeedNodes(nodes),
            LookupError::Format(error) => Self::Format(error),
        }
    }
}

impl Manifest {
    /// The manifest after this one: its generation is one higher, its content is `next`.
    ///
    /// Deterministic: the same arguments give the same manifest and packs. Costs O(changes). A chunk that differs elsewhere than its
    /// [`Written::Ranges`] say is not patched but stored whole: whatever is given, every chunk of the new manifest can be put together.
    ///
    /// # Errors
    /// [`UpdateError::NeedNodes`] and [`UpdateError::NeedChunks`] ask the caller to load something and to call again with the same
    /// `next`; the others are final.
    pub fn update(
        &self,
        next: &NextState,
        nodes: &dyn NodeSource,
        chunks: &dyn ChunkSource,
        budget: PatchBudget,
    ) -> Result<Updated, UpdateError> {
        let mut step = Step::new(self, next.source, nodes, chunks, budget)?;
        step.apply(&next.changes)?;
        step.evict()?;
        step.check_patches()?;
        step.finish()
    }
}
