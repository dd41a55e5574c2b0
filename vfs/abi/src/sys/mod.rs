//! The C side: layouts of `vfs`, `file`, and a prefix of the `routines` table, plus the `consts` that go
//! with them; compared with SQLite's own headers in `tests/layout.rs`.

#![allow(non_camel_case_types, non_snake_case)]

pub mod consts;
mod file;
mod routines;
mod vfs;

pub use file::{sqlite3_file, sqlite3_io_methods};
pub use routines::sqlite3_api_routines;
pub use vfs::{sqlite3_syscall_ptr, sqlite3_vfs};

/// A database connection; opaque here.
#[repr(C)]
pub struct sqlite3 {
    _opaque: [u8; 0],
}
