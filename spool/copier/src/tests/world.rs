//! A database file, its writer, its copier and its store; every committed state is remembered by its hash.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use verneuil_config::{DirectoryConfig, SpoolConfig, TargetConfig};
use verneuil_format::{
    CHUNK_LEN_BYTES, ChunkIndex, LookupError, Manifest, Node, NodeId, Stored, assemble,
    decode_frame, limits, manifest_key, pack_key,
};
use verneuil_spool::{Database, DatabaseInfo, Ledger, Spool, Writer};
use verneuil_store::{Pacer, Store};

use crate::base::target_id;
use crate::error::CopyError;
use crate::lane::identity;
use crate::pass::{Outcome, Parked, Pass};

pub(super) const CHUNK: u64 = CHUNK_LEN_BYTES as u64;
const SHARED_FIRST: i64 = 0x4000_0002;

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) spool: Spool,
    pub(super) db: Arc<Database>,
    pub(super) writer: Writer,
    pub(super) counter: u32,
    /// Hashes of the committed states, oldest first.
    pub(super) states: Vec<blake3::Hash>,
    pub(super) target: TargetConfig,
    pub(super) store: Store,
    pub(super) parked: Option<Parked>,
    published: usize,
}

fn lock(file: &File, kind: libc::c_int) {
    let request = libc::flock {
        l_type: kind as i16,
        l_whence: 0,
        l_start: SHARED_FIRST,
        l_len: 510,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLKW(&request)).unwrap();
}

pub(super) fn journal(path: &Path) -> PathBuf {
    verneuil_dbfile::journal_path(path)
}

impl World {
    pub(super) async fn new(chunks: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("test.db");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let spool = Spool::new(&SpoolConfig {
            dir: dir.path().join("spool"),
            permissions: 0o700,
        });
        let target = TargetConfig::Directory(DirectoryConfig {
            path: dir.path().join("store"),
        });
        let db = Database::open(
            &spool,
            &path,
            DatabaseInfo {
                hostname: "here".to_owned(),
                targets: vec![target.clone()],
            },
        );
        let store = Store::open(&target, Arc::new(Pacer::new(100_000.0, 100_000)))
            .await
            .unwrap();
        let writer = Writer::new(db.clone());
        let mut world = Self {
            dir,
            path,
            file,
            spool,
            db,
            writer,
            counter: 0,
            states: Vec::new(),
            target,
            store,
            parked: None,
            published: 0,
        };
        world.fill(chunks);
        world
    }

    /// Content that was there before replication began.
    fn fill(&mut self, chunks: u64) {
        for chunk in 0..chunks {
            let noise: Vec<u8> = (0..CHUNK)
                .map(|at| ((at * 7 + chunk * 13) % 251) as u8 ^ (chunk as u8))
                .collect();
            self.file.write_all_at(&noise, chunk * CHUNK).unwrap();
        }
        if chunks > 0 {
            self.file.write_all_at(&4096u16.to_be_bytes(), 16).unwrap();
            self.file.write_all_at(&[1, 1], 18).unwrap();
            self.file
                .write_all_at(&self.counter.to_be_bytes(), 24)
                .unwrap();
        }
        self.commit_state();
    }

    /// Something that is a page longer is copied over the file.
    pub(super) fn overwrite_longer(&mut self) {
        let len = self.file.metadata().unwrap().len();
        self.file.write_all_at(&[7; 4096], len).unwrap();
        self.commit_state();
    }

    /// The file is deleted, and a new one of that name begins, whose transactions count from the same number.
    pub(super) fn recreate(&mut self, chunks: u64) {
        std::fs::remove_file(&self.path).unwrap();
        self.file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&self.path)
            .unwrap();
        self.writer = Writer::new(self.db.clone());
        self.counter = 0;
        self.fill(chunks);
    }

    fn commit_state(&mut self) {
        let hash = blake3::hash(&std::fs::read(&self.path).unwrap());
        self.states.push(hash);
    }

    pub(super) fn lock_exclusive(file: &File) {
        lock(file, libc::F_WRLCK);
    }

    pub(super) fn lock_shared(file: &File) {
        lock(file, libc::F_RDLCK);
    }

    pub(super) fn unlock(file: &File) {
        lock(file, libc::F_UNLCK);
    }

    /// Begins a transaction, and writes its number into pages of these chunks and into the header.
    pub(super) fn write(&mut self, chunks: &[u64]) {
        lock(&self.file, libc::F_WRLCK);
        std::fs::write(journal(&self.path), b"journal").unwrap();
        self.writer.begin(&self.file);
        self.counter += 1;
        for chunk in chunks {
            let offset = chunk * CHUNK + u64::from(self.counter * 4096) % CHUNK;
            let page = vec![(self.counter % 255) as u8 + 1; 4096];
            self.writer.will_write(offset, 4096);
            self.file.write_all_at(&page, offset).unwrap();
        }
        let mut header = [0; 28];
        header[16..18].copy_from_slice(&4096u16.to_be_bytes());
        header[18..20].copy_from_slice(&[1, 1]);
        header[24..28].copy_from_slice(&self.counter.to_be_bytes());
        self.writer.will_write(0, 28);
        self.file.write_all_at(&header, 0).unwrap();
    }

    /// The commit point.
    pub(super) fn finalise(&mut self) {
        std::fs::remove_file(journal(&self.path)).unwrap();
        self.commit_state();
    }

    pub(super) fn end(&mut self) {
        lock(&self.file, libc::F_RDLCK);
        self.writer.end(&self.file, || Ok(false));
        lock(&self.file, libc::F_UNLCK);
    }

    pub(super) fn transact(&mut self, chunks: &[u64]) {
        self.write(chunks);
        self.finalise();
        self.end();
    }

    /// As [`Self::write`], in exclusive mode: the change counter stays.
    pub(super) fn write_without_counter(&mut self, chunks: &[u64]) {
        self.write(chunks);
        self.counter -= 1;
        self.file
            .write_all_at(&self.counter.to_be_bytes(), 24)
            .unwrap();
    }

    /// A transaction of a connection in exclusive mode, which then leaves it.
    pub(super) fn transact_without_counter(&mut self, chunks: &[u64]) {
        self.write_without_counter(chunks);
        self.finalise();
        self.end();
    }

    /// The writer's process dies: its locks go, its bits stay.
    pub(super) fn kill_writer(&mut self) {
        lock(&self.file, libc::F_UNLCK);
        self.writer = Writer::new(self.db.clone());
    }

    pub(super) fn pass(&mut self) -> Pass {
        let ledger = Arc::new(self.ledger());
        let parked = self.parked.take();
        self.pass_of(&ledger, &self.target, parked)
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.db.ledger().unwrap().expect("nobody else copies")
    }

    /// A pass to one of several targets, whose passes share a ledger.
    pub(super) fn pass_of(
        &self,
        ledger: &Arc<Ledger>,
        target: &TargetConfig,
        parked: Option<Parked>,
    ) -> Pass {
        let identity = identity(&self.db, ledger.lock().instance_id());
        Pass::new(
            self.db.clone(),
            ledger.clone(),
            (target_id(target, &self.db), &target.describe()),
            identity,
            Duration::from_secs(1),
            parked,
        )
    }

    /// One turn of the copier.
    pub(super) async fn advance(&mut self) -> Result<Outcome, CopyError> {
        let store = self.store.clone();
        let mut pass = self.pass();
        let result = pass.advance(&store).await;
        self.parked = Some(pass.park());
        result
    }

    /// Which of the committed states the store at `root` holds.
    pub(super) fn state_in(&self, root: &Path) -> Option<usize> {
        let hash = blake3::hash(&self.bytes_in(root)?);
        let at = self.states.iter().rposition(|state| *state == hash);
        Some(at.expect("a published manifest is a committed state"))
    }

    /// A commit of a program that knows nothing of the spool.
    pub(super) fn foreign_commit(&mut self, chunk: u64) {
        std::thread::sleep(Duration::from_millis(20));
        self.counter += 1;
        let page = [self.counter as u8; 512];
        self.file.write_all_at(&page, chunk * CHUNK + 1024).unwrap();
        self.file
            .write_all_at(&self.counter.to_be_bytes(), 24)
            .unwrap();
        self.commit_state();
    }

    /// Advances until nothing is left.
    pub(super) async fn drain(&mut self) -> Result<Outcome, CopyError> {
        let store = self.store.clone();
        let mut pass = self.pass();
        let mut rounds = 0;
        let result = loop {
            match pass.advance(&store).await {
                Ok(Outcome::Published) => {}
                other => break other,
            }
            rounds += 1;
            assert!(rounds < 10_000, "it publishes for ever");
        };
        self.parked = Some(pass.park());
        result
    }

    /// Advances for `polls` polls, and then dies.
    pub(super) async fn die_after(&mut self, polls: usize) -> bool {
        let store = self.store.clone();
        let mut pass = self.pass().in_slow_motion();
        let mut left = polls;
        let mut run = pin!(pass.advance(&store));
        std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            run.as_mut().poll(context).map(|_| true)
        })
        .await
    }

    /// What the copier has written down as the last failure.
    pub(super) fn noted_error(&self) -> Option<String> {
        let progress = self.db.progress().unwrap().unwrap();
        progress
            .target(target_id(&self.target, &self.db))?
            .error
            .clone()
    }

    pub(super) fn manifest_file(&self) -> PathBuf {
        let path = self.path.as_os_str().as_bytes();
        self.dir
            .path()
            .join("store")
            .join(manifest_key("here", path))
    }

    /// The bytes of the published snapshot; `None` without one.
    pub(super) async fn published_bytes(&self) -> Option<Vec<u8>> {
        self.bytes_in(&self.dir.path().join("store"))
    }

    /// The bytes of the snapshot in the directory store at `root`.
    pub(super) fn bytes_in(&self, root: &Path) -> Option<Vec<u8>> {
        let key = manifest_key("here", self.path.as_os_str().as_bytes());
        let manifest = Manifest::decode(&std::fs::read(root.join(key)).ok()?).unwrap();
        Some(bytes_of(root, &manifest).expect("P6: a manifest names only what is there"))
    }

    /// P5: what is published is a committed state, and none before the last one seen.
    pub(super) async fn check_prefix(&mut self) {
        let Some(bytes) = self.published_bytes().await else {
            return;
        };
        let hash = blake3::hash(&bytes);
        let at = self
            .states
            .iter()
            .rposition(|state| *state == hash)
            .expect("a published manifest is a committed state");
        assert!(at >= self.published, "manifests only move forward");
        self.published = at;
    }

    pub(super) async fn check_complete(&mut self) {
        self.check_prefix().await;
        assert_eq!(
            self.published,
            self.states.len() - 1,
            "a quiet database is published in full"
        );
    }
}

/// The bytes of the snapshot that `manifest` describes, from the directory store at `root`; else what is missing or wrong.
pub(super) fn bytes_of(root: &Path, manifest: &Manifest) -> Result<Vec<u8>, String> {
    let frame = |at: verneuil_format::FrameRef, max: usize| {
        let key = pack_key(at.pack);
        let pack = std::fs::read(root.join(&key)).map_err(|error| format!("{key}: {error}"))?;
        let frame = pack
            .get(at.offset as usize..)
            .and_then(|rest| rest.get(..at.len as usize))
            .ok_or_else(|| format!("{key} is too short"))?;
        decode_frame(frame, max).map_err(|error| format!("{key}: {error}"))
    };
    let mut nodes: HashMap<NodeId, Arc<Node>> = HashMap::new();
    let mut bytes = Vec::new();
    for index in 0..manifest.chunk_count() {
        let view = loop {
            match manifest.chunk(ChunkIndex(index), &nodes) {
                Ok(view) => break view,
                Err(LookupError::Missing(missing)) => {
                    for node in missing {
                        let raw = frame(node.at, limits::NODE_LEN_MAX_BYTES)?;
                        let decoded =
                            Node::decode(&node, &raw).map_err(|error| error.to_string())?;
                        nodes.insert(node.id, Arc::new(decoded));
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        let stored = match view.entry.stored {
            Stored::Zero => Vec::new(),
            Stored::Frame(at) => frame(at, CHUNK as usize)?,
        };
        // Checks the chunk against its id.
        bytes.extend(assemble(&view, stored).map_err(|error| error.to_string())?);
    }
    if bytes.len() as u64 != manifest.file_len() {
        return Err(format!(
            "{} bytes instead of {}",
            bytes.len(),
            manifest.file_len()
        ));
    }
    Ok(bytes)
}
