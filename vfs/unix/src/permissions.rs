//! With what mode and owner files are created; called by `vfs`.
//!
//! A journal gets those of its database: a database that root opens once must stay usable for its owner.

use nix::unistd::Uid;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use verneuil_abi::open::path_of;
use verneuil_abi::{OpenFlags, OpenRequest};

/// Of files that take after no other one; the umask applies.
const DEFAULT_MODE: u32 = 0o644;

/// How a new file shall look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Permission {
    /// Exactly this mode, whatever the umask says; none is the default mode under the umask.
    exact_mode: Option<u32>,
    /// User and group, if this process may give files away.
    owner: Option<(u32, u32)>,
}

impl Permission {
    /// The mode for `open(2)`.
    pub(crate) fn mode(&self) -> u32 {
        self.exact_mode.unwrap_or(DEFAULT_MODE)
    }

    /// What a request's file takes after: a journal its database, a `modeof=` parameter's file, or nothing.
    ///
    /// # Errors
    /// When the file to take after can't be looked at.
    pub(crate) fn of_request(path: &Path, request: &OpenRequest<'_>) -> io::Result<Permission> {
        let like = if request
            .flags
            .intersects(OpenFlags::MAIN_JOURNAL.with(OpenFlags::WAL))
        {
            database_of(path)
        } else if request.flags.contains(OpenFlags::DELETE_ON_CLOSE) {
            return Ok(Permission {
                exact_mode: Some(0o600),
                owner: None,
            });
        } else if request.flags.contains(OpenFlags::URI) {
            request
                .name
                .and_then(|name| name.uri_parameter(c"modeof"))
                .map(path_of)
        } else {
            None
        };
        let Some(like) = like else {
            return Ok(Permission {
                exact_mode: None,
                owner: None,
            });
        };
        let metadata = fs::metadata(like)?;
        let is_journal = request
            .flags
            .intersects(OpenFlags::MAIN_JOURNAL.with(OpenFlags::WAL));
        Ok(Permission {
            exact_mode: Some(metadata.mode() & 0o777),
            owner: is_journal.then(|| (metadata.uid(), metadata.gid())),
        })
    }

    /// What the shared memory of a database takes after: the database.
    pub(crate) fn of_shared_memory(database: &fs::Metadata) -> Permission {
        Permission {
            exact_mode: Some(database.mode() & 0o777),
            owner: Some((database.uid(), database.gid())),
        }
    }

    /// Gives a file that was just opened what `open(2)` could not: the bits that the umask took, and the owner.
    pub(crate) fn apply(&self, file: &File) {
        let Some(exact_mode) = self.exact_mode else {
            return;
        };
        // Best effort, as in `unix`: what can't be changed stays as it is. An old file with content is left alone.
        if let Ok(metadata) = file.metadata()
            && metadata.len() == 0
            && metadata.mode() & 0o777 != exact_mode
        {
            let _ = file.set_permissions(Permissions::from_mode(exact_mode));
        }
        // Only root can give files away; a try by anybody else would end up in audit logs.
        if let Some((uid, gid)) = self.owner
            && Uid::effective().is_root()
        {
            let _ = fchown(file, Some(uid), Some(gid));
        }
    }
}

/// The database of a journal: its name up to the last `-` (`x.db-journal`, `x.db-wal`); none without one behind the
/// last dot.
pub(crate) fn database_of(journal: &Path) -> Option<&Path> {
    let bytes = journal.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|byte| matches!(byte, b'-' | b'.'))?;
    (at > 0 && bytes[at] == b'-').then(|| Path::new(OsStr::from_bytes(&bytes[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journals_database_is_its_name_up_to_the_last_dash() {
        let database =
            |name: &'static str| database_of(Path::new(name)).map(|path| path.to_str().unwrap());
        assert_eq!(database("/a/x.db-journal"), Some("/a/x.db"));
        assert_eq!(database("/a-b/x-y-wal"), Some("/a-b/x-y"));
        assert_eq!(database("/a/x.jnl"), None);
    }
}
