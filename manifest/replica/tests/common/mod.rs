//! What the tests of this crate share: a directory store, and sources that publish to it as a copier would, with
//! `verneuil_format`'s own updates.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use verneuil_config::{DirectoryConfig, TargetConfig};
use verneuil_format::{
    CHUNK_LEN_BYTES, Change, ChunkId, ChunkIndex, Generation, Identity, Manifest, NextState, Node,
    NodeId, PatchBudget, SourceState, UpdateError, Written, manifest_key, pack_key,
};
use verneuil_replica::{Client, ClientConfig, Loaded, Snapshot};
use verneuil_store::{Condition, Pacer, Space, Store};

pub const CHUNK: usize = CHUNK_LEN_BYTES as usize;
pub const PAGE: usize = 4096;

/// A directory store that is removed with this value.
pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub pacer: Arc<Pacer>,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = TargetConfig::Directory(DirectoryConfig {
            path: dir.path().join("store"),
        });
        let pacer = Arc::new(Pacer::new(1e6, 1_000_000));
        let store = Store::open(&target, Arc::clone(&pacer))
            .await
            .expect("open");
        Self { dir, store, pacer }
    }

    pub fn client(&self, config: ClientConfig) -> Client {
        Client::open(vec![self.store.clone()], config).expect("client")
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.pacer.admitted()
    }

    /// All packs' files.
    pub fn packs(&self) -> Vec<PathBuf> {
        let mut packs = Vec::new();
        for fan_out in std::fs::read_dir(self.root().join("packs")).expect("packs") {
            for pack in std::fs::read_dir(fan_out.expect("entry").path()).expect("fan-out") {
                packs.push(pack.expect("entry").path());
            }
        }
        packs
    }

    pub async fn put_manifest(&self, key: &str, body: Vec<u8>) {
        self.store
            .put(Space::Manifests, key, body.into(), Condition::None)
            .await
            .expect("put");
    }
}

/// A database and what was published of it.
pub struct Source {
    pub content: Vec<u8>,
    pub manifest: Manifest,
    pub key: String,
    nodes: HashMap<NodeId, Arc<Node>>,
    /// Every chunk that ever was.
    chunks: HashMap<ChunkId, Bytes>,
}

impl Source {
    pub fn new(host: &str, path: &str) -> Self {
        let identity = Identity {
            software_version: "test".to_owned(),
            host: host.to_owned(),
            path: path.as_bytes().to_vec(),
            instance: [7; 16],
        };
        Self {
            content: Vec::new(),
            manifest: Manifest::empty(identity),
            key: manifest_key(host, path.as_bytes()),
            nodes: HashMap::new(),
            chunks: HashMap::new(),
        }
    }

    /// Publishes `content` as the next commit.
    pub async fn commit(&mut self, world: &World, content: Vec<u8>) {
        self.commit_with(world, content, PatchBudget::ORDINARY)
            .await;
    }

    pub async fn commit_with(&mut self, world: &World, content: Vec<u8>, budget: PatchBudget) {
        let mut changes = BTreeMap::new();
        for (index, new) in content.chunks(CHUNK).enumerate() {
            let start = index * CHUNK;
            let old = self
                .content
                .get(start..self.content.len().min(start + CHUNK))
                .unwrap_or_default();
            if old == new {
                continue;
            }
            let pages = new
                .chunks(PAGE)
                .enumerate()
                .filter(|(i, page)| old.get(i * PAGE..i * PAGE + page.len()) != Some(page));
            let written = pages
                .map(|(i, page)| (i * PAGE) as u32..(i * PAGE + page.len()) as u32)
                .collect();
            let bytes = Bytes::copy_from_slice(new);
            self.chunks.insert(ChunkId::of(new), bytes.clone());
            let change = Change::Bytes {
                bytes,
                written: Written::Ranges(written),
            };
            changes.insert(ChunkIndex(index as u32), change);
        }
        let source = SourceState {
            file_len: content.len() as u64,
            page_size: PAGE as u32,
            change_counter: self.manifest.generation().0 as u32 + 1,
            taken_ns: 1_764_000_000_000_000_000,
            ..SourceState::default()
        };
        let next = NextState { source, changes };
        let updated = match self
            .manifest
            .update(&next, &self.nodes, &self.chunks, budget)
        {
            Ok(updated) => updated,
            Err(UpdateError::NeedNodes(_) | UpdateError::NeedChunks(_)) => {
                panic!("all are at hand")
            }
            Err(error) => panic!("update: {error}"),
        };
        for pack in updated.packs {
            let key = pack_key(pack.id);
            world
                .store
                .put(Space::Chunks, &key, pack.body.into(), Condition::None)
                .await
                .expect("put pack");
        }
        world
            .put_manifest(&self.key, updated.manifest.encode().expect("encode"))
            .await;
        self.nodes.extend(
            updated
                .nodes
                .into_iter()
                .map(|(node, loaded)| (node.id, loaded)),
        );
        self.manifest = updated.manifest;
        self.content = content;
    }

    /// Ids of the packs that the newest manifest names.
    pub fn pack_files(&self, world: &World) -> Vec<PathBuf> {
        let packs = self
            .manifest
            .pack_ids(&self.nodes)
            .expect("nodes are at hand");
        packs
            .into_iter()
            .map(|id| world.root().join(pack_key(id)))
            .collect()
    }

    pub fn generation(&self) -> Generation {
        self.manifest.generation()
    }
}

pub async fn load(client: &Client, key: &str) -> Arc<Snapshot> {
    match client.load(key, None).await.expect("load") {
        Loaded::New(snapshot) => snapshot,
        other => panic!("{other:?}"),
    }
}

/// Numbers that a seed repeats.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Database-like bytes: half text, half noise, every eighth chunk zeros, the last one short.
pub fn database(random: &mut Random, chunks: usize) -> Vec<u8> {
    let mut content = vec![0; chunks * CHUNK - 3 * PAGE];
    for (index, chunk) in content.chunks_mut(CHUNK).enumerate() {
        if index % 8 == 7 {
            continue;
        }
        for (i, word) in chunk.chunks_mut(8).enumerate() {
            let value = if i % 2 == 0 {
                random.next()
            } else {
                index as u64
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
    content
}

/// Overwrites some pages.
pub fn scribble(random: &mut Random, content: &mut [u8], pages: usize) {
    for _ in 0..pages {
        let page = random.below(content.len() / PAGE);
        content[page * PAGE..(page + 1) * PAGE].fill(random.next() as u8);
    }
}

/// Flips a bit in every 1,000 bytes.
pub fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 4);
    std::fs::write(path, bytes).expect("write");
}

/// Regular files anywhere below.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten() {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
