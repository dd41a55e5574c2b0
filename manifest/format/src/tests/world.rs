//! A store in memory that gives an update exactly what it asks for, and checks what comes out; used by all tests beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::list::Shape;
use crate::*;

/// Small constants: a file of 40 chunks has everything that one of a terabyte has.
pub const SMALL: Shape = Shape {
    flat_max: 2,
    leaf_entries: 4,
    leaves_max: 2,
    inner_slots: 3,
    overlay_max: 3,
};

pub const CHUNK: usize = CHUNK_LEN_BYTES as usize;

pub fn identity() -> Identity {
    Identity {
        software_version: "1.0.0-test".to_owned(),
        host: "host".to_owned(),
        path: b"/srv/\xff\n/app.db".to_vec(),
        instance: [7; 16],
    }
}

/// Packs by id.
#[derive(Default)]
pub struct World {
    pub packs: HashMap<PackId, Vec<u8>>,
}

impl World {
    /// Stores a pack, as a store would.
    pub fn put(&mut self, pack: &Pack) {
        assert!(!pack.frames.is_empty());
        assert_eq!(pack_frames(pack.id, &pack.body).unwrap(), pack.frames);
        self.packs.insert(pack.id, pack.body.clone());
    }

    pub fn frame(&self, at: &FrameRef) -> &[u8] {
        &self.packs[&at.pack][at.offset as usize..(at.offset + at.len) as usize]
    }

    fn raw(&self, at: &FrameRef) -> Vec<u8> {
        decode_frame(self.frame(at), limits::NODE_LEN_MAX_BYTES).unwrap()
    }

    pub fn stored(&self, entry: &Entry) -> Vec<u8> {
        match &entry.stored {
            Stored::Zero => Vec::new(),
            Stored::Frame(at) => {
                let raw = self.raw(at);
                entry.verify(&raw).unwrap();
                raw
            }
        }
    }

    pub fn load(&self, missing: Vec<NodeRef>, cache: &mut HashMap<NodeId, Arc<Node>>) {
        assert!(!missing.is_empty());
        for node in missing {
            let decoded = Node::decode(&node, &self.raw(&node.at)).unwrap();
            assert!(
                cache.insert(node.id, Arc::new(decoded)).is_none(),
                "asked for a node that it had"
            );
        }
    }

    /// Calls `look` until it has all the nodes that it needs.
    pub fn lookup<T>(&self, mut look: impl FnMut(&dyn NodeSource) -> Result<T, LookupError>) -> T {
        let mut nodes = HashMap::new();
        loop {
            match look(&nodes) {
                Ok(value) => return value,
                Err(LookupError::Missing(missing)) => self.load(missing, &mut nodes),
                Err(LookupError::Format(error)) => panic!("{error}"),
            }
        }
    }

    /// Updates from an empty cache, stores the packs, and sends the manifest through its bytes.
    pub fn update(
        &mut self,
        manifest: &Manifest,
        next: &NextState,
        budget: PatchBudget,
    ) -> Manifest {
        let mut nodes = HashMap::new();
        let mut chunks = HashMap::new();
        let updated = loop {
            match manifest.update(next, &nodes, &chunks, budget) {
                Ok(updated) => break updated,
                Err(UpdateError::NeedNodes(missing)) => self.load(missing, &mut nodes),
                Err(UpdateError::NeedChunks(needed)) => {
                    assert!(!needed.is_empty());
                    for (_, entry) in needed {
                        let stored = Bytes::from(self.stored(&entry));
                        assert!(!stored.is_empty());
                        chunks.insert(entry.id, stored);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        };
        updated.packs.iter().for_each(|pack| self.put(pack));
        for (node, decoded) in &updated.nodes {
            assert_eq!(Node::decode(node, &self.raw(&node.at)).unwrap(), **decoded);
        }
        let bytes = updated.manifest.encode().unwrap();
        let decoded = Manifest::decode_shaped(&bytes, manifest.list.shape).unwrap();
        assert_eq!(decoded, updated.manifest);
        assert_eq!(decoded.encode().unwrap(), bytes);
        let head = Head::decode(&bytes[..HEAD_LEN_BYTES]).unwrap();
        assert_eq!(head.manifest_len(), bytes.len() as u64);
        assert_eq!(
            Head {
                body_len: 0,
                ..head
            },
            decoded.head()
        );
        decoded
    }

    /// The whole file, each chunk of it verified.
    pub fn read(&self, manifest: &Manifest) -> Vec<u8> {
        let mut file = Vec::new();
        for index in (0..manifest.chunk_count()).map(ChunkIndex) {
            let (view, id) = self.lookup(|nodes| {
                let view = manifest.chunk(index, nodes)?;
                Ok((view, view.id))
            });
            let raw = assemble(&view, self.stored(&view.entry)).unwrap();
            assert_eq!((ChunkId::of(&raw), raw.len()), (id, view.len as usize));
            file.extend(raw);
        }
        assert_eq!(file.len() as u64, manifest.file_len());
        file
    }
}

/// The state of a file of which everything else is unknown.
pub fn source(file_len: usize, page_size: u32) -> SourceState {
    SourceState {
        file_len: file_len as u64,
        page_size,
        change_counter: 9,
        mtime_ns: -1,
        ctime_ns: 2,
        taken_ns: 3,
    }
}

/// Everything changed, nobody knows what.
pub fn from_scratch(file: &[u8], page_size: u32) -> NextState {
    let change = |bytes: &[u8]| Change::Bytes {
        bytes: Bytes::copy_from_slice(bytes),
        written: Written::Unknown,
    };
    let changes: BTreeMap<_, _> = (0..)
        .map(ChunkIndex)
        .zip(file.chunks(CHUNK).map(change))
        .collect();
    NextState {
        source: source(file.len(), page_size),
        changes,
    }
}

/// One changed chunk of a file.
pub fn changed(file: &[u8], index: u32, written: &[std::ops::Range<u32>]) -> (ChunkIndex, Change) {
    let bytes = file.chunks(CHUNK).nth(index as usize).unwrap();
    let written = Written::Ranges(written.to_vec());
    (
        ChunkIndex(index),
        Change::Bytes {
            bytes: Bytes::copy_from_slice(bytes),
            written,
        },
    )
}

/// Bytes that zstd can't shrink to nothing, different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
