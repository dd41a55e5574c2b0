//! The `linux` VFS: files and locks, compatible lock for lock with SQLite's `unix`; between `verneuil-abi`, whose
//! traits it implements, and `verneuil-dbfile`, which keeps the descriptors of databases. `verneuil_vfs` registers it
//! under the name `linux`, and `verneuil-tracking` wraps it.
//!
//! In order: `vfs` (opening, deleting, looking at files), `file` (reading, writing, syncing), `locks` (the five
//! lock levels on their byte ranges) with `pending` (where these are) and `ofd` (one lock), `shm` (the shared memory of WAL
//! mode), `mmap` (pages of the database as memory), `map` (the `unsafe` of both), `permissions` (mode and owner of journals),
//! `forked` (what children leave alone), `temporary` (names and directories of temporary files), `pathname` (absolute paths), `durable` (syncing directories).

#![deny(unsafe_code)]

mod durable;
pub mod file;
mod forked;
pub mod locks;
// The one module that must: memory that SQLite is lent.
#[allow(unsafe_code)]
mod map;
mod mmap;
mod ofd;
mod pathname;
mod pending;
mod permissions;
mod shm;
mod temporary;
pub mod vfs;

pub use file::{SharedFile, UnixFile};
pub use pending::current_lock_bytes;
pub use vfs::{UnixOptions, UnixVfs};
