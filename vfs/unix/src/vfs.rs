//! The `linux` VFS itself: opening, deleting and looking at files; wrapped by `verneuil-tracking`. Open files are
//! `file`.

use crate::durable::sync_directory_of;
use crate::file::{Companion, Descriptor, UnixFile, UnixFileParts};
use crate::forked::{is_others_journal, refusal};
use crate::locks::Locks;
use crate::pathname::full_pathname;
use crate::pending::current_lock_bytes;
use crate::permissions::{Permission, database_of};
use crate::temporary::TemporaryFiles;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};
use std::fs::{self, File as StdFile};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use verneuil_abi::{Access, Code, FullPathname, OpenFlags, OpenRequest, Opened, Result, Vfs};
use verneuil_dbfile::LockBytes;

/// What can be set about the VFS.
#[derive(Debug, Clone)]
pub struct UnixOptions {
    /// Where temporary files go, before `SQLITE_TMPDIR`, `TMPDIR`, `/var/tmp`, `/usr/tmp`, `/tmp` and `.`.
    pub temp_dir: Option<PathBuf>,
    /// Says where the lock bytes are, whenever a database is opened: SQLite's own test builds move them while they run.
    pub lock_bytes: fn() -> LockBytes,
}

impl Default for UnixOptions {
    fn default() -> UnixOptions {
        UnixOptions {
            temp_dir: None,
            lock_bytes: current_lock_bytes,
        }
    }
}

/// The VFS.
#[derive(Debug)]
pub struct UnixVfs {
    name: &'static str,
    lock_bytes: fn() -> LockBytes,
    temporary: Arc<TemporaryFiles>,
}

impl UnixVfs {
    /// The name under which the plain VFS is registered.
    pub const NAME: &'static str = "linux";

    /// A VFS whose files report `name` as that of their VFS.
    #[must_use]
    pub fn new(name: &'static str, options: UnixOptions) -> UnixVfs {
        UnixVfs {
            name,
            lock_bytes: options.lock_bytes,
            temporary: Arc::new(TemporaryFiles {
                configured: options.temp_dir,
            }),
        }
    }

    fn file(
        &self,
        request: &OpenRequest<'_>,
        flags: OpenFlags,
        descriptor: Descriptor,
        path: Option<PathBuf>,
    ) -> UnixFile {
        let is_database = request.flags.contains(OpenFlags::MAIN_DB);
        let is_journal = request.flags.intersects(
            OpenFlags::MAIN_JOURNAL
                .with(OpenFlags::SUPER_JOURNAL)
                .with(OpenFlags::WAL),
        );
        let companion = if request.flags.contains(OpenFlags::MAIN_JOURNAL) {
            Some(Companion::Journal)
        } else if request.flags.contains(OpenFlags::WAL) {
            Some(Companion::Log)
        } else {
            None
        };
        let database = path.as_deref().and_then(database_of).map(Path::to_owned);
        UnixFile::new(UnixFileParts {
            descriptor: Arc::new(descriptor),
            companion: companion.zip(database),
            path,
            locks: is_database.then(|| Locks::new((self.lock_bytes)())),
            is_writable: flags.contains(OpenFlags::READ_WRITE),
            powersafe_overwrite: request
                .name
                .is_none_or(|name| name.uri_boolean(c"psow", true)),
            read_only_shm: request
                .name
                .is_some_and(|name| name.uri_boolean(c"readonly_shm", false)),
            sync_directory: is_journal && request.flags.contains(OpenFlags::CREATE),
            api: request.api,
            temporary: Arc::clone(&self.temporary),
            vfs_name: self.name,
        })
    }

    fn open_temporary(&self, request: &OpenRequest<'_>) -> Result<Opened<UnixFile>> {
        let opened = self.temporary.open().map_err(|(code, error)| {
            if let Some(error) = error {
                request
                    .api
                    .log(code, &format!("open (temporary file): {error}"));
            }
            code
        })?;
        // Closed like any other file: nobody else can have locks on a file without a name.
        let descriptor = Descriptor::Other(opened);
        Ok(Opened {
            file: self.file(request, request.flags, descriptor, None),
            flags: request.flags,
        })
    }
}

impl Vfs for UnixVfs {
    type File = UnixFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<UnixFile>> {
        let Some(name) = request.name else {
            return self.open_temporary(&request);
        };
        let path = name.as_path();
        if request
            .flags
            .contains(OpenFlags::MAIN_JOURNAL.with(OpenFlags::CREATE))
            && is_others_journal(path, (self.lock_bytes)())
        {
            let message = format!("open {}: {}", path.display(), refusal());
            request.api.log(Code::CANTOPEN, &message);
            return Err(Code::CANTOPEN);
        }
        let permission = Permission::of_request(path, &request).map_err(|error| {
            request.api.log(
                Code::IOERR_FSTAT,
                &format!("stat for the mode of {}: {error}", path.display()),
            );
            Code::IOERR_FSTAT
        })?;

        let mut flags = request.flags;
        let opened = match open_file(path, flags, permission) {
            Err(error) if may_try_read_only(path, flags, &error)? => {
                flags = flags
                    .without(OpenFlags::READ_WRITE.with(OpenFlags::CREATE))
                    .with(OpenFlags::READ_ONLY);
                open_file(path, flags, permission)
            }
            other => other,
        };
        let descriptor = opened.map_err(|error| {
            request
                .api
                .log(Code::CANTOPEN, &format!("open {}: {error}", path.display()));
            Code::CANTOPEN
        })?;
        permission.apply(&descriptor);
        if flags.contains(OpenFlags::DELETE_ON_CLOSE) {
            // Its name goes now, its content with the descriptor.
            let _ = fs::remove_file(path);
        }
        let file = self.file(&request, flags, descriptor, Some(path.to_owned()));
        warn_about_names(&file, &request);
        Ok(Opened { file, flags })
    }

    fn delete(&self, path: &Path, sync_directory: bool) -> Result<()> {
        let is_journal = path.as_os_str().as_bytes().ends_with(b"-journal");
        if is_journal && is_others_journal(path, (self.lock_bytes)()) {
            return Err(Code::IOERR_DELETE);
        }
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Code::IOERR_DELETE_NOENT);
            }
            Err(_) => return Err(Code::IOERR_DELETE),
        }
        if sync_directory {
            sync_directory_of(path).map_err(|_| Code::IOERR_DIR_FSYNC)
        } else {
            Ok(())
        }
    }

    fn access(&self, path: &Path, how: Access) -> Result<bool> {
        Ok(match how {
            // An empty journal is no journal.
            Access::Exists => {
                fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() || metadata.len() > 0)
            }
            Access::ReadWrite => access(path, AccessFlags::R_OK | AccessFlags::W_OK).is_ok(),
            Access::Read => access(path, AccessFlags::R_OK).is_ok(),
        })
    }

    fn full_pathname(&self, path: &Path) -> Result<FullPathname> {
        full_pathname(path).map_err(|_| Code::CANTOPEN)
    }
}

/// One `open(2)` with SQLite's flags. Links are never followed: xFullPathname did, and a link that appeared since is an
/// attack or a mistake.
fn open_file(path: &Path, flags: OpenFlags, permission: Permission) -> io::Result<Descriptor> {
    let mut how = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    how |= if flags.contains(OpenFlags::READ_WRITE) {
        OFlag::O_RDWR
    } else {
        OFlag::O_RDONLY
    };
    if flags.contains(OpenFlags::CREATE) {
        how |= OFlag::O_CREAT;
    }
    if flags.contains(OpenFlags::EXCLUSIVE) && flags.contains(OpenFlags::CREATE) {
        how |= OFlag::O_EXCL;
    }
    if flags.contains(OpenFlags::MAIN_DB) {
        return verneuil_dbfile::open(path, how, permission.mode()).map(Descriptor::Database);
    }
    let file = loop {
        match nix::fcntl::open(path, how, Mode::from_bits_truncate(permission.mode())) {
            Ok(descriptor) => break StdFile::from(descriptor),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    // A journal on descriptor 0, 1 or 2 would be overwritten by a stray print: duplicates are made at 3 or above.
    Ok(Descriptor::Other(if file.as_raw_fd() > 2 {
        file
    } else {
        file.try_clone()?
    }))
}

/// Shall a file that could not be opened for writing be opened for reading?
///
/// # Errors
/// `READONLY_DIRECTORY` when it is a journal that can't be created because of its directory: SQLite tells that apart.
fn may_try_read_only(path: &Path, flags: OpenFlags, error: &io::Error) -> Result<bool> {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let new_journal = flags.contains(OpenFlags::CREATE)
        && flags.intersects(
            OpenFlags::MAIN_JOURNAL
                .with(OpenFlags::SUPER_JOURNAL)
                .with(OpenFlags::WAL),
        );
    if new_journal && errno == Some(Errno::EACCES) && access(path, AccessFlags::F_OK).is_err() {
        return Err(Code::READONLY_DIRECTORY);
    }
    Ok(errno != Some(Errno::EISDIR) && flags.contains(OpenFlags::READ_WRITE))
}

/// Says, as `unix` does, when other names or no name lead to a database: journals are found by name.
fn warn_about_names(file: &UnixFile, request: &OpenRequest<'_>) {
    if !request.flags.contains(OpenFlags::MAIN_DB) {
        return;
    }
    let Some(path) = file.path() else { return };
    let what = match file.file().metadata() {
        Err(_) => "cannot fstat database file",
        Ok(metadata) if metadata.nlink() == 0 => "file unlinked while open:",
        Ok(metadata) if metadata.nlink() > 1 => "multiple links to file:",
        Ok(_) if file.has_moved() => "file renamed while open:",
        Ok(_) => return,
    };
    request
        .api
        .log(Code::WARNING, &format!("{what} {}", path.display()));
}
