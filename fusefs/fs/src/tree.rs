//! The inode table and the directories: `fs` asks it for nodes, it asks `source` for listings and makes `live` files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::live::{LiveFile, Place, Shared};
use crate::names::{Listing, join, sidecar_of};
use crate::options::LISTING_MAX_AGE;
use crate::source::{Entry, EntryKind, Source, SourceError};

/// The inode of the mount's root.
pub const ROOT_INO: u64 = 1;

/// What an inode number stands for.
pub enum Node<S: Source> {
    Dir(Arc<Dir>),
    File(Arc<LiveFile<S>>),
}

impl<S: Source> Clone for Node<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Dir(dir) => Self::Dir(dir.clone()),
            Self::File(file) => Self::File(file.clone()),
        }
    }
}

/// A directory: the root (hosts), or a directory of a host.
pub struct Dir {
    pub ino: u64,
    pub parent: u64,
    /// `None`: the root.
    host: Option<String>,
    /// Absolute path on the host.
    path: Vec<u8>,
    listing: tokio::sync::Mutex<Option<(Arc<Listing>, Instant)>>,
}

/// The inode table.
pub struct Tree<S: Source> {
    shared: Arc<Shared<S>>,
    table: Mutex<Table<S>>,
}

struct Table<S: Source> {
    nodes: HashMap<u64, Slot<S>>,
    /// The inode that a name leads to now; a retired one stays in `nodes` only.
    names: HashMap<(u64, Vec<u8>), u64>,
    /// Never reused, so that a late request can't reach another file.
    next_ino: u64,
}

struct Slot<S: Source> {
    node: Node<S>,
    name: (u64, Vec<u8>),
    /// How often the kernel was told about it, minus what it forgot.
    lookups: u64,
}

impl<S: Source> Tree<S> {
    pub fn new(shared: Arc<Shared<S>>) -> Self {
        let root = Dir {
            ino: ROOT_INO,
            parent: ROOT_INO,
            host: None,
            path: Vec::new(),
            listing: tokio::sync::Mutex::default(),
        };
        let slot = Slot {
            node: Node::Dir(Arc::new(root)),
            name: (0, Vec::new()),
            lookups: 1,
        };
        let table = Table {
            nodes: HashMap::from([(ROOT_INO, slot)]),
            names: HashMap::new(),
            next_ino: ROOT_INO + 1,
        };
        Self {
            shared,
            table: Mutex::new(table),
        }
    }

    pub fn node(&self, ino: u64) -> Option<Node<S>> {
        self.lock().nodes.get(&ino).map(|slot| slot.node.clone())
    }

    /// The inode that `name` leads to, if the kernel knows one.
    pub fn known_ino(&self, parent: u64, name: &[u8]) -> Option<u64> {
        self.lock().names.get(&(parent, name.to_vec())).copied()
    }

    /// A lookup that needs nothing from the store: an open database (counted as looked up), or a sidecar of one.
    pub fn lookup_known(&self, parent: u64, name: &[u8]) -> Option<Known<S>> {
        let mut table = self.lock();
        if let Some(base) = sidecar_of(name)
            && table.file(parent, base).is_some()
        {
            return Some(Known::Sidecar);
        }
        let file = table
            .file(parent, name)
            .filter(|file| file.is_watched() && !file.is_retired())?;
        table.count(file.ino);
        Some(Known::File(file))
    }

    /// What the listing of `dir` says about `name`; counted as looked up.
    pub async fn lookup(&self, dir: &Dir, name: &[u8]) -> Result<Found<S>, SourceError> {
        let listing = dir.listing(&self.shared).await?;
        match listing.get(name) {
            Some(kind) => Ok(Found::Node(self.lock().enter(
                &self.shared,
                dir,
                name,
                kind,
            ))),
            None => Ok(match sidecar_of(name).and_then(|base| listing.get(base)) {
                Some(EntryKind::Database) => Found::Sidecar,
                _ => Found::Nothing,
            }),
        }
    }

    /// The entries of `dir`.
    pub async fn listing(&self, dir: &Dir) -> Result<Arc<Listing>, SourceError> {
        dir.listing(&self.shared).await
    }

    /// The kernel forgot `count` lookups of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        let mut table = self.lock();
        let Some(slot) = table.nodes.get_mut(&ino) else {
            return;
        };
        slot.lookups = slot.lookups.saturating_sub(count);
        if slot.lookups == 0 && ino != ROOT_INO {
            let name = slot.name.clone();
            table.nodes.remove(&ino);
            if table.names.get(&name) == Some(&ino) {
                table.names.remove(&name);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table<S>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of [`Tree::lookup_known`].
pub enum Known<S: Source> {
    File(Arc<LiveFile<S>>),
    Sidecar,
}

/// The answer of [`Tree::lookup`].
pub enum Found<S: Source> {
    Node(Node<S>),
    /// Absent for as long as the database beside it exists.
    Sidecar,
    Nothing,
}

impl<S: Source> Table<S> {
    fn file(&self, parent: u64, name: &[u8]) -> Option<Arc<LiveFile<S>>> {
        let ino = self.names.get(&(parent, name.to_vec()))?;
        match &self.nodes.get(ino)?.node {
            Node::File(file) => Some(file.clone()),
            Node::Dir(_) => None,
        }
    }

    fn count(&mut self, ino: u64) {
        if let Some(slot) = self.nodes.get_mut(&ino) {
            slot.lookups += 1;
        }
    }

    /// The node of an entry: the one that the name leads to, unless that is of another kind or retired.
    fn enter(
        &mut self,
        shared: &Arc<Shared<S>>,
        dir: &Dir,
        name: &[u8],
        kind: EntryKind,
    ) -> Node<S> {
        let key = (dir.ino, name.to_vec());
        if let Some(slot) = self.names.get(&key).and_then(|ino| self.nodes.get_mut(ino)) {
            let fits = match &slot.node {
                Node::Dir(_) => kind == EntryKind::Directory,
                Node::File(file) => kind == EntryKind::Database && !file.is_retired(),
            };
            if fits {
                slot.lookups += 1;
                return slot.node.clone();
            }
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let (host, path) = match &dir.host {
            Some(host) => (host.clone(), join(&dir.path, name)),
            None => (String::from_utf8_lossy(name).into_owned(), b"/".to_vec()),
        };
        let node = match kind {
            EntryKind::Directory => {
                let listing = tokio::sync::Mutex::default();
                Node::Dir(Arc::new(Dir {
                    ino,
                    parent: dir.ino,
                    host: Some(host),
                    path,
                    listing,
                }))
            }
            EntryKind::Database => {
                let place = Place {
                    parent: dir.ino,
                    name: name.to_vec(),
                    host,
                    path,
                };
                Node::File(Arc::new(LiveFile::new(ino, place, shared.clone())))
            }
        };
        self.nodes.insert(
            ino,
            Slot {
                node: node.clone(),
                name: key.clone(),
                lookups: 1,
            },
        );
        self.names.insert(key, ino);
        node
    }
}

impl Dir {
    /// The listing, at most [`LISTING_MAX_AGE`] old; one request at a time.
    async fn listing<S: Source>(&self, shared: &Shared<S>) -> Result<Arc<Listing>, SourceError> {
        let mut cached = self.listing.lock().await;
        if let Some((listing, fetched)) = &*cached
            && fetched.elapsed() < LISTING_MAX_AGE
        {
            return Ok(listing.clone());
        }
        let asked = Instant::now();
        let entries = match &self.host {
            Some(host) => shared.source.list(host, &self.path).await?,
            None => {
                let hosts = shared.source.hosts().await?;
                hosts
                    .into_iter()
                    .map(|host| Entry {
                        name: host.into(),
                        kind: EntryKind::Directory,
                    })
                    .collect()
            }
        };
        let listing = Arc::new(Listing::new(entries));
        if let Some((old, _)) = cached.replace((listing.clone(), asked)) {
            for name in old.changed_names(&listing) {
                shared.notify.name(self.ino, name);
            }
        }
        Ok(listing)
    }
}

impl std::fmt::Display for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            // Quoted: names of a store must not move the cursor of whoever reads the log.
            Some(host) => {
                let name = format!("{host}:{}", String::from_utf8_lossy(&self.path));
                write!(f, "{name:?}")
            }
            None => write!(f, "the list of hosts"),
        }
    }
}
