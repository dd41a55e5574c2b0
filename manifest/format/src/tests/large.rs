//! Databases of up to 281 TB, with entries that nobody stored: what an update costs does not depend on their size.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::world::{identity, noise, source};
use crate::*;

type Cache = HashMap<NodeId, Arc<Node>>;

/// An entry as it would be, in a pack of its own: the longest encoding.
fn entry(index: u32, version: u32) -> Change {
    let id = ChunkId::of(&[index.to_le_bytes(), version.to_le_bytes()].concat());
    let at = FrameRef {
        pack: PackId(ChunkId::of(&id.0).0),
        offset: 4_000_000,
        len: 65_000,
    };
    Change::Stored(Entry {
        id,
        stored: Stored::Frame(at),
    })
}

fn next(chunks: u64, changed: impl IntoIterator<Item = (u32, u32)>) -> NextState {
    let changes = changed
        .into_iter()
        .map(|(index, version)| (ChunkIndex(index), entry(index, version)))
        .collect();
    NextState {
        source: source((chunks * 65_536) as usize, 4_096),
        changes,
    }
}

/// The content of any chunk, as far as is remembered.
struct Remembered(PageIds);

impl ChunkSource for Remembered {
    fn stored(&self, _: &ChunkId) -> Option<bytes::Bytes> {
        None
    }

    fn pages(&self, _: &ChunkId) -> Option<&PageIds> {
        Some(&self.0)
    }
}

/// Updates; `cache` has all nodes.
fn update(manifest: &Manifest, next: &NextState, cache: &mut Cache) -> Updated {
    let chunks = Remembered(PageIds::of(&noise(1, 65_536), 4_096));
    let updated = manifest
        .update(next, cache, &chunks, PatchBudget::ORDINARY)
        .unwrap();
    cache.extend(
        updated
            .nodes
            .iter()
            .map(|(node, decoded)| (node.id, decoded.clone())),
    );
    for (node, decoded) in &updated.nodes {
        let raw = decoded.encode();
        assert!(raw.len() <= limits::NODE_LEN_MAX_BYTES);
        assert_eq!(Node::decode(node, &raw).unwrap(), **decoded);
    }
    let bytes = updated.manifest.encode().unwrap();
    assert!(bytes.len() < 64 * 1024, "{} bytes", bytes.len());
    assert_eq!(Manifest::decode(&bytes).unwrap(), updated.manifest);
    updated
}

#[test]
fn updates_and_diffs_of_a_large_database_touch_few_nodes() {
    // 130 leaf slots: there are inner nodes.
    const CHUNKS: u32 = 133_000;
    let mut cache = Cache::new();
    let base = update(
        &Manifest::empty(identity()),
        &next(CHUNKS.into(), (0..CHUNKS).map(|i| (i, 0))),
        &mut cache,
    );
    // 130 leaves in three packs, one inner node in a fourth.
    assert_eq!((base.packs.len(), base.nodes.len()), (4, 131));
    let base = base.manifest;
    assert!(base.list.inner && base.list.overlay.len() <= 128);

    // Up to 256 changed entries stay in the manifest ...
    let room = 256 - base.list.overlay.len() as u32;
    let scattered = |n: u32| (0..n).map(|i| (i * 512, 1));
    let full = update(&base, &next(CHUNKS.into(), scattered(room)), &mut cache);
    assert_eq!(full.packs.len(), 0);
    // ... and one more folds half of them: 65 leaves or so, and the inner node.
    let folded = update(
        &full.manifest,
        &next(CHUNKS.into(), [(CHUNKS - 1, 2), (0, 2), (700, 2)]),
        &mut cache,
    );
    assert!(folded.manifest.list.overlay.len() <= 128);
    assert!(folded.nodes.len() < 70);

    let none: HashMap<NodeId, Arc<Node>> = HashMap::new();
    let changed: Vec<_> = full.manifest.diff(&folded.manifest, &cache).unwrap();
    assert_eq!(changed, [0..1, 700..701, CHUNKS - 1..CHUNKS]);
    // Inner nodes first, then only the leaves that were written, old and new.
    let Err(LookupError::Missing(inner)) = full.manifest.diff(&folded.manifest, &none) else {
        panic!("no inner nodes")
    };
    assert_eq!(inner.len(), 2);
    let inner: Cache = inner
        .iter()
        .map(|node| (node.id, cache[&node.id].clone()))
        .collect();
    let Err(LookupError::Missing(leaves)) = full.manifest.diff(&folded.manifest, &inner) else {
        panic!("no leaves")
    };
    let written = 2 * (folded.nodes.len() - 1);
    assert!((written..=written + 2).contains(&leaves.len()));

    // An ordinary commit only patches: readers need no node to know what it changed.
    let mut bytes = noise(1, 65_536);
    bytes[5] ^= 1;
    let bytes = bytes::Bytes::from(bytes);
    let change = Change::Bytes {
        bytes,
        written: Written::Ranges(vec![0..9]),
    };
    let patch = NextState {
        changes: BTreeMap::from([(ChunkIndex(70_000), change)]),
        ..next(CHUNKS.into(), [])
    };
    let patched = update(&base, &patch, &mut cache);
    assert_eq!(
        (patched.packs.len(), patched.manifest.patches().count()),
        (0, 1)
    );
    for (old, new) in [(&base, &patched.manifest), (&patched.manifest, &base)] {
        assert_eq!(old.diff(new, &none), Ok(vec![70_000..70_001]));
    }
}

#[test]
fn the_largest_file_is_bounded() {
    let chunks = chunk_count(limits::FILE_LEN_MAX_BYTES);
    let mut cache = Cache::new();
    let last = (chunks - 1) as u32;
    // A first chunk, a last one, and nothing in between.
    let sparse = update(
        &Manifest::empty(identity()),
        &next(chunks, [(0, 1), (last, 1)]),
        &mut cache,
    );
    assert_eq!(
        (sparse.packs.len(), sparse.manifest.list.overlay.len()),
        (0, 2)
    );
    // One chunk in each of 600 inner nodes.
    let wide = next(chunks, (0..600).map(|i| (i << 20, 2)));
    let none: HashMap<ChunkId, bytes::Bytes> = HashMap::new();
    let wide = sparse
        .manifest
        .update(&wide, &cache, &none, PatchBudget::ORDINARY)
        .unwrap();
    cache.extend(
        wide.nodes
            .iter()
            .map(|(node, decoded)| (node.id, decoded.clone())),
    );
    let bytes = wide.manifest.encode().unwrap();
    assert!(bytes.len() < limits::MANIFEST_LEN_MAX_BYTES);
    assert_eq!(Manifest::decode(&bytes).unwrap(), wide.manifest);
    let ends = wide
        .manifest
        .diff(&Manifest::empty(identity()), &cache)
        .unwrap();
    assert_eq!(ends, [0..chunks as u32]);
    assert_eq!(
        sparse.manifest.diff(&wide.manifest, &cache).unwrap().len(),
        600
    );
    for index in [0, 5 << 20, last] {
        let view = wide.manifest.chunk(ChunkIndex(index), &cache).unwrap();
        assert!(!view.entry.is_zero());
    }

    // Cut down to nothing but chunk 0, everything is in the manifest again.
    let small = update(
        &wide.manifest,
        &next(1, BTreeMap::<u32, u32>::new()),
        &mut cache,
    );
    assert!(small.manifest.list.nodes.is_empty() && small.packs.is_empty());
    let view = small.manifest.chunk(ChunkIndex(0), &cache).unwrap();
    let Change::Stored(expected) = entry(0, 2) else {
        panic!("not stored")
    };
    assert_eq!(view.entry, expected);
}
