//! From keys to files, for the directory store: every segment is checked and opened relative to the
//! one before without following links, so no key and no link inside can lead out of the root.

use crate::{ErrorKind, Operation, StoreError};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Folder for temporary files and locks, at the root; no key begins with it.
const WORKSHOP: &str = ".verneuil";
/// Locks for conditional writes. Enough that two databases seldom share one.
const LOCKS: u64 = 64;
/// S3's limit, the same here.
const KEY_LEN_MAX_BYTES: usize = 1_024;
/// Linux file systems' limit of a name.
const NAME_LEN_MAX_BYTES: usize = 255;

const OPEN_FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What went wrong, before it is known for whom.
#[derive(Debug)]
pub(super) enum Fault {
    NotFound,
    NoRoot,
    BadKey(&'static str),
    Precondition(String),
    TooLong(u64),
    Io(&'static str, io::Error),
}

impl Fault {
    pub(super) fn io(doing: &'static str, error: io::Error) -> Self {
        Self::Io(doing, error)
    }

    pub(super) fn errno(doing: &'static str, errno: Errno) -> Self {
        Self::Io(doing, errno.into())
    }

    pub(super) fn into_error(self, operation: Operation, object: String) -> StoreError {
        let new = |kind, cause: String| StoreError::new(kind, operation, object, cause);
        match self {
            Self::NotFound => new(ErrorKind::NotFound, "there is no such file".to_owned()),
            Self::NoRoot if operation == Operation::List => new(
                ErrorKind::StoreMissing,
                "the store's directory does not exist".to_owned(),
            ),
            // A `put` would make it.
            Self::NoRoot => new(
                ErrorKind::NotFound,
                "the store's directory does not exist".to_owned(),
            ),
            Self::BadKey(why) => new(ErrorKind::BadRequest, format!("bad key: {why}"))
                .with_remedy("this name cannot be kept in a directory store"),
            Self::Precondition(cause) => new(ErrorKind::PreconditionFailed, cause),
            Self::TooLong(len) => new(
                ErrorKind::BadRequest,
                format!("the file is {len} bytes long; no object of ours is"),
            )
            .with_remedy("this is not a file of Verneuil's: check the store's path"),
            Self::Io(doing, error) => {
                let kind = match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => ErrorKind::Denied,
                    Some(Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
                        ErrorKind::BadRequest
                    }
                    _ => ErrorKind::Io,
                };
                let error = new(kind, format!("{doing}: {error}"));
                match kind {
                    ErrorKind::Denied => {
                        error.with_remedy("check the owner and permissions of this directory")
                    }
                    ErrorKind::BadRequest => error.with_remedy(
                        "something that is not Verneuil's stands in the way: look at this path",
                    ),
                    _ => error,
                }
            }
        }
    }
}

/// The segments of a key that a directory can hold.
pub(super) fn check_key(key: &str) -> Result<(), Fault> {
    if key.len() > KEY_LEN_MAX_BYTES {
        return Err(Fault::BadKey("it is longer than 1024 bytes"));
    }
    for (number, segment) in key.split('/').enumerate() {
        check_segment(segment)?;
        if number == 0 && segment == WORKSHOP {
            return Err(Fault::BadKey("its first name is reserved"));
        }
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), Fault> {
    match segment {
        "" => Err(Fault::BadKey("it has an empty name between slashes")),
        "." | ".." => Err(Fault::BadKey("it has a relative name")),
        _ if segment.contains('\0') => Err(Fault::BadKey("it has a zero byte")),
        _ if segment.len() > NAME_LEN_MAX_BYTES => {
            Err(Fault::BadKey("a name in it is longer than 255 bytes"))
        }
        _ => Ok(()),
    }
}

/// The root of a store, which need not exist.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: Arc<Path>,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the root; only here may the path contain links, since the user gave it.
    pub(super) fn open_root(&self) -> Result<Folder, Fault> {
        let flags = OPEN_FOLDER.difference(OFlag::O_NOFOLLOW);
        match nix::fcntl::open(&*self.root, flags, Mode::empty()) {
            Ok(fd) => Ok(Folder { fd }),
            Err(Errno::ENOENT) => Err(Fault::NoRoot),
            Err(errno) => Err(Fault::errno("opening the store's directory", errno)),
        }
    }

    /// Makes the root and what leads to it, durable and private, if it is not there.
    pub(super) fn create_root(&self) -> Result<(), Fault> {
        if self.root.is_dir() {
            return Ok(());
        }
        let making = |error| Fault::io("making the store's directory", error);
        // Missing ancestors, the innermost first: each is durable once the folder above is synced.
        let missing: Vec<_> = self.root.ancestors().take_while(|p| !p.exists()).collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(making)?;
        for made in missing {
            if let Some(above) = made.parent() {
                File::open(above)
                    .and_then(|folder| folder.sync_all())
                    .map_err(making)?;
            }
        }
        Ok(())
    }

    /// The folder that holds `key`, and its name there.
    pub(super) fn folder_of<'k>(&self, key: &'k str) -> Result<(Folder, &'k str), Fault> {
        check_key(key)?;
        let (path, name) = key.rsplit_once('/').unwrap_or(("", key));
        Ok((self.folder(path)?, name))
    }

    /// The folder at `path`: checked segments joined by slashes, or empty for the root.
    pub(super) fn folder(&self, path: &str) -> Result<Folder, Fault> {
        let mut folder = self.open_root()?;
        for segment in path.split('/').filter(|_| !path.is_empty()) {
            folder = folder.child(segment)?;
        }
        Ok(folder)
    }

    pub(super) fn create_folder_of<'k>(&self, key: &'k str) -> Result<(Folder, &'k str), Fault> {
        check_key(key)?;
        let (path, name) = key.rsplit_once('/').unwrap_or(("", key));
        'restart: loop {
            let mut folder = self.open_root()?;
            for segment in path.split('/').filter(|_| !path.is_empty()) {
                folder = match folder.create_child(segment) {
                    // A delete took it, or the folder above, away again.
                    Err(Fault::NotFound) => continue 'restart,
                    other => other?,
                };
            }
            return Ok((folder, name));
        }
    }

    /// Removes the object and the folders that it leaves empty.
    pub(super) fn remove(&self, key: &str) -> Result<(), Fault> {
        check_key(key)?;
        let segments: Vec<_> = key.split('/').collect();
        let Some((name, path)) = segments.split_last() else {
            return Ok(());
        };
        let mut folders = vec![self.open_root()?];
        for segment in path {
            let child = match folders.last() {
                Some(folder) => folder.child(segment)?,
                None => return Ok(()),
            };
            folders.push(child);
        }
        for (depth, folder) in folders.iter().enumerate().rev() {
            let is_object = depth == path.len();
            let (name, flag) = if is_object {
                (name, UnlinkatFlags::NoRemoveDir)
            } else {
                (&path[depth], UnlinkatFlags::RemoveDir)
            };
            match unlinkat(&folder.fd, *name, flag) {
                Ok(()) => folder.sync()?,
                Err(Errno::ENOENT | Errno::EISDIR) if is_object => return Err(Fault::NotFound),
                Err(errno) if is_object => return Err(Fault::errno("removing the file", errno)),
                // Not empty, or somebody was quicker: either way it is none of ours any more.
                Err(_) => break,
            }
        }
        Ok(())
    }

    pub(super) fn workshop(&self) -> Result<Workshop, Fault> {
        let folder = self.open_root()?.create_child(WORKSHOP)?;
        Ok(Workshop { folder })
    }
}

/// An open folder inside the store.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    pub(super) fn child(&self, name: &str) -> Result<Self, Fault> {
        check_segment(name)?;
        match openat(&self.fd, name, OPEN_FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Self { fd }),
            // A file or a link of this name: nothing of the store is below it.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(Fault::NotFound),
            Err(errno) => Err(Fault::errno("opening a folder", errno)),
        }
    }

    fn create_child(&self, name: &str) -> Result<Self, Fault> {
        match self.child(name) {
            Err(Fault::NotFound) => {}
            other => return other,
        }
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) => self.sync()?,
            Err(Errno::EEXIST) => {}
            Err(Errno::ENOENT) => return Err(Fault::NotFound),
            Err(errno) => return Err(Fault::errno("making a folder", errno)),
        }
        match openat(&self.fd, name, OPEN_FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Self { fd }),
            Err(Errno::ENOENT) => Err(Fault::NotFound),
            Err(errno) => Err(Fault::errno("opening a folder", errno)),
        }
    }

    /// Makes the names in this folder durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        fsync(&self.fd).map_err(|errno| Fault::errno("syncing a folder", errno))
    }

    /// The object of this name, if there is one; a folder or a link is none.
    pub(super) fn object(&self, name: &str) -> Result<Option<FileStat>, Fault> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is_kind(&stat, SFlag::S_IFREG).then_some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Fault::errno("looking at a file", errno)),
        }
    }

    pub(super) fn open_object(&self, name: &str) -> Result<(File, FileStat), Fault> {
        // Not to hang on a named pipe that somebody put there.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Err(Fault::NotFound),
            Err(errno) => return Err(Fault::errno("opening the file", errno)),
        };
        let stat = fstat(&fd).map_err(|errno| Fault::errno("looking at the file", errno))?;
        if !is_kind(&stat, SFlag::S_IFREG) {
            return Err(Fault::NotFound);
        }
        Ok((File::from(fd), stat))
    }

    /// Calls `visit` with the name of each entry and whether it is a folder, in no order. Links and
    /// names that are not UTF-8 are not the store's.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, bool)) -> Result<(), Fault> {
        let reading = |errno| Fault::errno("reading a folder", errno);
        let mut dir = Dir::openat(&self.fd, ".", OPEN_FOLDER, Mode::empty()).map_err(reading)?;
        for entry in dir.iter() {
            let entry = entry.map_err(reading)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            match entry.file_type() {
                Some(nix::dir::Type::Directory) => visit(name, true),
                Some(nix::dir::Type::File) => visit(name, false),
                Some(_) => {}
                // Some file systems do not say.
                None => match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) if is_kind(&stat, SFlag::S_IFDIR) => visit(name, true),
                    Ok(stat) if is_kind(&stat, SFlag::S_IFREG) => visit(name, false),
                    Ok(_) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(reading(errno)),
                },
            }
        }
        Ok(())
    }
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

/// Whether an entry at the root is the store's own, and no key.
pub(super) fn is_workshop(base: &str, name: &str) -> bool {
    base.is_empty() && name == WORKSHOP
}

/// The folder of temporary files and locks.
pub(super) struct Workshop {
    folder: Folder,
}

impl Workshop {
    /// A new file, removed again when dropped unless renamed.
    pub(super) fn temporary(&self) -> Result<Temporary<'_>, Fault> {
        let name = format!("tmp-{:032x}", fastrand::u128(..));
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&self.folder.fd, name.as_str(), flags, mode)
            .map_err(|errno| Fault::errno("making a temporary file", errno))?;
        Ok(Temporary {
            folder: &self.folder,
            name,
            file: File::from(fd),
        })
    }

    /// Waits for the lock that conditional writes of `key` share with some other keys.
    pub(super) fn lock(&self, key: &str) -> Result<File, Fault> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let name = format!("lock-{:02x}", hash % LOCKS);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&self.folder.fd, name.as_str(), flags, mode)
            .map_err(|errno| Fault::errno("opening a lock file", errno))?;
        let file = File::from(fd);
        file.lock()
            .map_err(|error| Fault::io("locking a lock file", error))?;
        Ok(file)
    }

    /// Removes temporary files of processes that died. Best effort: nobody needs it to succeed.
    pub(super) fn sweep(&self, before: SystemTime) {
        let before_s = before
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs() as i64);
        let mut temporaries = Vec::new();
        let read = self.folder.each(|name, is_folder| {
            if !is_folder && name.starts_with("tmp-") {
                temporaries.push(name.to_owned());
            }
        });
        if let Err(fault) = read {
            tracing::debug!(?fault, "cannot look for stale temporary files");
        }
        for name in temporaries {
            if let Ok(Some(stat)) = self.folder.object(&name)
                && stat.st_mtime < before_s
            {
                let _ = unlinkat(&self.folder.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
    }
}

/// A file that nobody sees yet.
pub(super) struct Temporary<'w> {
    folder: &'w Folder,
    name: String,
    file: File,
}

impl Temporary<'_> {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn rename_to(&self, folder: &Folder, name: &str) -> Result<(), Errno> {
        renameat(
            self.folder.fd.as_fd(),
            self.name.as_str(),
            folder.fd.as_fd(),
            name,
        )
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing of this name any more.
        let _ = unlinkat(
            &self.folder.fd,
            self.name.as_str(),
            UnlinkatFlags::NoRemoveDir,
        );
    }
}
