//! The [`Vfs`] trait: a file system as SQLite sees it, safe; implemented by `verneuil-unix` and `verneuil-tracking`,
//! called by `vfs_callbacks`.

use crate::code::Result;
use crate::file::File;
use crate::open::{OpenRequest, Opened};
use std::path::{Path, PathBuf};

/// The longest path, in bytes. That of SQLite's `unix`, and not more: SQLite reads the name of a super-journal, up to
/// this length, into a buffer of one page, and a page may be as small as 512 bytes.
pub const MAX_PATH_LEN_BYTES: i32 = 512;

/// What xAccess asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Does it exist? (An empty regular file does not count: SQLite means "is there a journal with content".)
    Exists,
    /// Can it be read and written?
    ReadWrite,
    /// Can it be read?
    Read,
}

/// What xFullPathname answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FullPathname {
    /// Absolute, without `.`, `..`, doubled slashes and symbolic links.
    pub path: PathBuf,
    /// Was there a symbolic link on the way? SQLite refuses it under `SQLITE_OPEN_NOFOLLOW`.
    pub had_symlink: bool,
}

/// A file system. SQLite calls it from any thread.
///
/// A panic in a method is caught, logged, and becomes a result code. Dynamic libraries, time, sleep and randomness are
/// the same for every VFS and not part of the trait.
pub trait Vfs: Send + Sync + 'static {
    /// What [`Vfs::open`] opens.
    type File: File;

    /// Opens a file.
    ///
    /// # Errors
    /// `CANTOPEN`, `READONLY_DIRECTORY`, `IOERR_…`; nothing was created, except perhaps an empty file.
    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<Self::File>>;

    /// Unlinks a file and, if asked, makes that durable.
    ///
    /// # Errors
    /// `IOERR_DELETE_NOENT`, `IOERR_DELETE`; `IOERR_DIR_FSYNC` after the unlink itself succeeded.
    fn delete(&self, path: &Path, sync_directory: bool) -> Result<()>;

    /// Looks whether a file exists or can be used.
    ///
    /// # Errors
    /// `IOERR_ACCESS`.
    fn access(&self, path: &Path, access: Access) -> Result<bool>;

    /// Makes a path absolute and free of symbolic links; its last components need not exist.
    ///
    /// # Errors
    /// `CANTOPEN` when a component can't be looked at, or the result is longer than [`MAX_PATH_LEN_BYTES`].
    fn full_pathname(&self, path: &Path) -> Result<FullPathname>;
}
