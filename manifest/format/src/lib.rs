//! Snapshots as data: chunk ids, packs, manifests and keys, with no I/O at all; `store` moves the bytes, the copier makes them, `replica` reads them.
//!
//! docs/FORMAT.md describes every byte. [`Manifest::update`] is the writer's entry point, [`Manifest::chunk`] with
//! [`assemble`] the reader's.

#![forbid(unsafe_code)]
// A list of one range is what it looks like here.
#![allow(clippy::single_range_in_vec_init)]

mod codec;
mod diff;
mod entry;
mod error;
mod fold;
mod head;
mod ids;
mod key;
pub mod limits;
mod list;
mod manifest;
mod node;
mod pack;
mod pages;
mod patch;
mod step;
mod update;
mod wire;

/// What prost makes of proto/manifest.proto.
mod generated {
    include!("generated/verneuil.manifest.v1.rs");
}

#[cfg(test)]
mod tests;

pub use entry::{Entry, FrameRef, Stored};
pub use error::FormatError;
pub use head::{FORMAT_VERSION, HEAD_LEN_BYTES, Head};
pub use ids::{ChunkId, ChunkIndex, Generation, NodeId, PackId, chunk_count, chunk_len};
pub use key::{
    DATABASE_MARK, MANIFESTS_PREFIX, PACKS_PREFIX, Segment, decode_segment, deep_prefix,
    host_prefix, host_segment, invert_manifest_key, invert_pack_key, manifest_key, pack_key,
    path_segment,
};
pub use limits::CHUNK_LEN_BYTES;
pub use manifest::{Identity, Manifest, SourceState};
pub use node::{LookupError, Node, NodeRef, NodeSource};
pub use pack::{Pack, PackBuilder, decode_frame, pack_frames};
pub use pages::PageIds;
pub use patch::{ChunkView, Patch, PatchBudget, PatchedRange, assemble};
pub use update::{Change, ChunkSource, NextState, UpdateError, Updated, Written};
