//! What a live file promises to the readers of one inode, shown with a store in memory and a recording kernel: this
//! file sets the stage, `advancing` shows when and how it moves, `serving` what it serves and at what cost.

mod advancing;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::runtime::Runtime;

use super::*;
use crate::locks::{LockKind, LockRequest, SHARED_FIRST, SHARED_LAST};
use crate::testing::*;

const INO: u64 = 42;
const PATH: &str = "/db";

struct Stage {
    store: MemorySource,
    kernel: Recorder,
    file: Arc<LiveFile<MemorySource>>,
    next_handle: u64,
    // Last: the file's tasks end before what they use.
    _runtime: Runtime,
}

/// A database of `pages` pages; every byte that the header does not define is `fill`.
fn database(fill: u8, pages: usize, version: u8, counter: u32) -> Vec<u8> {
    let mut bytes = vec![fill; pages * BLOCK];
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[18..20].fill(version);
    bytes[24..28].copy_from_slice(&counter.to_be_bytes());
    bytes[92..96].copy_from_slice(&counter.to_be_bytes());
    bytes
}

impl Stage {
    fn new(refresh_ms: u64, first: Vec<u8>) -> Self {
        let (runtime, store, kernel) = (runtime(), MemorySource::default(), Recorder::default());
        store.put(PATH, first);
        let refresh_interval = Duration::from_millis(refresh_ms);
        let options = Options {
            refresh_interval,
            uid: 1,
            gid: 2,
            umask: Options::DEFAULT_UMASK,
        };
        let notify = Notifications::start(Arc::new(kernel.clone())).unwrap();
        let mut shared = Shared::new(store.clone(), runtime.handle().clone(), options, notify);
        shared.process_of = |thread| Some(thread / 10);
        let place = Place {
            parent: 7,
            name: b"db".to_vec(),
            host: HOST.into(),
            path: PATH.into(),
        };
        let file = Arc::new(LiveFile::new(INO, place, Arc::new(shared)));
        Self {
            store,
            kernel,
            file,
            next_handle: 1,
            _runtime: runtime,
        }
    }

    /// Opens as a thread of process `process`.
    fn open(&mut self, process: u32, private: bool) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        let request = OpenRequest {
            handle,
            thread: process * 10 + 3,
            private,
        };
        wait(|reply| self.file.open(request, reply)).unwrap();
        handle
    }

    fn request(process: u32, kind: LockKind) -> LockRequest {
        LockRequest {
            owner: process.into(),
            pid: process,
            start: SHARED_FIRST,
            end: SHARED_LAST,
            kind,
        }
    }

    fn lock(&self, handle: u64, process: u32) {
        wait(|reply| {
            self.file
                .set_lock(handle, Self::request(process, LockKind::Read), reply)
        })
        .unwrap();
    }

    fn unlock(&self, handle: u64, process: u32) {
        wait(|reply| {
            self.file
                .set_lock(handle, Self::request(process, LockKind::Unlock), reply)
        })
        .unwrap();
    }

    /// Asks for the lock; the answer is noted as an event.
    fn lock_later(&self, handle: u64, process: u32) {
        let kernel = self.kernel.clone();
        let reply = Box::new(move |result| kernel.note(Event::Answer(format!("{result:?}"))));
        self.file
            .set_lock(handle, Self::request(process, LockKind::Read), reply);
    }

    fn read(&self, handle: u64, offset: usize, len: usize) -> Result<Vec<u8>, Errno> {
        self.read_as(handle, offset, len, false)
    }

    fn read_as(
        &self,
        handle: u64,
        offset: usize,
        len: usize,
        is_direct: bool,
    ) -> Result<Vec<u8>, Errno> {
        wait(|reply| self.file.read(handle, offset as u64, len, is_direct, reply))
    }

    /// One byte that the content defines.
    fn fill(&self, handle: u64) -> Result<u8, Errno> {
        self.read(handle, BLOCK - 1, 1).map(|bytes| bytes[0])
    }

    /// The same, past the page cache.
    fn fill_direct(&self, handle: u64) -> Result<u8, Errno> {
        self.read_as(handle, BLOCK - 1, 1, true)
            .map(|bytes| bytes[0])
    }

    fn wait_until_ready(&self) {
        eventually("a newer snapshot is ready", || {
            self.file.lock().ready.is_some()
        });
    }
}

fn answered() -> Event {
    Event::Answer("Ok(())".into())
}
