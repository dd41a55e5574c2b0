//! Syncing the directory that a file was created in or deleted from; called by `file` and `vfs`.

use std::fs::File;
use std::io;
use std::path::Path;

/// The directory of a file, `.` for a bare name.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Makes the entry of `path` in its directory, or its absence, durable. A directory that can't be opened (it may be
/// writable and searchable, but not readable) counts as done, as in `unix`.
///
/// # Errors
/// When the fsync fails.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match File::open(directory_of(path)) {
        // fsync and not fdatasync: an entry is metadata, and nothing promises that fdatasync writes it.
        Ok(directory) => directory.sync_all(),
        Err(_) => Ok(()),
    }
}
