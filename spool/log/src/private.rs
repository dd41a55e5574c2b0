//! Makes and opens the files of the spool, and looks at its folders: private whatever the umask, and as what they are, never through a symbolic
//! link, which could lead a writer to anybody's file. For `spool`, `folder`, `target` and `replay`. The root itself is what the configuration says, and may be a link.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use verneuil_dbfile::off_standard_streams;

use crate::error::SpoolError;

/// Mode of every file.
const PRIVATE_FILE: u32 = 0o600;
/// Mode of every folder below the root, and what its owner may do with the root.
pub(crate) const PRIVATE_DIR: u32 = 0o700;

/// What is said of a link; nothing else is wrong then.
const IS_LINK: &str =
    "is a symbolic link, which nobody makes in a spool and nobody follows there; remove it";

/// Opens a file of the spool.
///
/// # Errors
/// [`SpoolError::Unusable`] for a symbolic link; what the system says otherwise.
pub(crate) fn open(
    op: &'static str,
    path: &Path,
    options: &mut OpenOptions,
) -> Result<File, SpoolError> {
    // O_NONBLOCK: not to wait for the other end of a pipe that somebody has put there.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    options
        .mode(PRIVATE_FILE)
        .custom_flags(flags.bits())
        .open(path)
        .and_then(off_standard_streams)
        .map_err(|error| {
            if error.raw_os_error() == Some(Errno::ELOOP as i32) {
                SpoolError::unusable(path, IS_LINK)
            } else {
                SpoolError::io(op, path)(error)
            }
        })
}

/// Opens a file of the spool, with options that may create it. A umask that takes the owner's bits is made up for: the next one to open it need
/// not be root.
///
/// # Errors
/// As [`open`].
pub(crate) fn create(path: &Path, options: &mut OpenOptions) -> Result<File, SpoolError> {
    let file = open("create", path, options)?;
    let make_private = || -> io::Result<()> {
        if file.metadata()?.mode() & 0o7777 != PRIVATE_FILE {
            file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
        }
        Ok(())
    };
    make_private().map_err(SpoolError::io("set the mode of", path))?;
    Ok(file)
}

/// Makes a folder, unless it is there; `recursive`: with those that lead to it. Its owner may use it, whatever the umask.
///
/// # Errors
/// What the system says.
pub(crate) fn create_folder(path: &Path, mode: u32, recursive: bool) -> Result<(), SpoolError> {
    let create = || DirBuilder::new().mode(mode).create(path);
    let created = match (create(), path.parent()) {
        (Err(error), Some(parent)) if recursive && error.kind() == ErrorKind::NotFound => {
            create_folder(parent, mode, true)?;
            create()
        }
        (created, _) => created,
    };
    match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        done => done.map_err(SpoolError::io("create", path))?,
    }
    let let_owner_in = || -> io::Result<()> {
        let actual = fs::symlink_metadata(path)?.mode() & 0o7777;
        if actual & PRIVATE_DIR != PRIVATE_DIR {
            let mode = Mode::from_bits_truncate(actual | PRIVATE_DIR);
            fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?;
        }
        Ok(())
    };
    let_owner_in().map_err(SpoolError::io("set the mode of", path))
}

/// The content of a small file of the spool.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SpoolError> {
    let mut content = Vec::new();
    open("read", path, File::options().read(true))?
        .read_to_end(&mut content)
        .map_err(SpoolError::io("read", path))?;
    Ok(content)
}

/// Checks a folder below the root.
///
/// # Errors
/// When it is a symbolic link, or anything but a directory of this user; when it is not there ([`SpoolError::is_not_found`]).
pub(crate) fn check_folder(path: &Path) -> Result<(), SpoolError> {
    let meta = fs::symlink_metadata(path).map_err(SpoolError::io("open", path))?;
    if meta.is_symlink() {
        return Err(SpoolError::unusable(path, IS_LINK));
    }
    if !meta.is_dir() {
        return Err(SpoolError::io("open", path)(
            ErrorKind::NotADirectory.into(),
        ));
    }
    check_owner(path, meta.uid())
}

/// Refuses what is somebody else's: its owner could read the database, and change what is replicated.
///
/// # Errors
/// With the owner.
pub(crate) fn check_owner(path: &Path, owner: u32) -> Result<(), SpoolError> {
    let me = nix::unistd::geteuid();
    if owner != me.as_raw() {
        let problem = format!(
            "belongs to user {owner}, not to user {me} who runs this; each user needs a spool of its own"
        );
        return Err(SpoolError::unusable(path, problem));
    }
    Ok(())
}
