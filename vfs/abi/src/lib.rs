//! Every SQLite FFI type and call that Verneuil uses, and safe traits above them: `verneuil-unix` and
//! `verneuil-tracking` implement [`Vfs`] and [`File`], `verneuil_vfs` registers them through [`Api`].
//!
//! In order: `sys` (the C layouts), `code` (result codes), `api` (calls into the host's SQLite library),
//! `open`, `control` and `shm` (arguments of xOpen, xFileControl and the methods of WAL mode), `file` and `vfs` (the traits),
//! and `file_callbacks` and `vfs_callbacks` (the trampolines behind them).
//!
//! This crate never links SQLite. The host's library hands its function table to the extension's entry point;
//! [`Api`] wraps that pointer and travels in `sqlite3_vfs.pAppData`, so that two SQLite libraries in one process
//! each use their own.

pub mod api;
pub mod code;
pub mod control;
pub mod file;
mod file_callbacks;
pub mod open;
mod panics;
mod platform;
mod register;
pub mod shm;
pub mod sys;
pub mod vfs;
mod vfs_callbacks;

pub use api::{Api, ApiError, MINIMUM_VERSION};
pub use code::{Code, Result};
pub use control::{FileControl, Pragma, StringSlot};
pub use file::{DeviceCharacteristics, File, LockLevel, SyncFlags};
pub use open::{Filename, OpenFlags, OpenRequest, Opened};
pub use platform::{pending_byte, random_u64};
pub use register::{RegisterError, is_registered, register};
pub use shm::{Mapped, ShmLock, ShmRegion, ShmSlots};
pub use vfs::{Access, FullPathname, Vfs};
