//! [`TrackingVfs`]: opens files through the `linux` VFS and decides which of them are replicated; open files are
//! `file`.

use crate::ReplicationSetup;
use crate::connection::{Connection, Link, fenced};
use crate::file::{Role, TrackedFile, finished};
use crate::seat::Seat;
use crate::why::Unreplicated;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use verneuil_abi::{Access, Code, FullPathname, OpenFlags, OpenRequest, Opened, Result, Vfs};
use verneuil_unix::{UnixFile, UnixOptions, UnixVfs};

/// The VFS.
pub struct TrackingVfs {
    inner: UnixVfs,
    setup: Option<Arc<ReplicationSetup>>,
}

impl TrackingVfs {
    /// The name under which it is registered.
    pub const NAME: &'static str = "verneuil";

    /// A VFS on top of the `linux` VFS; without a setup, nothing is replicated and nothing is done beside.
    #[must_use]
    pub fn new(options: UnixOptions, setup: Option<ReplicationSetup>) -> TrackingVfs {
        TrackingVfs {
            inner: UnixVfs::new(Self::NAME, options),
            setup: setup.map(Arc::new),
        }
    }

    /// What the file is to the spool.
    fn role(&self, request: &OpenRequest<'_>, opened: &Opened<UnixFile>) -> Role {
        let is_journal = request.flags.contains(OpenFlags::MAIN_JOURNAL);
        match (&self.setup, request.name) {
            (Some(_), Some(name)) if is_journal => Role::Journal(name.as_path().to_owned()),
            _ => self
                .connect(request, opened)
                .map_or_else(Role::Unreplicated, Role::Replicated),
        }
    }

    /// The connection's side of replication, or why it has none.
    fn connect(
        &self,
        request: &OpenRequest<'_>,
        opened: &Opened<UnixFile>,
    ) -> std::result::Result<Arc<Seat>, Unreplicated> {
        let Some(setup) = &self.setup else {
            return Err(Unreplicated::NotConfigured);
        };
        let (Some(name), true) = (request.name, request.flags.contains(OpenFlags::MAIN_DB)) else {
            return Err(Unreplicated::NotADatabase);
        };
        for parameter in [c"nolock", c"immutable"] {
            if name.uri_boolean(parameter, false) {
                return Err(Unreplicated::ByParameter(if parameter == c"nolock" {
                    "nolock"
                } else {
                    "immutable"
                }));
            }
        }
        if !opened.flags.contains(OpenFlags::READ_WRITE) {
            return Err(Unreplicated::ReadOnly);
        }
        let regular = opened
            .file
            .file()
            .metadata()
            .is_ok_and(|metadata| metadata.is_file());
        // The name came through xFullPathname, but other layers may have opened under a name of their own.
        let path = match name.as_path().canonicalize() {
            Ok(path) if regular => path,
            _ => return Err(Unreplicated::NotARegularFile),
        };
        if !setup.replicate.covers(&path) {
            return Err(Unreplicated::Excluded);
        }
        Ok(Seat::new(|seat| {
            Connection::new(Link {
                setup: Arc::clone(setup),
                path,
                name: name.as_path().to_owned(),
                file: opened.file.share(),
                lock_bytes: opened.file.lock_bytes(),
                seat: seat.clone(),
            })
        }))
    }
}

impl Vfs for TrackingVfs {
    type File = TrackedFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<TrackedFile>> {
        let opened = self.inner.open(request)?;
        let role = fenced(|| self.role(&request, &opened))
            .unwrap_or(Role::Unreplicated(Unreplicated::Bug));
        let close_limit = self
            .setup
            .as_ref()
            .map_or(Duration::ZERO, |setup| setup.close_limit);
        Ok(Opened {
            flags: opened.flags,
            file: TrackedFile::new(opened.file, role, close_limit),
        })
    }

    fn delete(&self, path: &Path, sync_directory: bool) -> Result<()> {
        let deleted = self.inner.delete(path, sync_directory);
        // Also when only its durability failed: the name is gone.
        if self.setup.is_some() && matches!(deleted, Ok(()) | Err(Code::IOERR_DIR_FSYNC)) {
            finished(path);
        }
        deleted
    }

    fn access(&self, path: &Path, access: Access) -> Result<bool> {
        self.inner.access(path, access)
    }

    fn full_pathname(&self, path: &Path) -> Result<FullPathname> {
        self.inner.full_pathname(path)
    }
}
