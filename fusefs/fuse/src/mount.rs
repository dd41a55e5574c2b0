//! The life of a mount, run by the binary: what must be true before, mounting, unmounting.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::statfs;
use verneuil_fs_core::fs::FileSystem;
use verneuil_fs_core::{Options, Source};

use crate::glue::Glue;
use crate::notifier::LateNotifier;

/// What `mount(8)` shows as the source, and by which our mounts are known.
pub const FS_NAME: &str = "verneuil";

const DEVICE: &str = "/dev/fuse";

/// Threads that take requests from the kernel. They never block; more of them make locks slower (16 µs with one, 19
/// with two, 39 with four), but with one alone a large read would hold up every lock.
const SESSION_THREADS: usize = 2;

/// How the kernel shall treat the mount.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Users other than the one who mounts may enter, as far as the permission bits allow.
    pub allow_other: bool,
}

/// Why there is no mount; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No FUSE.
    #[error(
        "{DEVICE} does not exist: load the kernel module (modprobe fuse), or give the container that device"
    )]
    NoDevice,
    /// Not root, and no helper.
    #[error(
        "fusermount3 is not installed, and only root mounts without it: install the package fuse3"
    )]
    NoHelper,
    /// Nothing to mount on.
    #[error("{0}: no such directory: create it first")]
    Missing(PathBuf),
    /// Not a directory.
    #[error("{0}: not a directory: a mount needs one")]
    NotADirectory(PathBuf),
    /// The root directory.
    #[error("/: a mount there would hide the whole file system: give a directory of its own")]
    Root,
    /// A living mount.
    #[error("{0}: a verneuil mount is already there: fusermount3 -u {0} ends it")]
    AlreadyMounted(PathBuf),
    /// A dead mount that stays.
    #[error(
        "{mountpoint}: a dead mount is there and can't be replaced: {cause}: umount -l {mountpoint} removes it"
    )]
    Dead {
        /// Where.
        mountpoint: PathBuf,
        /// What the attempt to unmount said.
        cause: io::Error,
    },
    /// The mountpoint can't be looked at.
    #[error("{mountpoint}: {cause}")]
    Mountpoint {
        /// Where.
        mountpoint: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// `mount(2)` or fusermount3 refused.
    #[error("{mountpoint}: can't mount: {}", mount_failure(.cause))]
    Refused {
        /// Where.
        mountpoint: PathBuf,
        /// What they said.
        cause: io::Error,
    },
}

fn mount_failure(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.trim();
    match cause.kind() {
        io::ErrorKind::PermissionDenied if text.contains("user_allow_other") => {
            "--allow-other needs the line user_allow_other in /etc/fuse.conf, unless root mounts"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            format!("{text}: may this user open {DEVICE}, and write to the directory?")
        }
        _ => text.into(),
    }
}

/// Checks that `mountpoint` can be mounted on, and removes a mount that a killed daemon left there. Returns its
/// absolute path.
///
/// # Errors
/// What is wrong and what to do about it; nothing but a dead mount was changed.
pub fn prepare(mountpoint: &Path) -> Result<PathBuf, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    if !nix::unistd::geteuid().is_root() && !has_helper() {
        return Err(MountError::NoHelper);
    }
    let failed = |cause| MountError::Mountpoint {
        mountpoint: mountpoint.into(),
        cause,
    };
    // Not `stat`, which the kernel may answer from what the dead daemon told it.
    if statfs(mountpoint).err() == Some(Errno::ENOTCONN) {
        tracing::warn!(mountpoint = %mountpoint.display(), "replacing a dead mount");
        let absolute = std::path::absolute(mountpoint).map_err(failed)?;
        unmount_lazily(&absolute).map_err(|cause| MountError::Dead {
            mountpoint: mountpoint.into(),
            cause,
        })?;
    }
    match std::fs::metadata(mountpoint) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(MountError::NotADirectory(mountpoint.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(mountpoint.into()));
        }
        Err(cause) => return Err(failed(cause)),
    }
    let mountpoint = mountpoint.canonicalize().map_err(failed)?;
    if mountpoint == Path::new("/") {
        return Err(MountError::Root);
    }
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
    if is_mounted(&mounts, &mountpoint) {
        return Err(MountError::AlreadyMounted(mountpoint));
    }
    Ok(mountpoint)
}

fn has_helper() -> bool {
    let found = Command::new("fusermount3")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok()
}

/// True if `mountinfo` has one of our mounts on `mountpoint`.
fn is_mounted(mountinfo: &[u8], mountpoint: &Path) -> bool {
    mountinfo.split(|byte| *byte == b'\n').any(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        // … root mount-point options optional-fields… - type source super-options
        let Some(dash) = fields.iter().position(|field| field == b"-") else {
            return false;
        };
        let (Some(point), Some(source)) = (fields.get(4), fields.get(dash + 2)) else {
            return false;
        };
        *source == FS_NAME.as_bytes() && unescape(point) == mountpoint.as_os_str().as_bytes()
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// Takes a mount out of the directory tree at once; who has files open there keeps them for as long as the daemon runs.
///
/// # Errors
/// `umount2` refused, and so did fusermount3 for a user who may not.
pub fn unmount_lazily(mountpoint: &Path) -> io::Result<()> {
    match umount2(mountpoint, MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => {
            let output = Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(mountpoint)
                .output()?;
            match output.status.success() {
                true => Ok(()),
                false => Err(io::Error::other(
                    String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                )),
            }
        }
        Err(errno) => Err(errno.into()),
    }
}

/// A mount that answers. Dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
}

impl Mounted {
    /// Waits until somebody has unmounted.
    ///
    /// # Errors
    /// The session broke.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }
}

/// Mounts `source` on `mountpoint` (see [`prepare`]); requests are answered when this returns.
///
/// # Errors
/// The kernel or fusermount3 refused; nothing is mounted then.
pub fn mount<S: Source>(
    source: S,
    runtime: tokio::runtime::Handle,
    options: Options,
    mount_options: &MountOptions,
    mountpoint: &Path,
) -> Result<Mounted, MountError> {
    let refused = |cause| MountError::Refused {
        mountpoint: mountpoint.into(),
        cause,
    };
    let notifier = Arc::new(LateNotifier::default());
    let fs = FileSystem::new(source, runtime, options, notifier.clone()).map_err(refused)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(FS_NAME.into()),
        MountOption::CUSTOM(format!("subtype={FS_NAME}")),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if mount_options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(SESSION_THREADS);
    let session = Session::new(Glue { fs }, mountpoint, &config).map_err(refused)?;
    notifier.set(session.notifier());
    Ok(Mounted {
        session: session.spawn().map_err(refused)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_found_in_mountinfo() {
        let mountinfo = b"36 35 98:0 / /mnt/a\\040b ro shared:1 master:2 - fuse.verneuil verneuil ro,user_id=0\n\
            37 35 98:0 / /mnt/other rw - ext4 /dev/root rw\n\
            38 35 98:0 / /mnt/plain ro - fuse verneuil ro\n\
            broken line\n";
        assert!(is_mounted(mountinfo, Path::new("/mnt/a b")));
        assert!(is_mounted(mountinfo, Path::new("/mnt/plain")));
        assert!(!is_mounted(mountinfo, Path::new("/mnt/other")));
        assert!(!is_mounted(mountinfo, Path::new("/mnt")));
        assert_eq!(unescape(b"a\\134b\\9"), b"a\\b\\9");
    }

    #[test]
    fn a_mountpoint_must_be_a_directory_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            prepare(&dir.path().join("none")),
            Err(MountError::Missing(_))
        ));
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(prepare(&file), Err(MountError::NotADirectory(_))));
        assert!(matches!(prepare(Path::new("/../")), Err(MountError::Root)));
        assert_eq!(
            prepare(dir.path()).unwrap(),
            dir.path().canonicalize().unwrap()
        );
    }
}
