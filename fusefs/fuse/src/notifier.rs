//! What the core tells the kernel, sent with fuser's notifier; `mount` fills it in when the session exists.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};
use verneuil_fs_core::Kernel;

/// A kernel that is known only after the mount. Before that it has asked for nothing, so there is nothing to drop.
#[derive(Debug, Default)]
pub struct LateNotifier(OnceLock<Notifier>);

impl LateNotifier {
    /// The mount exists.
    pub fn set(&self, notifier: Notifier) {
        // Called once per mount.
        let _ = self.0.set(notifier);
    }

    fn with(&self, send: impl FnOnce(&Notifier) -> io::Result<()>) -> io::Result<()> {
        self.0.get().map_or(Ok(()), send)
    }
}

impl Kernel for LateNotifier {
    fn invalidate_data(&self, ino: u64, range: Range<u64>) -> io::Result<()> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        // A length of 0 would mean "to the end".
        if range.is_empty() {
            return Ok(());
        }
        self.with(|n| {
            n.inval_inode(
                INodeNo(ino),
                signed(range.start),
                signed(range.end - range.start),
            )
        })
    }

    fn invalidate_attributes(&self, ino: u64) -> io::Result<()> {
        // A negative offset leaves the pages.
        self.with(|n| n.inval_inode(INodeNo(ino), -1, 0))
    }

    fn invalidate_name(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.with(|n| n.inval_entry(INodeNo(parent), OsStr::from_bytes(name)))
    }

    fn store(&self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|n| n.store(INodeNo(ino), offset, data))
    }
}
