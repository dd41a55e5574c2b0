//! Where SQLite's lock bytes are at this moment; called by `vfs` when it opens a database.

use verneuil_dbfile::LockBytes;

/// The usual place, or where a test build of SQLite has put them by now.
#[must_use]
pub fn current_lock_bytes() -> LockBytes {
    verneuil_abi::pending_byte().map_or_else(LockBytes::default, LockBytes::at)
}
