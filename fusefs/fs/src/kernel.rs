//! The seam between the file system and the kernel's caches: verneuil-fuse implements it with a FUSE notifier.

use std::io;
use std::ops::Range;

/// What the file system tells the kernel unasked.
///
/// Every call may wait until the kernel has dropped what it holds, and so until requests in flight are answered: none
/// is made from a thread that answers requests (an invalidation inside the lock handler deadlocks on a locked page).
pub trait Kernel: Send + Sync + 'static {
    /// Drops the attributes, and the pages that overlap `range` (bytes), of an inode.
    ///
    /// # Errors
    /// The kernel refused; an inode that it does not know is no error.
    fn invalidate_data(&self, ino: u64, range: Range<u64>) -> io::Result<()>;

    /// Drops the attributes of an inode and keeps its pages.
    ///
    /// # Errors
    /// As [`Kernel::invalidate_data`].
    fn invalidate_attributes(&self, ino: u64) -> io::Result<()>;

    /// Drops what a name leads to, a negative entry too.
    ///
    /// # Errors
    /// As [`Kernel::invalidate_data`].
    fn invalidate_name(&self, parent: u64, name: &[u8]) -> io::Result<()>;

    /// Puts bytes into the page cache, which also extends the size that the kernel knows.
    ///
    /// # Errors
    /// As [`Kernel::invalidate_data`].
    fn store(&self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()>;
}
