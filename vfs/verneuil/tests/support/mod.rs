//! What the tests of the `verneuil` VFS share: a world with a spool, a database and a copier that only takes notes.

#![allow(dead_code)] // each test file uses its part

#[path = "../../../abi/tests/common/mod.rs"]
mod common;

use rusqlite::{Connection, OpenFlags};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use verneuil_config::{Config, DirectoryConfig, SpoolConfig, TargetConfig};
use verneuil_spool::{CHUNK_LEN_BYTES, CopierLock, Database, Spool};
use verneuil_tracking::{Replication, ReplicationSetup, TrackingVfs};
use verneuil_unix::UnixOptions;

/// How long a close may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(321);

/// A copier that takes notes.
#[derive(Default)]
pub struct Notes {
    pub served: Mutex<Vec<Arc<Database>>>,
    pub flushes: AtomicUsize,
    pub waits: Mutex<Vec<Duration>>,
    pub failure: Mutex<Option<String>>,
    pub panics: bool,
}

impl Replication for Notes {
    fn serve(&self, database: &Arc<Database>) {
        assert!(!self.panics, "told to");
        self.served.lock().unwrap().push(Arc::clone(database));
    }

    fn flush(&self, _: &Arc<Database>) -> Result<(), String> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn flush_within(&self, database: &Arc<Database>, limit: Duration) -> Result<(), String> {
        assert_eq!(limit, CLOSE_LIMIT);
        self.flush(database)
    }

    fn status(&self, database: &Arc<Database>) -> String {
        let trouble = database.trouble();
        serde_json::json!({"replicated": trouble.is_none(), "reason": trouble}).to_string()
    }

    fn wait(&self, _: &Arc<Database>, limit: Duration) -> Result<(), String> {
        self.waits.lock().unwrap().push(limit);
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// One temporary directory, one VFS of a name of its own.
pub struct World {
    _temporary: Option<TempDir>,
    dir: PathBuf,
    pub vfs: CString,
    pub notes: Arc<Notes>,
}

impl World {
    pub fn new() -> World {
        World::with(Notes::default())
    }

    /// With keys of the configuration beside those of the spool and the targets.
    pub fn configured(keys: &str) -> World {
        let temporary = tempfile::tempdir().unwrap();
        let keys = keys.replace(
            "$DIR",
            temporary.path().canonicalize().unwrap().to_str().unwrap(),
        );
        let mut world = World::set_up(temporary.path(), Notes::default(), &keys);
        world._temporary = Some(temporary);
        world
    }

    pub fn with(notes: Notes) -> World {
        let temporary = tempfile::tempdir().unwrap();
        let mut world = World::at(temporary.path(), notes);
        world._temporary = Some(temporary);
        world
    }

    /// In the directory of another process' world.
    pub fn at(dir: &Path, notes: Notes) -> World {
        World::set_up(dir, notes, "{}")
    }

    fn set_up(dir: &Path, notes: Notes, keys: &str) -> World {
        let config = Config::parse(keys, "the test").unwrap();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let dir = dir.canonicalize().unwrap();
        let vfs = CString::new(format!(
            "verneuil-{}",
            NUMBER.fetch_add(1, Ordering::SeqCst)
        ))
        .unwrap();
        let notes = Arc::new(notes);
        let setup = ReplicationSetup {
            spool: Spool::new(&SpoolConfig {
                dir: dir.join("spool"),
                permissions: 0o700,
            }),
            hostname: "testhost".to_owned(),
            targets: vec![TargetConfig::Directory(DirectoryConfig {
                path: dir.join("store"),
            })],
            replicate: config.replicate,
            journal_wal: config.journal_wal,
            close_limit: CLOSE_LIMIT,
            replication: Arc::clone(&notes) as Arc<dyn Replication>,
        };
        verneuil_abi::register(common::api(), &vfs, false, || {
            TrackingVfs::new(UnixOptions::default(), Some(setup))
        })
        .unwrap();
        World {
            _temporary: None,
            dir,
            vfs,
            notes,
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("x.db")
    }

    pub fn open(&self) -> Connection {
        Connection::open_with_flags_and_vfs(self.path(), OpenFlags::default(), self.vfs.as_c_str())
            .unwrap()
    }

    /// Opens with URI parameters.
    pub fn open_with(&self, parameters: &str) -> Connection {
        let vfs = self.vfs.to_str().unwrap();
        Connection::open(format!(
            "file:{}?vfs={vfs}&{parameters}",
            self.path().display()
        ))
        .unwrap()
    }

    /// The database as the spool knows it.
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(
            self.notes
                .served
                .lock()
                .unwrap()
                .last()
                .expect("a connection was opened"),
        )
    }
}

/// Runs the flush pragma: its row, or its error message.
pub fn flush(db: &Connection, argument: &str) -> Result<String, String> {
    db.query_row(
        &format!("PRAGMA Verneuil_Flush_Replication_Data{argument}"),
        [],
        |row| row.get(0),
    )
    .map_err(|error| error.to_string())
}

/// A replica that only ever sees the change log.
pub struct Follower {
    pub lock: CopierLock,
    image: Vec<u8>,
}

impl Follower {
    /// Starts from what the file holds now, as catch-up does.
    pub fn start(world: &World) -> Follower {
        Follower::of(world.database(), &world.path())
    }

    pub fn of(database: Arc<Database>, path: &Path) -> Follower {
        let lock = database.lock_copier().unwrap().expect("nobody else copies");
        lock.claim().unwrap();
        let sealed = lock.seal().unwrap();
        lock.hand_to_inflight(sealed).unwrap();
        lock.clear_inflight().unwrap();
        Follower {
            lock,
            image: fs::read(path).unwrap(),
        }
    }

    /// Replays what was logged since the last time, and says how many transactions that were.
    pub fn follow(&mut self) -> u64 {
        assert_eq!(self.lock.epoch() % 2, 0, "no transaction is under way");
        assert!(
            self.lock.dirty().unwrap().is_empty(),
            "nothing was forgotten"
        );
        assert!(
            !self.lock.has_todo().unwrap(),
            "nothing was left to the copier"
        );
        let sealed = self.lock.seal().unwrap();
        let replay = self.lock.replay(sealed).unwrap();
        if let Some(len) = replay.file_len() {
            self.image.resize(usize::try_from(len).unwrap(), 0);
        }
        for chunk in replay.chunks() {
            let bytes = replay.bytes(chunk).unwrap();
            let start = chunk as usize * CHUNK_LEN_BYTES as usize;
            self.image[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        self.lock.delete(sealed).unwrap();
        replay.records()
    }

    pub fn has_the_same_as(&self, world: &World) -> bool {
        self.has_the_same_as_file(&world.path())
    }

    pub fn has_the_same_as_file(&self, path: &Path) -> bool {
        self.image == fs::read(path).unwrap()
    }
}

/// The row of the status pragma.
pub fn status(db: &Connection) -> serde_json::Value {
    let row: String = db
        .query_row("PRAGMA verneuil_status", [], |row| row.get(0))
        .unwrap();
    serde_json::from_str(&row).unwrap()
}

/// Inserts rows of random bytes into `t`.
pub fn fill(db: &Connection, rows: u32, len: u32) {
    db.execute_batch(&format!(
        "INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         SELECT randomblob({len}) FROM n"
    ))
    .unwrap();
}
