//! What surrounds the real code in the model: a database file with locks and journal, SQLite's order of calls, and a store that accepts
//! committed states only. `copier` drains it, `tests` say who runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::chunks::CHUNK_LEN_BYTES;
use crate::database::{Database, DatabaseInfo};
use crate::model::sync::{begin, enter_kernel};
use crate::spool::Spool;
use crate::writer::Writer;

const BOOT_ID: [u8; 16] = [7; 16];
const CHUNK_LEN: usize = CHUNK_LEN_BYTES as usize;
/// Where SQLite's change counter is.
const COUNTER_AT: usize = 24;

/// What a transaction writes, beside the change counter: this byte, at a place of its own in each of these chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes {
    pub value: u8,
    pub chunks: &'static [u32],
}

/// Where the files of all executions of a model are.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        Self {
            dir: dir.expect("a temporary directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }
}

/// One execution's database.
pub(crate) struct World {
    pub database: Arc<Database>,
    pub file: File,
    state: Mutex<FileState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    No,
    Shared,
    Exclusive,
}

#[derive(Debug)]
pub(crate) struct FileState {
    pub locked: Locked,
    /// The file as it was before the transaction that goes on, or that died.
    pub journal: Option<Vec<u8>>,
    /// Every state that was ever committed, in order.
    pub committed: Vec<Vec<u8>>,
    /// The waker was called since the copier looked last.
    pub is_woken: bool,
}

impl World {
    pub fn new(place: &Place, chunks: usize) -> Arc<Self> {
        begin();
        let (path, root) = (place.path(), place.dir.path().join("spool"));
        let spool = Spool::at(&root).with_boot_id(BOOT_ID);
        for folder in spool
            .contents()
            .map(|contents| contents.folders)
            .unwrap_or_default()
        {
            fs::remove_dir_all(folder).expect("removing what the last execution left");
        }
        let mut content = vec![0; chunks * CHUNK_LEN];
        content[16..20].copy_from_slice(&[2, 0, 1, 1]);
        content[COUNTER_AT + 3] = 1;
        fs::write(&path, &content).expect("writing a database");
        let info = DatabaseInfo {
            hostname: "host".to_owned(),
            targets: Vec::new(),
        };
        let database = Database::open(&spool, &path, info);
        assert_eq!(database.trouble(), None);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opening a database");
        let world = Arc::new(Self {
            database,
            file,
            state: Mutex::new(FileState {
                locked: Locked::No,
                journal: None,
                committed: vec![content],
                is_woken: false,
            }),
        });
        let weak = Arc::downgrade(&world);
        world.database.set_waker(Arc::new(move || {
            if let Some(world) = weak.upgrade() {
                world.call(|state| state.is_woken = true);
            }
        }));
        world
    }

    /// A system call.
    pub fn call<T>(&self, call: impl FnOnce(&mut FileState) -> T) -> T {
        enter_kernel();
        // Not a loom mutex, which would order memory: nobody is preempted while holding it.
        call(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.len()];
        self.file
            .read_exact_at(&mut content, 0)
            .expect("reading the database");
        content
    }

    fn len(&self) -> usize {
        self.file.metadata().expect("looking at the database").len() as usize
    }

    /// How many chunks the file has.
    pub fn chunks(&self) -> u32 {
        self.call(|_| self.len().div_ceil(CHUNK_LEN) as u32)
    }

    pub fn read(&self, chunk: u32) -> Vec<u8> {
        let mut bytes = vec![0; CHUNK_LEN];
        self.call(|_| {
            self.file
                .read_exact_at(&mut bytes, u64::from(chunk) * CHUNK_LEN_BYTES)
        })
        .expect("reading the database");
        bytes
    }

    /// A transaction as SQLite makes it, if nobody else holds a lock: it does not wait. A hot journal is rolled back first.
    pub fn transact(&self, writer: &mut Writer, writes: Writes) {
        let hot = self.call(|state| {
            if state.locked != Locked::No {
                return None;
            }
            state.locked = Locked::Exclusive;
            Some(state.journal.take())
        });
        let Some(hot) = hot else { return };
        if let Some(before) = hot {
            self.call(|state| state.journal = Some(before.clone()));
            self.write(writer, &before);
            self.finish(writer, Locked::Exclusive, false);
        }
        self.transact_locked(writer, writes, true, Locked::Shared);
        self.call(|state| state.locked = Locked::No);
    }

    /// The same under `locking_mode=EXCLUSIVE`: the first transaction takes the lock, and none gives it back; only the first one changes the
    /// counter.
    pub fn transact_exclusive(&self, writer: &mut Writer, writes: Writes) {
        let is_first = self.call(|state| {
            let before = std::mem::replace(&mut state.locked, Locked::Exclusive);
            before != Locked::Exclusive
        });
        self.transact_locked(writer, writes, is_first, Locked::Exclusive);
        writer.keep_exclusive();
    }

    fn transact_locked(&self, writer: &mut Writer, writes: Writes, counts: bool, then: Locked) {
        let before = self.content();
        let after = apply(&before, writes, counts);
        self.call(|state| state.journal = Some(before));
        self.write(writer, &after);
        self.finish(writer, then, true);
    }

    /// Rolls a hot journal back, if there is one: the last thing that a test does before it looks at what was published.
    pub fn recover(&self, writer: &mut Writer) {
        let hot = self.call(|state| {
            let hot = state.journal.clone()?;
            state.locked = Locked::Exclusive;
            Some(hot)
        });
        if let Some(before) = hot {
            self.write(writer, &before);
            self.finish(writer, Locked::Shared, false);
            self.call(|state| state.locked = Locked::No);
        }
    }

    fn write(&self, writer: &mut Writer, after: &[u8]) {
        writer.begin(&self.file);
        let before = self.content();
        // Chunk 0 last: SQLite writes its pages in no order that would help.
        for (chunk, new) in after.chunks(CHUNK_LEN).enumerate().rev() {
            let old = before.get(chunk * CHUNK_LEN..).unwrap_or_default();
            let differs = |k: &usize| old.get(*k) != new.get(*k);
            let Some(first) = (0..CHUNK_LEN).find(differs) else {
                continue;
            };
            let last = (0..CHUNK_LEN).rfind(differs).unwrap_or(first);
            let at = (chunk * CHUNK_LEN + first) as u64;
            let bytes = &new[first..=last];
            writer.will_write(at, bytes.len() as u64);
            self.call(|_| self.file.write_all_at(bytes, at))
                .expect("writing the database");
        }
        if before.len() > after.len() {
            let len = after.len() as u64;
            writer.will_truncate(len);
            self.call(|_| self.file.set_len(len))
                .expect("cutting the database");
        }
    }

    /// The journal is finalised and the lock goes to `then`; the writer hears of it.
    fn finish(&self, writer: &mut Writer, then: Locked, is_commit: bool) {
        let content = self.content();
        self.call(|state| {
            state.journal = None;
            state.locked = then;
            if is_commit {
                state.committed.push(content);
            }
        });
        writer.end(&self.file, || Ok(false));
    }

    /// The kernel gives up the locks of a process that has died.
    pub fn release_dead(&self) {
        self.call(|state| state.locked = Locked::No);
    }
}

/// The content of chunk `chunk`.
pub(crate) fn part(content: &[u8], chunk: u32) -> &[u8] {
    &content[chunk as usize * CHUNK_LEN..(chunk as usize + 1) * CHUNK_LEN]
}

pub(crate) fn counter(chunk: &[u8]) -> u32 {
    u32::from_be_bytes([
        chunk[COUNTER_AT],
        chunk[COUNTER_AT + 1],
        chunk[COUNTER_AT + 2],
        chunk[COUNTER_AT + 3],
    ])
}

fn apply(before: &[u8], writes: Writes, counts: bool) -> Vec<u8> {
    let mut after = before.to_vec();
    let next = counter(before) + u32::from(counts);
    after[COUNTER_AT..COUNTER_AT + 4].copy_from_slice(&next.to_be_bytes());
    for chunk in writes.chunks {
        let len = after.len().max((*chunk as usize + 1) * CHUNK_LEN);
        after.resize(len, 0);
        let at = *chunk as usize * CHUNK_LEN + 32 + usize::from(writes.value) * 4;
        after[at..at + 4].fill(writes.value);
    }
    after
}
