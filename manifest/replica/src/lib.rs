//! A reader's view of replicated databases: `verneuil-fs-core` and `verneuilctl` call it, it reads `verneuil-store`
//! and understands what it finds through `verneuil-format`.
//!
//! - `client`: stores and caches, one per process; loads manifests, conditionally;
//! - `listing`: hosts, directories and databases, by the names of keys;
//! - `snapshot`: an immutable state of one database: read; `diff` compares two;
//! - `restore`: a whole snapshot into a file or a writer;
//! - `frames`: memory, then disk cache, then store, one fetch at a time for each chunk;
//! - `fetch`: range GETs, verification, second attempts, the next store;
//! - `disk`: the shared directory cache; `inflight`, `readahead`: what their names say;
//! - `error`: what a user is told.
//!
//! Invariants: no byte leaves this crate unless it was checked against its BLAKE3 id after it came from a store or a
//! disk cache (P11); a name from a store is never a path (P12); a snapshot never changes.
#![forbid(unsafe_code)]

mod client;
mod diff;
mod disk;
mod error;
mod fetch;
mod frames;
mod inflight;
mod listing;
mod readahead;
mod restore;
mod snapshot;

pub use client::{Client, ClientConfig, Loaded};
pub use error::{DataError, FrameError, ReplicaError};
pub use listing::{DirEntry, EntryKind, is_safe_name};
pub use restore::{restore_to_file, restore_to_path, restore_to_writer};
pub use snapshot::Snapshot;
