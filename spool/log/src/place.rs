//! Where the file of a connection is: whether it is still the one behind its name. Kept by `writer`, asked when a `transaction` begins.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use verneuil_dbfile::FileId;

use crate::error::SpoolError;

/// Which file a connection writes, and what its path led to when it began to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub file: FileId,
    /// As `stat` of the path says: in a union of file systems its device may be another one than the descriptor's.
    at_path: FileId,
}

impl Place {
    /// # Errors
    /// When the file can't be looked at.
    pub fn of(file: &File, path: &Path) -> Result<Self, SpoolError> {
        let file = FileId::of(&file.metadata().map_err(SpoolError::io("stat", path))?);
        let at_path = fs::metadata(path)
            .ok()
            .map(|meta| FileId::of(&meta))
            .filter(|found| found.ino == file.ino)
            .unwrap_or(file);
        Ok(Self { file, at_path })
    }

    /// The length of the file, if it is still behind its name (one system call).
    ///
    /// # Errors
    /// In words: it was renamed, deleted or replaced, or can't be looked at.
    pub fn check(self, file: &File, path: &Path) -> Result<u64, String> {
        let meta = match fs::metadata(path) {
            Ok(meta) if FileId::of(&meta) == self.at_path => return Ok(meta.len()),
            Ok(_) => None,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                None
            }
            // The path can't be looked at any more (a process that gave up its rights): the descriptor can.
            Err(_) => {
                let meta = file
                    .metadata()
                    .map_err(|error| SpoolError::io("stat", path)(error).to_string())?;
                (meta.nlink() > 0).then_some(meta)
            }
        };
        meta.map(|meta| meta.len()).ok_or_else(|| {
            format!(
                "{path:?} was renamed, deleted or replaced while it was open: what is written through the old descriptor is not \
                 replicated; open the database again"
            )
        })
    }
}
