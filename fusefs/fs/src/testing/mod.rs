//! Doubles for unit tests: a store in memory and a kernel that records what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::kernel::Kernel;
use crate::source::{Entry, EntryKind, Head, Loaded, Snapshot, Source, SourceError};

/// Granularity of [`MemorySnapshot::diff`].
pub const BLOCK: usize = 4_096;

/// A store in memory: one host, any number of databases.
#[derive(Clone, Default)]
pub struct MemorySource(Arc<Inner>);

#[derive(Default)]
struct Inner {
    databases: Mutex<BTreeMap<Vec<u8>, Arc<MemorySnapshot>>>,
    requests: AtomicU64,
    is_away: AtomicBool,
}

pub struct MemorySnapshot {
    bytes: Vec<u8>,
    version: u64,
    /// `None`: everything is in memory.
    gate: Option<Arc<Semaphore>>,
}

pub const HOST: &str = "host";

impl MemorySource {
    /// The next version of a database, all of it in memory.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.put_gated(path, bytes, None);
    }

    /// The same; beyond the first and the last page every read waits for the gate.
    pub fn put_gated(&self, path: &str, bytes: Vec<u8>, gate: Option<Arc<Semaphore>>) {
        let mut databases = self.0.databases.lock().unwrap();
        let version = databases
            .get(path.as_bytes())
            .map_or(1, |old| old.version + 1);
        databases.insert(
            path.into(),
            Arc::new(MemorySnapshot {
                bytes,
                version,
                gate,
            }),
        );
    }

    pub fn remove(&self, path: &str) {
        self.0.databases.lock().unwrap().remove(path.as_bytes());
    }

    pub fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::SeqCst);
    }

    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    fn request(&self) -> Result<(), SourceError> {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        match self.0.is_away.load(Ordering::SeqCst) {
            true => Err(SourceError("the store is away".into())),
            false => Ok(()),
        }
    }
}

impl Source for MemorySource {
    type Snapshot = MemorySnapshot;

    async fn hosts(&self) -> Result<Vec<String>, SourceError> {
        self.request()?;
        Ok(vec![HOST.into(), "..".into(), "a/b".into()])
    }

    async fn list(&self, host: &str, dir: &[u8]) -> Result<Vec<Entry>, SourceError> {
        self.request()?;
        assert_eq!(host, HOST);
        let mut entries = BTreeSet::new();
        for path in self.0.databases.lock().unwrap().keys() {
            let Some(rest) = path.strip_prefix(dir) else {
                continue;
            };
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            let mut parts = rest.splitn(2, |byte| *byte == b'/');
            let name = parts.next().unwrap_or_default().to_vec();
            entries.insert((name, parts.next().is_some()));
        }
        let kind = |is_dir| {
            if is_dir {
                EntryKind::Directory
            } else {
                EntryKind::Database
            }
        };
        Ok(entries
            .into_iter()
            .map(|(name, is_dir)| Entry {
                name,
                kind: kind(is_dir),
            })
            .collect())
    }

    async fn head(&self, _host: &str, path: &[u8]) -> Result<Option<Head>, SourceError> {
        self.request()?;
        Ok(self
            .0
            .databases
            .lock()
            .unwrap()
            .get(path)
            .map(|snapshot| snapshot.head()))
    }

    async fn load(
        &self,
        _host: &str,
        path: &[u8],
        known: Option<&Arc<MemorySnapshot>>,
    ) -> Result<Loaded<MemorySnapshot>, SourceError> {
        self.request()?;
        Ok(match self.0.databases.lock().unwrap().get(path) {
            None => Loaded::Missing,
            Some(newest) if known.is_some_and(|known| known.version == newest.version) => {
                Loaded::Unchanged
            }
            Some(newest) => Loaded::New(newest.clone()),
        })
    }
}

impl MemorySnapshot {
    fn is_in_memory(&self, offset: u64) -> bool {
        self.gate.is_none()
            || offset < BLOCK as u64
            || offset + BLOCK as u64 >= self.bytes.len() as u64
    }

    fn slice(&self, offset: u64, len: usize) -> Vec<u8> {
        let start = (offset as usize).min(self.bytes.len());
        self.bytes[start..start.saturating_add(len).min(self.bytes.len())].to_vec()
    }
}

impl Snapshot for MemorySnapshot {
    fn head(&self) -> Head {
        Head {
            len: self.bytes.len() as u64,
            mtime_ns: self.version as i64,
        }
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        self.is_in_memory(offset).then(|| self.slice(offset, len))
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        if let (false, Some(gate)) = (self.is_in_memory(offset), &self.gate) {
            gate.acquire()
                .await
                .map_err(|_| SourceError("damaged".into()))?
                .forget();
        }
        Ok(self.slice(offset, len))
    }

    async fn diff(&self, newer: &Self) -> Result<Vec<Range<u64>>, SourceError> {
        let len = self.bytes.len().max(newer.bytes.len()) as u64;
        let blocks = (0..len).step_by(BLOCK);
        let differs = |start: &u64| self.slice(*start, BLOCK) != newer.slice(*start, BLOCK);
        Ok(blocks
            .filter(differs)
            .map(|start| start..(start + BLOCK as u64).min(len))
            .collect())
    }
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Data(u64, Range<u64>),
    Attributes(u64),
    Name(u64, String),
    Store(u64, u64, Vec<u8>),
    /// Noted by a test.
    Answer(String),
}

/// A kernel that records, and waits inside [`Kernel::invalidate_data`] while it is told to.
#[derive(Clone, Default)]
pub struct Recorder {
    events: Arc<Mutex<Vec<Event>>>,
    is_held: Arc<AtomicBool>,
}

impl Recorder {
    pub fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    pub fn has(&self, event: &Event) -> bool {
        self.events.lock().unwrap().contains(event)
    }

    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::SeqCst);
    }
}

impl Kernel for Recorder {
    fn invalidate_data(&self, ino: u64, range: Range<u64>) -> io::Result<()> {
        self.note(Event::Data(ino, range));
        while self.is_held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn invalidate_attributes(&self, ino: u64) -> io::Result<()> {
        self.note(Event::Attributes(ino));
        Ok(())
    }

    fn invalidate_name(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.note(Event::Name(
            parent,
            String::from_utf8_lossy(name).into_owned(),
        ));
        Ok(())
    }

    fn store(&self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Event::Store(ino, offset, data.to_vec()));
        Ok(())
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A runtime for what the file system does in the background.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Calls something that answers through a reply, and waits for the answer.
pub fn wait<T: Send + 'static>(
    call: impl FnOnce(crate::fs::Reply<T>),
) -> Result<T, nix::errno::Errno> {
    let (sender, receiver) = std::sync::mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    receiver
        .recv_timeout(Duration::from_secs(20))
        .expect("an answer within 20 s")
}
