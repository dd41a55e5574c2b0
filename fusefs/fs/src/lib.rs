//! The read-only file system of replicas, free of FUSE types: called by verneuil-fuse, it calls verneuil-replica.
//!
//! Reading order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`source`] | the seam to the replicas: hosts, listings, snapshots ([`replica`] implements it) |
//! | [`kernel`] | the seam to the kernel's caches: invalidate, store |
//! | `names` | names that may be shown, sidecars that are hidden, listings |
//! | `header` | the header bytes that a live file rewrites |
//! | `locks` | byte-range locks, POSIX and OFD, as the kernel forwards them |
//! | `live` | one database as one inode: handles, locks, reads, refresh, the advance to a newer snapshot |
//! | `tree` | the inode table, directories, lookups |
//! | [`fs`] | the requests that the glue forwards |
//!
//! # The invariant
//!
//! While any lock covers sqlite's SHARED range on an inode, that inode serves one snapshot. Between such moments it may
//! *advance*, and no SHARED lock is granted before the kernel has dropped every page that differs (`live/advance.rs`).
#![forbid(unsafe_code)]
// A list of one range is what it looks like here.
#![allow(clippy::single_range_in_vec_init)]

pub mod fs;
mod header;
pub mod kernel;
mod live;
mod locks;
mod names;
mod notify;
pub mod options;
pub mod replica;
pub mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod view;

pub use fs::{FileSystem, Reply};
pub use kernel::Kernel;
pub use locks::{LockKind, LockRequest};
pub use options::Options;
pub use source::{Source, SourceError};
