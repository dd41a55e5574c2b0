//! The `linux` VFS: files and locks, compatible lock for lock with SQLite's `unix`; between `verneuil-abi`, whose
//! traits it implements, and `verneuil-dbfile`, which keeps the descriptors of databases. `verneuil_vfs` registers it
//! under the name `linux`, and `verneuil-tracking` wraps it.
//!
//! In order: `vfs` (opening, deleting, looking at files), `file` (reading, writing, syncing), `locks` (the five
//! lock levels on their byte ranges), `permissions` (mode and owner of journals), `temporary` (names and directories of
//! temporary files), `pathname` (absolute paths), `durable` (syncing directories).
//!
//! Rollback journals only: no shared memory, no memory maps.

#![forbid(unsafe_code)]

mod durable;
pub mod file;
pub mod locks;
mod pathname;
mod permissions;
mod temporary;
pub mod vfs;

pub use file::{SharedFile, UnixFile};
pub use vfs::{UnixOptions, UnixVfs};
