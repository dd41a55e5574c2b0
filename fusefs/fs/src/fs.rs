//! The requests of a mount, without FUSE types: verneuil-fuse forwards them, `tree` and `live` carry them out.
//!
//! Requests that may wait for the store take a [`Reply`] and answer through it, at once or from another thread; no
//! method blocks.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use crate::kernel::Kernel;
use crate::live::{LiveFile, OpenRequest, Shared};
use crate::locks::LockRequest;
use crate::names::Listing;
use crate::notify::Notifications;
use crate::options::{LONG_TTL, Options, SHORT_TTL};
use crate::source::{EntryKind, Head, Source};
use crate::tree::{Dir, Found, Known, Node, Tree};

/// Receives the answer to one request, once.
pub type Reply<T> = Box<dyn FnOnce(Result<T, Errno>) + Send>;

/// What `stat` shows of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Directory or database.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size: u64,
    /// Time of the snapshot, nanoseconds since 1970; for directories the time of the mount.
    pub mtime_ns: i64,
    /// Permission bits.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The name leads to an inode.
    Found {
        /// Its attributes.
        attr: Attr,
        /// How long the kernel may keep the attributes; the name it may keep for [`LONG_TTL`].
        attr_ttl: Duration,
    },
    /// It leads nowhere.
    Absent {
        /// How long the kernel may remember that.
        ttl: Duration,
    },
}

/// One entry of a directory that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number, or [`UNKNOWN_INO`].
    pub ino: u64,
    /// Directory or database.
    pub kind: EntryKind,
    /// Name.
    pub name: Vec<u8>,
    /// Where to continue after this entry.
    pub next_offset: u64,
}

/// The number shown for entries that the kernel has not looked up.
pub const UNKNOWN_INO: u64 = 0xFFFF_FFFF;

/// The file system of one mount.
pub struct FileSystem<S: Source> {
    shared: Arc<Shared<S>>,
    tree: Arc<Tree<S>>,
    next_handle: Arc<AtomicU64>,
    open_dirs: Arc<Mutex<HashMap<u64, Arc<Listing>>>>,
    mounted_ns: i64,
}

impl<S: Source> FileSystem<S> {
    /// A file system over `source`, whose tasks run on `runtime` and which reports to `kernel`.
    ///
    /// # Errors
    /// The notifier's threads could not be started.
    pub fn new(
        source: S,
        runtime: tokio::runtime::Handle,
        options: Options,
        kernel: Arc<dyn Kernel>,
    ) -> io::Result<Self> {
        let notify = Notifications::start(kernel)?;
        let shared = Arc::new(Shared::new(source, runtime, options, notify));
        let since_1970 = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            tree: Arc::new(Tree::new(shared.clone())),
            shared,
            next_handle: Arc::new(AtomicU64::new(1)),
            open_dirs: Arc::default(),
            mounted_ns: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
        })
    }

    /// Looks a name up in a directory.
    pub fn lookup(&self, parent: u64, name: &[u8], reply: Reply<Lookup>) {
        let dir = match self.dir(parent) {
            Ok(dir) => dir,
            Err(errno) => return reply(Err(errno)),
        };
        match self.tree.lookup_known(parent, name) {
            Some(Known::Sidecar) => return reply(Ok(Lookup::Absent { ttl: LONG_TTL })),
            Some(Known::File(file)) => return self.found_file(file, reply),
            None => {}
        }
        let (this, name) = (self.clone(), name.to_vec());
        self.shared.runtime.spawn(async move {
            match this.tree.lookup(&dir, &name).await {
                Ok(Found::Node(Node::File(file))) => this.found_file(file, reply),
                Ok(Found::Node(Node::Dir(dir))) => {
                    reply(Ok(Lookup::Found { attr: this.dir_attr(dir.ino), attr_ttl: LONG_TTL }));
                }
                Ok(Found::Sidecar) => reply(Ok(Lookup::Absent { ttl: LONG_TTL })),
                Ok(Found::Nothing) => reply(Ok(Lookup::Absent { ttl: SHORT_TTL })),
                Err(error) => {
                    tracing::error!(directory = %dir, name = ?String::from_utf8_lossy(&name), %error, "lookup failed");
                    reply(Err(Errno::EIO));
                }
            }
        });
    }

    /// Answers a lookup that was counted, and takes the count back if there is no such file after all.
    fn found_file(&self, file: Arc<LiveFile<S>>, reply: Reply<Lookup>) {
        let (this, ino) = (self.clone(), file.ino);
        file.head(Box::new(move |result| {
            if result.is_err() {
                this.tree.forget(ino, 1);
            }
            reply(match result {
                Ok((head, attr_ttl)) => Ok(Lookup::Found {
                    attr: this.file_attr(ino, head),
                    attr_ttl,
                }),
                Err(Errno::ENOENT) => Ok(Lookup::Absent { ttl: SHORT_TTL }),
                Err(errno) => Err(errno),
            });
        }));
    }

    /// The kernel forgot `count` lookups of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.tree.forget(ino, count);
    }

    /// Attributes, and how long the kernel may keep them.
    pub fn getattr(&self, ino: u64, reply: Reply<(Attr, Duration)>) {
        match self.tree.node(ino) {
            None => reply(Err(Errno::ESTALE)),
            Some(Node::Dir(_)) => reply(Ok((self.dir_attr(ino), LONG_TTL))),
            Some(Node::File(file)) => {
                let this = self.clone();
                file.head(Box::new(move |result| {
                    reply(result.map(|(head, ttl)| (this.file_attr(ino, head), ttl)));
                }));
            }
        }
    }

    /// Opens a database for reading by thread `thread`; answers with the handle. `private`: reads of the handle bypass
    /// the page cache, so that it can keep the snapshot it was opened with.
    pub fn open(&self, ino: u64, thread: u32, private: bool, reply: Reply<u64>) {
        match self.tree.node(ino) {
            None => reply(Err(Errno::ESTALE)),
            Some(Node::Dir(_)) => reply(Err(Errno::EISDIR)),
            Some(Node::File(file)) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                let request = OpenRequest {
                    handle,
                    thread,
                    private,
                };
                file.open(
                    request,
                    Box::new(move |result| reply(result.map(|()| handle))),
                );
            }
        }
    }

    /// Reads up to `len` bytes, fewer only at the end of the file. `is_direct` says that they go to the reader alone, and not into the
    /// page cache.
    pub fn read(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        len: usize,
        is_direct: bool,
        reply: Reply<Vec<u8>>,
    ) {
        match self.file(ino) {
            Ok(file) => file.read(handle, offset, len, is_direct, reply),
            Err(errno) => reply(Err(errno)),
        }
    }

    /// A process (`owner`) closed a descriptor.
    ///
    /// # Errors
    /// `EBADF` if there is no such file.
    pub fn flush(&self, ino: u64, owner: u64) -> Result<(), Errno> {
        self.file(ino)?.flush(owner);
        Ok(())
    }

    /// A handle is gone.
    ///
    /// # Errors
    /// `EBADF` if there is no such file.
    pub fn release(&self, ino: u64, handle: u64) -> Result<(), Errno> {
        self.file(ino)?.release(handle);
        Ok(())
    }

    /// Sets or clears a byte-range lock.
    pub fn set_lock(&self, ino: u64, handle: u64, request: LockRequest, reply: Reply<()>) {
        match self.file(ino) {
            Ok(file) => file.set_lock(handle, request, reply),
            Err(errno) => reply(Err(errno)),
        }
    }

    /// The lock that stands in the way of `request`, if there is one.
    ///
    /// # Errors
    /// `EBADF` if there is no such file or handle.
    pub fn get_lock(
        &self,
        ino: u64,
        handle: u64,
        request: &LockRequest,
    ) -> Result<Option<LockRequest>, Errno> {
        self.file(ino)?.get_lock(handle, request)
    }

    /// Opens a directory; the handle keeps the entries of this moment.
    pub fn open_dir(&self, ino: u64, reply: Reply<u64>) {
        let dir = match self.dir(ino) {
            Ok(dir) => dir,
            Err(errno) => return reply(Err(errno)),
        };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let this = self.clone();
        self.shared.runtime.spawn(async move {
            reply(match this.tree.listing(&dir).await {
                Ok(listing) => {
                    this.open_dirs
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(handle, listing);
                    Ok(handle)
                }
                Err(error) => {
                    tracing::error!(directory = %dir, %error, "listing failed");
                    Err(Errno::EIO)
                }
            });
        });
    }

    /// The entries from `offset` on, to be taken for as long as they fit.
    ///
    /// # Errors
    /// `EBADF` if there is no such handle.
    pub fn read_dir(&self, ino: u64, handle: u64, offset: u64) -> Result<Vec<DirEntry>, Errno> {
        /// More than fit into one answer; the rest is asked for again.
        const ENTRIES_MAX: usize = 1_024;
        let dir = self.dir(ino)?;
        let open_dirs = self
            .open_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let listing = open_dirs.get(&handle).ok_or(Errno::EBADF)?.clone();
        drop(open_dirs);
        let dots = [(&b"."[..], dir.ino), (&b".."[..], dir.parent)];
        let dots = dots
            .into_iter()
            .map(|(name, ino)| (name, EntryKind::Directory, Some(ino)));
        let all = dots.chain(listing.iter().map(|(name, kind)| (name, kind, None)));
        let wanted = (1..)
            .zip(all)
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            .take(ENTRIES_MAX);
        Ok(wanted
            .map(|(next_offset, (name, kind, known))| DirEntry {
                ino: known
                    .or_else(|| self.tree.known_ino(ino, name))
                    .unwrap_or(UNKNOWN_INO),
                kind,
                name: name.to_vec(),
                next_offset,
            })
            .collect())
    }

    /// A directory handle is gone.
    pub fn release_dir(&self, handle: u64) {
        self.open_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
    }

    fn file(&self, ino: u64) -> Result<Arc<LiveFile<S>>, Errno> {
        match self.tree.node(ino) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(Errno::EBADF),
        }
    }

    fn dir(&self, ino: u64) -> Result<Arc<Dir>, Errno> {
        match self.tree.node(ino) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ESTALE),
        }
    }

    fn file_attr(&self, ino: u64, head: Head) -> Attr {
        let Options { uid, gid, .. } = self.shared.options;
        let perm = self.shared.options.file_perm();
        Attr {
            ino,
            kind: EntryKind::Database,
            size: head.len,
            mtime_ns: head.mtime_ns,
            perm,
            uid,
            gid,
        }
    }

    fn dir_attr(&self, ino: u64) -> Attr {
        let Options { uid, gid, .. } = self.shared.options;
        let perm = self.shared.options.dir_perm();
        Attr {
            ino,
            kind: EntryKind::Directory,
            size: 0,
            mtime_ns: self.mounted_ns,
            perm,
            uid,
            gid,
        }
    }
}

impl<S: Source> Clone for FileSystem<S> {
    /// The same file system; a clone is what a task keeps.
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            tree: self.tree.clone(),
            next_handle: self.next_handle.clone(),
            open_dirs: self.open_dirs.clone(),
            mounted_ns: self.mounted_ns,
        }
    }
}
