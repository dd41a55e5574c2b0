//! The one error type of this crate: what is wrong with bytes that were decoded, or with values that were to be encoded.

use thiserror::Error;

use crate::ids::{ChunkId, ChunkIndex, NodeId, PackId};

/// Why bytes are not what they should be. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the value does.
    #[error("{what} is cut short: {have} bytes where {need} are needed")]
    Truncated {
        /// What was being decoded.
        what: &'static str,
        /// How many bytes there are.
        have: u64,
        /// How many there should be at least.
        need: u64,
    },
    /// Not a manifest at all.
    #[error("not a Verneuil manifest (its first bytes are something else)")]
    NotAManifest,
    /// A manifest of a version that this software does not know.
    #[error(
        "manifest of format version {found}, but this software reads version {known}: a newer Verneuil wrote it"
    )]
    UnknownVersion {
        /// The version found.
        found: u32,
        /// The version that this software reads.
        known: u32,
    },
    /// A checksum does not fit.
    #[error("{what} is damaged: its checksum does not fit its bytes")]
    Damaged {
        /// What was being checked.
        what: &'static str,
    },
    /// A chunk's bytes are not the ones that its id names.
    #[error("chunk {} is damaged: its bytes do not have the id {id}", index.0)]
    WrongChunk {
        /// Which chunk.
        index: ChunkIndex,
        /// The id that its bytes should have.
        id: ChunkId,
    },
    /// Stored bytes are not the ones that their id names.
    #[error("stored bytes do not have the id {id}")]
    WrongStored {
        /// The id that they should have.
        id: ChunkId,
    },
    /// A node's bytes are not the ones that its id names.
    #[error("node {id} is damaged: its bytes do not have that id")]
    WrongNode {
        /// The id that its bytes should have.
        id: NodeId,
    },
    /// A pack's body is not the one that its name promises.
    #[error("pack {id} is damaged: its body does not have that id")]
    WrongPack {
        /// The id that its body should have.
        id: PackId,
    },
    /// A number exceeds a limit of the format.
    #[error("{what} is {value}, the limit is {limit}")]
    TooLarge {
        /// What exceeds.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// Any other contradiction.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// The contradiction.
        why: &'static str,
    },
    /// zstd gave an error (a frame of the wrong length or with damaged content).
    #[error("{what} does not decompress: {why}")]
    Zstd {
        /// What was being decompressed or compressed.
        what: &'static str,
        /// zstd's own words.
        why: &'static str,
    },
}

pub(crate) fn malformed(what: &'static str, why: &'static str) -> FormatError {
    FormatError::Malformed { what, why }
}

/// `Ok` if `value` does not exceed `limit`.
pub(crate) fn within(what: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    if value > limit {
        return Err(FormatError::TooLarge { what, value, limit });
    }
    Ok(())
}
