//! The thin layer between the kernel's FUSE requests and the file system of replicas: the binary verneuil-fs mounts
//! with it, and it forwards to verneuil-fs-core.
//!
//! - `glue`: requests in, replies out; nothing is decided here;
//! - `notifier`: what the core tells the kernel unasked;
//! - `mount`: the life of a mount: what must be true before, mounting, unmounting.
#![forbid(unsafe_code)]

mod glue;
mod mount;
mod notifier;

pub use mount::{FS_NAME, MountError, MountOptions, Mounted, mount, prepare, unmount_lazily};
