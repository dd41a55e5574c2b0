//! One snapshot as an inode serves it: the snapshot's bytes with the header rule applied; made and used by `live`.

use std::sync::Arc;

use crate::header::HeaderPatch;
use crate::source::{Head, Snapshot, SourceError};

/// A snapshot and what is served in place of its header.
#[derive(Debug)]
pub struct View<N> {
    /// The verified bytes.
    pub snapshot: Arc<N>,
    patch: Option<HeaderPatch>,
    /// Counts the views of one inode, so that work prepared for one is not applied to the next.
    pub number: u64,
}

impl<N: Snapshot> View<N> {
    /// `patch` comes from the inode's history, and `number` is the inode's next.
    pub fn new(snapshot: Arc<N>, patch: Option<HeaderPatch>, number: u64) -> Self {
        Self {
            snapshot,
            patch,
            number,
        }
    }

    /// Length and time.
    pub fn head(&self) -> Head {
        self.snapshot.head()
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.head().len
    }

    /// What is in memory; see [`Snapshot::read_cached`].
    pub fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        self.snapshot
            .read_cached(offset, len)
            .map(|bytes| self.patched(offset, bytes))
    }

    /// See [`Snapshot::read`].
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        Ok(self.patched(offset, self.snapshot.read(offset, len).await?))
    }

    /// Applies the header rule to bytes of the snapshot.
    pub fn patched(&self, offset: u64, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(patch) = &self.patch {
            patch.apply(offset, &mut bytes);
        }
        bytes
    }
}
