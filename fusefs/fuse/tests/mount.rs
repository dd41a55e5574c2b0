//! A real mount over a store in memory: what the kernel makes of the core's answers. Needs /dev/fuse.
// Helpers too: clippy knows only the bodies of tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use verneuil_fs_core::options::Options;
use verneuil_fs_core::source::{Entry, EntryKind, Head, Loaded, Snapshot, Source, SourceError};
use verneuil_fuse::{MountError, MountOptions, Mounted, mount, prepare, unmount_lazily};

/// One host, `h`, with databases in its root directory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<Vec<u8>, Arc<Version>>>>);

struct Version {
    bytes: Vec<u8>,
    number: i64,
}

impl Memory {
    fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut all = self.0.lock().unwrap();
        let number = all.get(name.as_bytes()).map_or(1, |old| old.number + 1);
        all.insert(name.into(), Arc::new(Version { bytes, number }));
    }

    fn get(&self, path: &[u8]) -> Option<Arc<Version>> {
        self.0
            .lock()
            .unwrap()
            .get(path.strip_prefix(b"/")?)
            .cloned()
    }
}

impl Source for Memory {
    type Snapshot = Version;

    async fn hosts(&self) -> Result<Vec<String>, SourceError> {
        Ok(vec!["h".into()])
    }

    async fn list(&self, _host: &str, _dir: &[u8]) -> Result<Vec<Entry>, SourceError> {
        let names = self.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        Ok(names
            .into_iter()
            .map(|name| Entry {
                name,
                kind: EntryKind::Database,
            })
            .collect())
    }

    async fn head(&self, _host: &str, path: &[u8]) -> Result<Option<Head>, SourceError> {
        Ok(self.get(path).map(|version| version.head()))
    }

    async fn load(
        &self,
        _host: &str,
        path: &[u8],
        known: Option<&Arc<Version>>,
    ) -> Result<Loaded<Version>, SourceError> {
        Ok(match self.get(path) {
            None => Loaded::Missing,
            Some(newest) if known.is_some_and(|known| known.number == newest.number) => {
                Loaded::Unchanged
            }
            Some(newest) => Loaded::New(newest),
        })
    }
}

impl Snapshot for Version {
    fn head(&self) -> Head {
        Head {
            len: self.bytes.len() as u64,
            mtime_ns: self.number * 1_000_000_000,
        }
    }

    fn read_cached(&self, _offset: u64, _len: usize) -> Option<Vec<u8>> {
        None // every read takes the way through a task
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        let start = (offset as usize).min(self.bytes.len());
        Ok(self.bytes[start..(start + len).min(self.bytes.len())].to_vec())
    }

    async fn diff(&self, newer: &Self) -> Result<Vec<Range<u64>>, SourceError> {
        Ok(vec![0..self.bytes.len().max(newer.bytes.len()) as u64])
    }
}

/// A mount that is gone when the test ends, however it ends: a FUSE mount that is left behind hangs whoever looks.
struct Stage {
    store: Memory,
    mountpoint: PathBuf,
    mounted: Option<Mounted>,
    _dir: TempDir,
    _runtime: Runtime,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Memory::default();
        let options = Options {
            refresh_interval: Duration::from_millis(10),
            uid: 12,
            gid: 34,
            umask: Options::DEFAULT_UMASK,
        };
        let mountpoint =
            prepare(dir.path()).expect("these tests need /dev/fuse, and root or fusermount3");
        let handle = runtime.handle().clone();
        let mounted = mount(
            store.clone(),
            handle,
            options,
            &MountOptions::default(),
            &mountpoint,
        )
        .unwrap();
        Self {
            store,
            mountpoint,
            mounted: Some(mounted),
            _dir: dir,
            _runtime: runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join("h").join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A test may have unmounted.
        let _ = unmount_lazily(&self.mountpoint);
        if let Some(mounted) = self.mounted.take() {
            mounted.wait().unwrap();
        }
    }
}

/// As sqlite opens.
fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .unwrap()
}

fn shared_range(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: 0,
        l_start: 0x4000_0002,
        l_len: 510,
        l_pid: 0,
    }
}

fn lock(file: &File, kind: i32) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&shared_range(kind))).unwrap();
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn files_are_read_only_and_owned_as_configured() {
    let stage = Stage::new();
    stage.store.put("db", vec![b'x'; 10_000]);
    stage.store.put("db-wal", vec![b'x']);
    let (file, dir) = (
        stage.path("db").metadata().unwrap(),
        stage.mountpoint.join("h").metadata().unwrap(),
    );
    assert_eq!(
        (file.mode(), file.uid(), file.gid(), file.len()),
        (0o100_440, 12, 34, 10_000)
    );
    assert_eq!((dir.mode(), dir.uid(), dir.gid()), (0o040_550, 12, 34));
    let names: Vec<_> = stage
        .mountpoint
        .join("h")
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        names,
        ["db"],
        "what sqlite would take for its own is hidden"
    );
    assert_eq!(errno(stage.path("db-wal").metadata()), Some(libc::ENOENT));
    assert_eq!(
        errno(OpenOptions::new().write(true).open(stage.path("db"))),
        Some(libc::EROFS)
    );
    assert_eq!(errno(File::create(stage.path("new"))), Some(libc::EROFS));
    assert_eq!(
        errno(std::fs::remove_file(stage.path("db"))),
        Some(libc::EROFS)
    );
    assert_eq!(
        errno(std::fs::rename(stage.path("db"), stage.path("b"))),
        Some(libc::EROFS)
    );
}

#[test]
fn a_locked_file_stays_and_an_unlocked_one_moves_with_its_size_and_pages() {
    let stage = Stage::new();
    stage.store.put("db", vec![0; 100_000]);
    let file = open(&stage.path("db"));
    let read = || {
        let mut bytes = vec![255; 400_000];
        let len = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(len);
        bytes
    };
    for (round, len) in [(1u8, 250_000), (2, 250_000), (3, 5_000), (4, 300_001)] {
        lock(&file, libc::F_RDLCK);
        let before = read();
        stage.store.put("db", vec![round; len]);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(read(), before, "round {round}");
        lock(&file, libc::F_UNLCK);
        lock(&file, libc::F_RDLCK);
        assert_eq!(file.metadata().unwrap().len(), len as u64);
        assert!(
            read() == vec![round; len],
            "round {round}: every page is new"
        );
        lock(&file, libc::F_UNLCK);
    }
}

#[test]
fn a_copy_never_mixes_two_snapshots() {
    let stage = Stage::new();
    stage.store.put("db", vec![1; 500_000]);
    let mut copy = File::open(stage.path("db")).unwrap();
    let mut first = vec![0; 1_000];
    io::Read::read_exact(&mut copy, &mut first).unwrap();
    let reader = open(&stage.path("db"));
    let mut byte = [0];
    stage.store.put("db", vec![2; 600_000]);
    eventually("a reader sees the new snapshot", || {
        lock(&reader, libc::F_RDLCK);
        reader.read_exact_at(&mut byte, 499_999).unwrap();
        lock(&reader, libc::F_UNLCK);
        byte == [2]
    });
    let mut rest = Vec::new();
    io::Read::read_to_end(&mut copy, &mut rest).unwrap();
    assert!(rest == vec![1; 499_000]);
}

/// `sendfile` reads through the page cache, whatever `open` was answered.
#[test]
fn a_file_that_is_sent_neither_mixes_two_snapshots_nor_leaves_old_pages_to_readers() {
    let stage = Stage::new();
    stage.store.put("db", vec![1; 500_000]);
    let sent = |file: &File, len: u64| {
        let mut to = tempfile::tempfile().unwrap();
        // Between files of two file systems, this is `sendfile`.
        let result = io::copy(&mut io::Read::take(file, len), &mut to);
        let mut bytes = vec![0; to.metadata().unwrap().len() as usize];
        to.read_exact_at(&mut bytes, 0).unwrap();
        (result, bytes)
    };
    let reader = open(&stage.path("db"));
    let copy = File::open(stage.path("db")).unwrap();
    let old = File::open(stage.path("db")).unwrap();
    old.read_exact_at(&mut [0; 10], 0).unwrap();
    let (begun, mut bytes) = sent(&copy, 100_000);
    assert_eq!(begun.unwrap(), 100_000);
    stage.store.put("db", vec![2; 500_000]);
    let mut byte = [0];
    eventually("a new opener sees the new snapshot", || {
        let file = open(&stage.path("db"));
        lock(&file, libc::F_RDLCK);
        file.read_exact_at(&mut byte, 499_999).unwrap();
        byte == [2]
    });
    let (_, rest) = sent(&copy, u64::MAX);
    bytes.extend(rest);
    assert!(bytes == vec![1; 500_000], "one snapshot");
    drop(copy);
    eventually("the reader sees the new snapshot", || {
        lock(&reader, libc::F_RDLCK);
        reader.read_exact_at(&mut byte, 0).unwrap();
        lock(&reader, libc::F_UNLCK);
        byte == [2]
    });
    // One that has read the old snapshot would fill pages that are the new one's.
    let (refused, _) = sent(&old, u64::MAX);
    lock(&reader, libc::F_RDLCK);
    let mut bytes = vec![0; 500_000];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == vec![2; 500_000], "no page of the old snapshot");
    assert_eq!(errno(refused), Some(libc::EIO));
}

#[test]
fn new_databases_and_new_sizes_are_seen_without_an_open_file() {
    let stage = Stage::new();
    assert_eq!(errno(stage.path("late").metadata()), Some(libc::ENOENT));
    stage.store.put("late", vec![1; 10]);
    eventually("the new name is seen", || {
        stage.path("late").metadata().is_ok_and(|m| m.len() == 10)
    });
    stage.store.put("late", vec![1; 20]);
    eventually("the new size is seen", || {
        stage.path("late").metadata().is_ok_and(|m| m.len() == 20)
    });
    stage.store.0.lock().unwrap().clear();
    eventually("it is gone", || {
        errno(stage.path("late").metadata()) == Some(libc::ENOENT)
    });
}

#[test]
fn a_reader_that_never_drains_keeps_its_inode_and_new_openers_get_a_fresh_one() {
    let stage = Stage::new();
    stage.store.put("db", vec![1; 10_000]);
    let long = open(&stage.path("db"));
    lock(&long, libc::F_RDLCK);
    stage.store.put("db", vec![2; 20_000]);
    let mut byte = [0];
    eventually("a new opener sees the new snapshot", || {
        let file = open(&stage.path("db"));
        lock(&file, libc::F_RDLCK);
        file.read_exact_at(&mut byte, 0).unwrap();
        byte == [2] && file.metadata().unwrap().ino() != long.metadata().unwrap().ino()
    });
    long.read_exact_at(&mut byte, 9_999).unwrap();
    assert_eq!((byte, long.metadata().unwrap().len()), ([1], 10_000));
}

#[test]
fn a_second_mount_is_refused_and_an_unmount_ends_the_session() {
    let mut stage = Stage::new();
    assert!(matches!(
        prepare(&stage.mountpoint),
        Err(MountError::AlreadyMounted(_))
    ));
    unmount_lazily(&stage.mountpoint).unwrap();
    stage.mounted.take().unwrap().wait().unwrap();
    assert!(prepare(&stage.mountpoint).is_ok());
}
