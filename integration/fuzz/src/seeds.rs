//! Real objects, made by the real encoders: what the corpus begins with (`tests/targets/corpus.rs` holds the two together), and what
//! scripts change.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use verneuil_config::SpoolConfig;
use verneuil_format::{
    Change, ChunkId, ChunkIndex, Entry, FrameRef, Identity, Manifest, NextState, Node, NodeId,
    PackBuilder, PackId, PatchBudget, SourceState, Stored, Updated, Written,
};
use verneuil_spool::{Database, DatabaseInfo, Spool, Writer};

use crate::seal;

/// Length of a chunk.
const CHUNK: u64 = 65_536;

/// Objects of one kind, by name.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Manifests of every shape, and the nodes that they refer to.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Encoded manifests.
    pub manifests: Seeds,
    /// Encoded nodes.
    pub nodes: Seeds,
}

/// An entry as a store might hold it; entries share packs, as those of one upload do.
fn entry(chunk: u32) -> Change {
    let id = ChunkId::of(&chunk.to_le_bytes());
    let at = FrameRef {
        pack: PackId::of(&(chunk / 64).to_le_bytes()),
        offset: chunk % 64 * 40_000,
        len: 39_000 + chunk % 64,
    };
    let stored = Stored::Frame(at);
    Change::Stored(Entry { id, stored })
}

/// Compressible bytes that differ from chunk to chunk.
fn content(chunk: u32, len: usize) -> Bytes {
    (0..len).map(|at| (at / 64) as u8 ^ chunk as u8).collect()
}

fn next(
    file_len: u64,
    counter: u32,
    changes: impl IntoIterator<Item = (u32, Change)>,
) -> NextState {
    NextState {
        source: SourceState {
            file_len,
            page_size: 4_096,
            change_counter: counter,
            mtime_ns: 1_700_000_000_000_000_000,
            ctime_ns: 1_700_000_000_000_000_001,
            taken_ns: 1_700_000_000_000_000_002,
        },
        changes: changes
            .into_iter()
            .map(|(chunk, change)| (ChunkIndex(chunk), change))
            .collect(),
    }
}

/// # Panics
/// When an encoder refuses what it should take.
#[must_use]
pub fn snapshots() -> Snapshots {
    let identity = Identity {
        software_version: "1.0.0-seed".to_owned(),
        host: "host.example".to_owned(),
        path: b"/srv/\xff\n/app.db".to_vec(),
        instance: [7; 16],
    };
    let mut snapshots = Snapshots::default();
    let mut nodes: HashMap<NodeId, Arc<Node>> = HashMap::new();
    let mut chunks: HashMap<ChunkId, Bytes> = HashMap::new();
    let mut step = |base: &Manifest, state: NextState, name: &'static str| {
        for change in state.changes.values() {
            if let Change::Bytes { bytes, .. } = change {
                chunks.insert(ChunkId::of(bytes), bytes.clone());
            }
        }
        let updated: Updated = base
            .update(&state, &nodes, &chunks, PatchBudget::ORDINARY)
            .expect("a manifest");
        nodes.extend(updated.nodes.iter().map(|(at, node)| (at.id, node.clone())));
        let encoded = updated.manifest.encode().expect("a manifest");
        snapshots.manifests.push((name, encoded));
        updated.manifest
    };

    let empty = Manifest::empty(identity);
    step(&empty, next(0, 1, []), "empty");
    let bytes = |chunk: u32, len: usize, written| Change::Bytes {
        bytes: content(chunk, len),
        written,
    };
    let len = 3 * CHUNK - 30_000;
    let whole = |chunk: u32, len: usize| (chunk, bytes(chunk, len, Written::Unknown));
    let flat = step(
        &empty,
        next(
            len,
            2,
            [
                whole(0, CHUNK as usize),
                whole(1, CHUNK as usize),
                whole(2, 35_536),
            ],
        ),
        "flat",
    );
    let patched = |chunk: u32, len: usize, at: usize| {
        let mut changed = content(chunk, len).to_vec();
        changed[at..at + 300].fill(0xA5);
        let start = at as u32;
        let written = Written::Ranges(std::iter::once(start..start + 300).collect());
        let bytes = Bytes::from(changed);
        (chunk, Change::Bytes { bytes, written })
    };
    step(
        &flat,
        next(
            len,
            3,
            [patched(0, CHUNK as usize, 24), patched(2, 35_536, 35_000)],
        ),
        "patched",
    );
    // More than the overlay holds: leaves, and what is over them.
    let leaves = step(
        &empty,
        next(300 * CHUNK, 4, (0..300).map(|chunk| (chunk, entry(chunk)))),
        "leaves",
    );
    let shrunk = step(
        &leaves,
        next(200 * CHUNK + 5, 5, [(7, entry(700)), (200, entry(701))]),
        "shrunk",
    );
    step(
        &shrunk,
        next(5_000 * CHUNK, 6, (0..40).map(|k| (k * 100, entry(k)))),
        "grown",
    );
    // More leaves than a manifest lists: inner nodes.
    let far = (0..300).map(|k| (k * 500, entry(k)));
    step(&empty, next(160_000 * CHUNK, 7, far), "inner");

    let mut encoded: Vec<Vec<u8>> = nodes.values().map(|node| node.encode()).collect();
    // The shortest of each kind are enough.
    encoded.sort_by_key(|raw| (raw.len(), raw.clone()));
    let is_inner = |raw: &Vec<u8>| {
        let at = FrameRef {
            pack: PackId::of(b""),
            offset: 0,
            len: 1,
        };
        let reference = verneuil_format::NodeRef {
            id: NodeId::of(raw),
            at,
        };
        matches!(Node::decode(&reference, raw), Ok(Node::Inner(_)))
    };
    let (inner, leaf): (Vec<_>, Vec<_>) = encoded.into_iter().partition(is_inner);
    let longest = leaf.last().expect("a leaf").clone();
    snapshots.nodes = vec![
        ("inner", inner.into_iter().next().expect("an inner node")),
        ("leaf", leaf.into_iter().next().expect("a leaf")),
        ("long_leaf", longest),
    ];
    snapshots
}

/// Packs, as uploads make them.
///
/// # Panics
/// When an encoder refuses what it should take.
#[must_use]
pub fn packs() -> Seeds {
    let pack = |raws: &[Bytes]| {
        let mut builder = PackBuilder::new();
        for raw in raws {
            builder.push(raw).expect("a frame");
        }
        builder.finish().body
    };
    let noise = blake3::Hasher::new_derive_key("verneuil fuzz")
        .update(b"noise")
        .finalize_xof();
    let mut reader = noise;
    let mut incompressible = vec![0; 1_000];
    reader.fill(&mut incompressible);
    vec![
        ("one", pack(&[content(1, 4_096)])),
        ("noise", pack(&[Bytes::from(incompressible)])),
        (
            "full",
            pack(&(0..64).map(|chunk| content(chunk, 700)).collect::<Vec<_>>()),
        ),
        (
            "zeros",
            pack(&[Bytes::from(vec![0; CHUNK as usize]), content(9, 10)]),
        ),
    ]
}

/// A database with a spool and no copier, written as SQLite writes.
#[derive(Debug)]
pub struct Bench {
    _dir: TempDir,
    /// The spool.
    pub spool: Spool,
    /// The database's file.
    pub file: File,
    commits: u32,
}

impl Bench {
    /// A new database of `len` bytes, and what the VFS would know of it: for as long as that lives, its control page is mapped.
    ///
    /// # Panics
    /// When the temporary folder can't be written.
    #[must_use]
    pub fn new(len: u64) -> (Self, Arc<Database>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("seed.db");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a database");
        file.set_len(len).expect("a length");
        let spool = Spool::new(&SpoolConfig {
            dir: dir.path().join("spool"),
            permissions: 0o700,
        });
        let info = DatabaseInfo {
            hostname: "host.example".to_owned(),
            targets: Vec::new(),
        };
        let database = Database::open(&spool, &path, info);
        let bench = Self {
            _dir: dir,
            spool,
            file,
            commits: 0,
        };
        (bench, database)
    }

    /// The database's folder in the spool.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let boot = self.spool.contents().expect("a spool").folders;
        boot.into_iter().next().expect("a folder")
    }

    /// One transaction of `writer`: these writes (offset, length, byte), then this length, then the change counter in the first page.
    ///
    /// # Panics
    /// When the file can't be written.
    pub fn transaction(
        &mut self,
        writer: &mut Writer,
        writes: &[(u64, usize, u8)],
        len: Option<u64>,
    ) {
        self.commits += 1;
        let mut page = vec![0; 512];
        page[16..20].copy_from_slice(&[2, 0, 1, 1]);
        page[24..28].copy_from_slice(&self.commits.to_be_bytes());
        writer.begin(&self.file);
        let first = (0, page);
        let rest = writes
            .iter()
            .map(|(at, len, byte)| (*at, vec![*byte; *len]));
        for (at, bytes) in rest.chain([first]) {
            writer.will_write(at, bytes.len() as u64);
            self.file.write_all_at(&bytes, at).expect("a write");
        }
        if let Some(len) = len {
            writer.will_truncate(len);
            self.file.set_len(len).expect("a length");
        }
        writer.end(&self.file, || Ok(false));
    }
}

/// Change logs of generation 1, as commits write them.
///
/// # Panics
/// When the temporary folder can't be written.
#[must_use]
pub fn logs() -> Seeds {
    type Writes<'a> = &'a [(u64, usize, u8)];
    let log = |len: u64, transactions: &[(Writes<'_>, Option<u64>)]| {
        let (mut bench, database) = Bench::new(len);
        let mut writer = Writer::new(database);
        for (writes, len) in transactions {
            bench.transaction(&mut writer, writes, *len);
        }
        let mut bytes = fs::read(bench.folder().join("log-1")).expect("a log");
        seal::forget_times(&mut bytes);
        bytes
    };
    vec![
        ("one", log(1_024, &[(&[(512, 100, 1)], None)])),
        (
            "several",
            log(
                2_048,
                &[
                    (&[(600, 10, 1)], None),
                    (&[(700, 20, 2), (900, 30, 3)], None),
                    (&[(2_048, 1_000, 4)], Some(3_584)),
                    (&[(1_000, 10, 5)], Some(1_536)),
                    (&[(1_536, 100, 6)], None),
                ],
            ),
        ),
        (
            "two_chunks",
            log(
                CHUNK - 512,
                &[
                    (&[(CHUNK - 600, 700, 1)], Some(CHUNK + 1_024)),
                    (&[], Some(CHUNK - 1_024)),
                    (&[(CHUNK, 512, 2)], None),
                ],
            ),
        ),
    ]
}

/// Configurations.
#[must_use]
pub fn configurations() -> Seeds {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("empty", text("{}")),
        (
            "small",
            text(r#"{"make_default": true, "replication_spooling_dir": "/spool"}"#),
        ),
        ("whole", text(include_str!("whole.json"))),
    ]
}

/// Host and path pairs, as their keys.
#[must_use]
pub fn keys() -> Seeds {
    let long = [b"/".to_vec(), vec![b'x'; 300]].concat();
    let deep = b"/deeper".repeat(200);
    let pairs: [(&str, &str, &[u8]); 8] = [
        ("plain", "host.example", b"/srv/app.db"),
        ("odd", "h\u{f6}st", b"/a b/%2F\xff\n/@.db"),
        ("dots", "..", b"/../.././x"),
        ("relative", "h", b"a/b"),
        ("empty", "", b""),
        ("slashes", "a/b", b"//x//"),
        ("long", "h", &long),
        ("deep", "h", &deep),
    ];
    pairs
        .into_iter()
        .map(|(name, host, path)| (name, verneuil_format::manifest_key(host, path).into_bytes()))
        .collect()
}

/// The rest of a URI, behind the folder that it begins with.
#[must_use]
pub fn uris() -> Seeds {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("plain", text("there.db")),
        (
            "parameters",
            text("there.db?cache=private&psow=0&verneuil_unreplicated=1"),
        ),
        (
            "escapes",
            text("sub/%2e%2e/there.db?modeof=sub%2fother.db#fragment"),
        ),
        ("dots", text("./sub/../sub//.././there.db")),
        ("link", text("link.db?mode=ro&nolock=1")),
        ("nul", text("there.db%00?immutable=1")),
    ]
}

/// Bytes without their names.
#[must_use]
pub fn bytes_of(seeds: &Seeds) -> Vec<Vec<u8>> {
    seeds.iter().map(|(_, bytes)| bytes.clone()).collect()
}

/// All kinds that have files in the corpus.
#[must_use]
pub fn all() -> BTreeMap<&'static str, Seeds> {
    let Snapshots { manifests, nodes } = snapshots();
    BTreeMap::from([
        ("manifest", manifests),
        ("node", nodes),
        ("pack", packs()),
        ("log", logs()),
        ("configuration", configurations()),
        ("key", keys()),
        ("uri", uris()),
    ])
}
