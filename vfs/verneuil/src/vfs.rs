//! [`TrackingVfs`]: opens files through the `linux` VFS and decides which of them are replicated; open files are
//! `file`.

use crate::ReplicationSetup;
use crate::connection::Connection;
use crate::file::{TrackedFile, Unreplicated};
use std::path::Path;
use std::sync::Arc;
use verneuil_abi::{Access, FullPathname, OpenFlags, OpenRequest, Opened, Result, Vfs};
use verneuil_spool::{Database, DatabaseInfo};
use verneuil_unix::{UnixFile, UnixOptions, UnixVfs};

/// The VFS.
pub struct TrackingVfs {
    inner: UnixVfs,
    setup: Option<ReplicationSetup>,
}

impl TrackingVfs {
    /// The name under which it is registered.
    pub const NAME: &'static str = "verneuil";

    /// A VFS on top of the `linux` VFS; without a setup, nothing is replicated and nothing is done beside.
    #[must_use]
    pub fn new(options: UnixOptions, setup: Option<ReplicationSetup>) -> TrackingVfs {
        TrackingVfs {
            inner: UnixVfs::new(Self::NAME, options),
            setup,
        }
    }

    /// The connection's side of replication, or why it has none.
    fn connect(
        &self,
        request: &OpenRequest<'_>,
        opened: &Opened<UnixFile>,
    ) -> std::result::Result<Connection, Unreplicated> {
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
        let info = DatabaseInfo {
            hostname: setup.hostname.clone(),
            targets: setup.targets.clone(),
        };
        let database = Database::open(&setup.spool, &path, info);
        setup.replication.serve(&database);
        Ok(Connection::new(
            database,
            Arc::clone(&setup.replication),
            name.as_path().to_owned(),
        ))
    }
}

impl Vfs for TrackingVfs {
    type File = TrackedFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<TrackedFile>> {
        let opened = self.inner.open(request)?;
        let connection = crate::connection::fenced(|| self.connect(&request, &opened))
            .unwrap_or_else(|| Err(Unreplicated::Bug));
        Ok(Opened {
            flags: opened.flags,
            file: TrackedFile::new(opened.file, connection),
        })
    }

    fn delete(&self, path: &Path, sync_directory: bool) -> Result<()> {
        self.inner.delete(path, sync_directory)
    }

    fn access(&self, path: &Path, access: Access) -> Result<bool> {
        self.inner.access(path, access)
    }

    fn full_pathname(&self, path: &Path) -> Result<FullPathname> {
        self.inner.full_pathname(path)
    }
}
