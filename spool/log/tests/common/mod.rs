//! A database file with a writer and a copier's lock, driven by the tests as sqlite and the copier would.
#![allow(dead_code, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use verneuil_config::SpoolConfig;
use verneuil_spool::{CHUNK_LEN_BYTES, CopierLock, Database, DatabaseInfo, Replay, Spool, Writer};

pub const CHUNK: u64 = CHUNK_LEN_BYTES;

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub spool: Spool,
    pub path: PathBuf,
    pub file: File,
    pub database: Arc<Database>,
    pub writer: Writer,
    pub commits: u32,
}

/// What a transaction does to the file.
#[derive(Clone, Debug)]
pub enum Op {
    Write { offset: u64, len: u64, byte: u8 },
    Truncate { len: u64 },
}

pub fn info() -> DatabaseInfo {
    DatabaseInfo {
        hostname: "here".to_owned(),
        targets: Vec::new(),
    }
}

impl Bench {
    pub fn new(len: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(len).unwrap();
        let spool = Spool::new(&SpoolConfig {
            dir: dir.path().join("spool"),
            permissions: 0o700,
        });
        let database = Database::open(&spool, &path, info());
        let writer = Writer::new(database.clone());
        Self {
            dir,
            spool,
            path,
            file,
            database,
            writer,
            commits: 0,
        }
    }

    pub fn lock(&self) -> CopierLock {
        self.database
            .lock_copier()
            .unwrap()
            .expect("nobody else copies")
    }

    /// Takes everything as published, as after a first catch-up.
    pub fn settle(&self) {
        let lock = self.lock();
        lock.claim().unwrap();
        lock.hand_to_inflight(lock.seal().unwrap()).unwrap();
        lock.clear_inflight().unwrap();
    }

    pub fn apply(&mut self, op: &Op) {
        if !self.writer.is_active() {
            self.writer.begin(&self.file);
        }
        match *op {
            Op::Write { offset, len, byte } => {
                self.writer.will_write(offset, len);
                self.file
                    .write_all_at(&vec![byte; len as usize], offset)
                    .unwrap();
            }
            Op::Truncate { len } => {
                self.writer.will_truncate(len);
                self.file.set_len(len).unwrap();
            }
        }
    }

    /// The last write of a transaction, as sqlite's: page 1 with a new change counter.
    pub fn bump(&mut self) {
        self.commits += 1;
        let mut page = vec![0u8; 512];
        page[16..18].copy_from_slice(&512u16.to_be_bytes());
        page[18..20].copy_from_slice(&[1, 1]);
        page[24..28].copy_from_slice(&self.commits.to_be_bytes());
        if !self.writer.is_active() {
            self.writer.begin(&self.file);
        }
        self.writer.will_write(0, 512);
        self.file.write_all_at(&page, 0).unwrap();
    }

    pub fn end(&mut self) {
        self.writer.end(&self.file, || Ok(false));
    }

    pub fn transaction(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| self.apply(op));
        self.bump();
        self.end();
    }

    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    pub fn log_files(&self) -> Vec<PathBuf> {
        let boot = fs::read_dir(self.spool.root())
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.is_dir())
            .unwrap();
        let folder = fs::read_dir(boot).unwrap().next().unwrap().unwrap().path();
        let is_log = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with("log-");
        fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(is_log)
            .collect()
    }

    pub fn control_file(&self) -> PathBuf {
        self.log_files()[0].with_file_name("control")
    }
}

/// Replays a generation over `base`, twice: by whole chunks, and by what it says was written. Both must agree.
pub fn replay_over(base: &mut Vec<u8>, replay: &Replay) {
    let Some(file_len) = replay.file_len() else {
        return;
    };
    base.resize(file_len as usize, 0);
    for chunk in replay.chunks() {
        let start = (u64::from(chunk) * CHUNK) as usize;
        let bytes = replay.bytes(chunk).unwrap();
        let mut patched = base[start..start + bytes.len()].to_vec();
        for range in replay.written(chunk) {
            let range = range.start as usize..(range.end as usize).min(bytes.len());
            if !range.is_empty() {
                patched[range.clone()].copy_from_slice(&bytes[range]);
            }
        }
        assert!(
            patched == bytes,
            "chunk {chunk}: the written ranges miss something"
        );
        base[start..start + bytes.len()].copy_from_slice(&bytes);
    }
}
