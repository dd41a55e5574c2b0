//! Temporary files: where they go and what they are called; called by `vfs` and `file`.

use nix::unistd::{AccessFlags, access};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use verneuil_abi::{Code, random_u64};
use verneuil_dbfile::off_standard_streams;

/// How often a name that turns out to be taken is replaced by another; with 64 random bits, once is a miracle.
const ATTEMPTS: u32 = 10;

/// Where temporary files may go.
#[derive(Debug, Clone, Default)]
pub(crate) struct TemporaryFiles {
    /// The configuration's wish, before all others.
    pub(crate) configured: Option<PathBuf>,
}

impl TemporaryFiles {
    /// The first directory of `unix`'s list that can be used, ours before it. (`sqlite3_temp_directory` is a variable of
    /// the host's library that the function table of extensions does not show.)
    fn directory(&self) -> Option<PathBuf> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        [
            self.configured.clone(),
            variable("SQLITE_TMPDIR"),
            variable("TMPDIR"),
        ]
        .into_iter()
        .flatten()
        .chain(["/var/tmp", "/usr/tmp", "/tmp", "."].map(PathBuf::from))
        .find(|directory| is_usable(directory))
    }

    /// A path that nothing has now.
    ///
    /// # Errors
    /// `IOERR_GETTEMPPATH` when no directory can be used.
    pub(crate) fn fresh_path(&self) -> Result<PathBuf, Code> {
        let directory = self.directory().ok_or(Code::IOERR_GETTEMPPATH)?;
        for _ in 0..ATTEMPTS {
            let path = directory.join(fresh_name());
            if fs::symlink_metadata(&path).is_err() {
                return Ok(path);
            }
        }
        Err(Code::ERROR)
    }

    /// A file without a name, that goes away by itself.
    ///
    /// # Errors
    /// `IOERR_GETTEMPPATH` when no directory can be used, `CANTOPEN` when none can be created there.
    pub(crate) fn open(&self) -> Result<File, (Code, Option<io::Error>)> {
        let directory = self.directory().ok_or((Code::IOERR_GETTEMPPATH, None))?;
        let anonymous = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_TMPFILE | nix::libc::O_EXCL)
            .mode(0o600)
            .open(&directory);
        let is_open =
            |file| off_standard_streams(file).map_err(|error| (Code::CANTOPEN, Some(error)));
        if let Ok(file) = anonymous {
            return is_open(file);
        }
        // Not every file system knows O_TMPFILE.
        let path = self.fresh_path().map_err(|code| (code, None))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .mode(0o600)
            .open(&path)
            .map_err(|error| (Code::CANTOPEN, Some(error)))?;
        let _ = fs::remove_file(&path);
        is_open(file)
    }
}

fn is_usable(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.is_dir())
        && access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// SQLite's own prefix, so that what cleans up after `unix` cleans up after us.
fn fresh_name() -> OsString {
    format!("etilqs_{:016x}", random_u64()).into()
}
