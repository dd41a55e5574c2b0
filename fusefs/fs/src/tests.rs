//! What a mount shows of names, shown through the requests that the glue forwards.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::runtime::Runtime;

use crate::fs::{Attr, DirEntry, FileSystem, Lookup, UNKNOWN_INO};
use crate::locks::{LockKind, LockRequest, SHARED_FIRST, SHARED_LAST};
use crate::options::{LISTING_MAX_AGE, LONG_TTL, Options, SHORT_TTL};
use crate::source::EntryKind;
use crate::testing::*;

const ROOT: u64 = 1;

struct Stage {
    store: MemorySource,
    kernel: Recorder,
    fs: FileSystem<MemorySource>,
    _runtime: Runtime,
}

impl Stage {
    fn new(paths: &[&str]) -> Self {
        let (runtime, store, kernel) = (runtime(), MemorySource::default(), Recorder::default());
        for path in paths {
            store.put(path, vec![0; 10]);
        }
        let refresh_interval = Duration::from_millis(5);
        let options = Options {
            refresh_interval,
            uid: 12,
            gid: 34,
            umask: 0o027,
        };
        let handle = runtime.handle().clone();
        let fs = FileSystem::new(store.clone(), handle, options, Arc::new(kernel.clone())).unwrap();
        Self {
            store,
            kernel,
            fs,
            _runtime: runtime,
        }
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Lookup, Errno> {
        wait(|reply| self.fs.lookup(parent, name, reply))
    }

    /// The attributes of what must exist.
    fn find(&self, path: &str) -> Attr {
        let mut ino = ROOT;
        let mut found = None;
        for name in path.split('/') {
            match self.lookup(ino, name.as_bytes()) {
                Ok(Lookup::Found { attr, .. }) => {
                    ino = attr.ino;
                    found = Some(attr);
                }
                other => panic!("{path}: {name}: {other:?}"),
            }
        }
        found.unwrap()
    }

    fn entries(&self, ino: u64) -> Vec<DirEntry> {
        let handle = wait(|reply| self.fs.open_dir(ino, reply)).unwrap();
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            // One at a time, as a kernel with a tiny buffer would.
            let offset = all.last().map_or(0, |entry| entry.next_offset);
            match self
                .fs
                .read_dir(ino, handle, offset)
                .unwrap()
                .into_iter()
                .next()
            {
                Some(entry) => all.push(entry),
                None => break,
            }
        }
        self.fs.release_dir(handle);
        assert_eq!(self.fs.read_dir(ino, handle, 0), Err(Errno::EBADF));
        all
    }

    fn names(&self, ino: u64) -> Vec<String> {
        self.entries(ino)
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
            .collect()
    }
}

#[test]
fn hosts_lead_to_directories_and_those_to_databases() {
    let stage = Stage::new(&["/var/lib/a.db", "/var/lib/b.db", "/var/c"]);
    assert_eq!(
        stage.names(ROOT),
        [".", "..", HOST],
        "names that could leave the mount are not shown"
    );
    let dir = stage.find("host/var/lib");
    assert_eq!(
        (dir.kind, dir.perm, dir.uid, dir.gid),
        (EntryKind::Directory, 0o550, 12, 34)
    );
    let file = stage.find("host/var/lib/a.db");
    assert_eq!(
        (file.kind, file.perm, file.size),
        (EntryKind::Database, 0o440, 10)
    );
    let entries = stage.entries(dir.ino);
    let seen: Vec<_> = entries
        .iter()
        .map(|e| (e.name.as_slice(), e.kind, e.ino))
        .collect();
    let parent = stage.find("host/var").ino;
    assert_eq!(
        seen,
        [
            (&b"."[..], EntryKind::Directory, dir.ino),
            (b"..", EntryKind::Directory, parent),
            (b"a.db", EntryKind::Database, file.ino),
            (b"b.db", EntryKind::Database, UNKNOWN_INO),
        ]
    );
}

#[test]
fn names_that_could_leave_the_mount_lead_nowhere() {
    let stage = Stage::new(&["/db", "/../../etc/passwd"]);
    let host = stage.find("host").ino;
    for name in ["..", ".", "", "../..", "db/", "\0"] {
        assert_eq!(
            stage.lookup(host, name.as_bytes()),
            Ok(Lookup::Absent { ttl: SHORT_TTL }),
            "{name}"
        );
        assert_eq!(
            stage.lookup(ROOT, name.as_bytes()),
            Ok(Lookup::Absent { ttl: SHORT_TTL }),
            "{name}"
        );
    }
    assert_eq!(stage.names(host), [".", "..", "db"]);
}

#[test]
fn sidecars_of_a_database_stay_absent_without_asking_the_store() {
    let stage = Stage::new(&["/a.db", "/a.db-journal", "/other-wal"]);
    let host = stage.find("host").ino;
    stage.find("host/a.db");
    let asked = stage.store.requests();
    for name in ["a.db-journal", "a.db-wal", "a.db-shm"] {
        assert_eq!(
            stage.lookup(host, name.as_bytes()),
            Ok(Lookup::Absent { ttl: LONG_TTL })
        );
    }
    assert_eq!(stage.store.requests(), asked);
    assert_eq!(
        stage.lookup(host, b"x-journal"),
        Ok(Lookup::Absent { ttl: SHORT_TTL })
    );
    stage.find("host/other-wal");
}

#[test]
fn names_that_appear_or_vanish_are_dropped_from_the_kernel() {
    let stage = Stage::new(&["/old"]);
    let host = stage.find("host").ino;
    stage.find("host/old");
    stage.store.put("/new", vec![0; 5]);
    stage.store.remove("/old");
    std::thread::sleep(LISTING_MAX_AGE);
    assert_eq!(stage.names(host), [".", "..", "new"]);
    for name in ["old", "new"] {
        eventually("dropped", || {
            stage.kernel.has(&Event::Name(host, name.into()))
        });
    }
    assert_eq!(stage.find("host/new").size, 5);
}

#[test]
fn a_forgotten_inode_is_gone_and_its_number_never_comes_back() {
    let stage = Stage::new(&["/db"]);
    let first = stage.find("host/db").ino;
    assert_eq!(stage.find("host/db").ino, first);
    stage.fs.forget(first, 1);
    assert_eq!(
        stage.find("host/db").ino,
        first,
        "two lookups, one forgotten"
    );
    stage.fs.forget(first, 2);
    assert_eq!(
        wait(|reply| stage.fs.getattr(first, reply)),
        Err(Errno::ESTALE)
    );
    assert!(stage.find("host/db").ino > first);
    stage.fs.forget(ROOT, 100);
    assert!(wait(|reply| stage.fs.getattr(ROOT, reply)).is_ok());
}

#[test]
fn a_retired_inode_is_replaced_for_new_openers() {
    let stage = Stage::new(&["/db"]);
    let old = stage.find("host/db").ino;
    let handle = wait(|reply| stage.fs.open(old, 1, false, reply)).unwrap();
    let request = LockRequest {
        owner: 1,
        pid: 1,
        start: SHARED_FIRST,
        end: SHARED_LAST,
        kind: LockKind::Read,
    };
    wait(|reply| stage.fs.set_lock(old, handle, request, reply)).unwrap();
    stage.store.put("/db", vec![1; 20]);
    eventually("new openers get a fresh inode", || {
        stage.find("host/db").ino != old
    });
    assert_eq!(stage.find("host/db").size, 20);
    assert_eq!(
        wait(|reply| stage.fs.read(old, handle, 0, 100, false, reply)),
        Ok(vec![0; 10])
    );
}

#[test]
fn a_store_that_is_away_is_an_error_and_not_an_empty_directory() {
    let stage = Stage::new(&["/db"]);
    stage.store.set_away(true);
    assert_eq!(
        wait(|reply| stage.fs.open_dir(ROOT, reply)),
        Err(Errno::EIO)
    );
    assert_eq!(stage.lookup(ROOT, b"host"), Err(Errno::EIO));
}

#[test]
fn requests_for_the_wrong_kind_of_inode_are_refused() {
    let stage = Stage::new(&["/db"]);
    let file = stage.find("host/db").ino;
    assert_eq!(stage.lookup(file, b"x"), Err(Errno::ENOTDIR));
    assert_eq!(
        wait(|reply| stage.fs.open(ROOT, 1, false, reply)),
        Err(Errno::EISDIR)
    );
    assert_eq!(
        wait(|reply| stage.fs.open(999, 1, false, reply)),
        Err(Errno::ESTALE)
    );
    assert_eq!(
        wait(|reply| stage.fs.open_dir(file, reply)),
        Err(Errno::ENOTDIR)
    );
    assert_eq!(stage.fs.flush(ROOT, 1), Err(Errno::EBADF));
    assert_eq!(stage.fs.release(999, 1), Err(Errno::EBADF));
}
