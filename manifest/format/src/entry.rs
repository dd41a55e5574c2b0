//! Where the stored version of a chunk is: `pack` makes frames, `node` and `list` hold entries, `manifest` hands them out.

use crate::error::FormatError;
use crate::ids::{ChunkId, PackId};

/// One zstd frame inside a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// The pack that holds it.
    pub pack: PackId,
    /// Offset of the frame in the pack's body, in bytes.
    pub offset: u32,
    /// Length of the frame (compressed), in bytes.
    pub len: u32,
}

/// Where the stored version of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// Nowhere: it is all zeros, of whatever length.
    Zero,
    /// In a pack.
    Frame(FrameRef),
}

/// The stored version of one chunk, before any patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Id of the stored version (of a zero chunk: the id of zeros of the chunk's length, which is never encoded).
    pub id: ChunkId,
    /// Where it is.
    pub stored: Stored,
}

impl Entry {
    /// The entry of a chunk of `len` zeros.
    pub fn zero(len: u32) -> Self {
        Self {
            id: ChunkId::of_zeros(len),
            stored: Stored::Zero,
        }
    }

    /// Whether the chunk is not stored, being all zeros.
    pub fn is_zero(&self) -> bool {
        self.stored == Stored::Zero
    }

    /// The pack that holds it, if it is stored.
    pub fn pack(&self) -> Option<PackId> {
        match self.stored {
            Stored::Zero => None,
            Stored::Frame(at) => Some(at.pack),
        }
    }

    /// Checks bytes that were fetched for a stored (not zero) version.
    ///
    /// # Errors
    /// [`FormatError::WrongStored`] if they do not have the entry's id.
    pub fn verify(&self, raw: &[u8]) -> Result<(), FormatError> {
        if ChunkId::of(raw) != self.id {
            return Err(FormatError::WrongStored { id: self.id });
        }
        Ok(())
    }
}
