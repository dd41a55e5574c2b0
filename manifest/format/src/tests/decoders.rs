//! Decoders are total: random and mutated bytes give a value or an error, never a panic, and what they give encodes again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::world::{CHUNK, SMALL, World, changed, from_scratch, identity, noise, source};
use crate::generated as proto;
use crate::list::Shape;
use crate::pack::compress;
use crate::*;

/// Manifests with everything in them, and their nodes.
fn samples() -> &'static (Vec<Manifest>, Vec<Node>) {
    static SAMPLES: OnceLock<(Vec<Manifest>, Vec<Node>)> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut world = World::default();
        let mut manifests = Vec::new();
        let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
        for (shape, chunks) in [
            (Shape::FORMAT, 3),
            (SMALL, 5),
            (SMALL, 30),
            (Shape::FORMAT, 300),
        ] {
            let mut file: Vec<u8> = (0..chunks).flat_map(|i| noise(i, CHUNK)).collect();
            file.truncate(file.len() - 30_000);
            let empty = Manifest::empty_shaped(identity(), Generation(0), shape);
            let base = world.update(&empty, &from_scratch(&file, 4_096), PatchBudget::ORDINARY);
            file[70_000..71_000].fill(0);
            file[CHUNK * 2..CHUNK * 2 + 9].fill(1);
            file[CHUNK * 2 + 8_192..CHUNK * 2 + 8_200].fill(1);
            let changes = [
                changed(&file, 1, &[4_000..6_000]),
                changed(&file, 2, &[0..9, 8_192..8_200]),
            ];
            let next = NextState {
                source: source(file.len(), 4_096),
                changes: changes.into(),
            };
            let manifest = world.update(&base, &next, PatchBudget::ORDINARY);
            for node in world.lookup(|nodes| manifest.node_refs(nodes)) {
                let mut cache = HashMap::new();
                world.load(vec![node], &mut cache);
                nodes.insert(node.id, Node::clone(&cache[&node.id]));
            }
            manifests.extend([base, manifest]);
        }
        assert!(nodes.len() > 5 && manifests.iter().any(|manifest| manifest.list.inner));
        (manifests, nodes.into_values().collect())
    })
}

/// Bytes with a few of them changed, removed or put in.
fn mutate(mut bytes: Vec<u8>, mutations: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (at, kind, value) in mutations {
        let at = at.index(bytes.len() + 1);
        match kind % 4 {
            0 if at < bytes.len() => bytes[at] = *value,
            1 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at, *value),
        }
    }
    bytes
}

fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 0..6)
}

/// A manifest around any body, with a fitting head and hash.
fn seal(head: Head, body: &[u8]) -> Vec<u8> {
    let mut bytes = Head {
        body_len: body.len() as u32,
        ..head
    }
    .encode()
    .to_vec();
    bytes.extend_from_slice(body);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Gives some node for every id.
struct Hostile(Vec<Arc<Node>>);

impl NodeSource for Hostile {
    fn node(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.0
            .get(usize::from(id.0[0]) % (self.0.len() + 1))
            .cloned()
    }
}

/// Uses a manifest that came from anywhere in every way.
fn exercise(manifest: &Manifest, nodes: &Hostile) {
    let bytes = manifest.encode().unwrap();
    assert_eq!(
        &Manifest::decode_shaped(&bytes, manifest.list.shape).unwrap(),
        manifest
    );
    for index in [
        0,
        1,
        2,
        7,
        29,
        manifest.chunk_count().saturating_sub(1),
        u32::MAX,
    ] {
        if let Ok(view) = manifest.chunk(ChunkIndex(index), nodes) {
            let _ = assemble(&view, vec![1; 1_000]);
        }
    }
    let _ = manifest.node_refs(nodes);
    let _ = manifest.pack_ids(nodes);
    let (samples, _) = samples();
    for other in samples
        .iter()
        .filter(|other| other.list.shape == manifest.list.shape)
    {
        let _ = manifest.diff(other, nodes);
        let _ = other.diff(manifest, nodes);
    }
    let bytes = Bytes::from(noise(1, CHUNK));
    let change = Change::Bytes {
        bytes,
        written: Written::Ranges(vec![5..6]),
    };
    let none: HashMap<ChunkId, Bytes> = HashMap::new();
    for len in [CHUNK, 9 * CHUNK, 40 * CHUNK] {
        let changes = (0..len / CHUNK)
            .map(|index| (ChunkIndex(index as u32), change.clone()))
            .collect();
        let next = NextState {
            source: source(len, 512),
            changes,
        };
        let _ = manifest.update(&next, nodes, &none, PatchBudget::BUSY);
    }
}

/// A number in a column, of a kind that makes trouble.
fn numbers() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(
        prop_oneof![0..3u32, 0..70_000u32, any::<u32>(), Just(u32::MAX)],
        0..5,
    )
}

prop_compose! {
    fn any_entries()(packs in numbers(), ids in 0..5usize, offsets in numbers(), lens in numbers()) -> proto::Entries {
        proto::Entries { packs, ids: noise(3, ids * 32), offsets, lens }
    }
}

prop_compose! {
    fn any_sparse()(gaps in numbers(), entries in prop::option::of(any_entries())) -> proto::Sparse {
        proto::Sparse { gaps, entries }
    }
}

prop_compose! {
    fn any_patches()(
        gaps in numbers(), ids in 0..5usize, touched in numbers(), counts in numbers(), offsets in numbers(), lens in numbers(),
        raw in 0..70_000usize,
    ) -> proto::Patches {
        proto::Patches {
            gaps, ids: noise(4, ids * 32), touched: touched.into_iter().map(u64::from).collect(), range_counts: counts,
            range_offsets: offsets, range_lens: lens, frame: compress(&noise(5, raw)).unwrap(),
        }
    }
}

prop_compose! {
    fn any_body()(
        page_size in prop_oneof![Just(4_096), any::<u32>()], packs in 0..4usize, covered in prop_oneof![0..50u32, any::<u32>()],
        nodes in prop::option::of(any_sparse()), overlay in prop::option::of(any_sparse()),
        patches in prop::option::of(any_patches()),
    ) -> proto::Body {
        proto::Body {
            page_size, covered_chunks: covered, nodes, overlay, patches, packs: noise(6, packs * 32), instance: vec![0; 16],
            ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
        prop_assert!(Head::decode(&bytes).is_err());
        prop_assert!(decode_frame(&bytes, 100).is_err());
        prop_assert!(pack_frames(PackId::of(&bytes), &bytes).is_err());
        let _ = Node::parse(&bytes);
        let _ = decode_segment(&String::from_utf8_lossy(&bytes));
        let _ = invert_manifest_key(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_damage_of_a_manifest_is_noticed(sample in any::<prop::sample::Index>(), mutations in mutations()) {
        let bytes = sample.get(&samples().0).encode().unwrap();
        let mutated = mutate(bytes.clone(), &mutations);
        if mutated == bytes {
            return Ok(());
        }
        prop_assert!(Manifest::decode(&mutated).is_err());
        if let Ok(head) = Head::decode(&mutated) {
            prop_assert_eq!(Some(head), Head::decode(&bytes).ok());
        }
    }

    #[test]
    fn a_mutated_body_gives_a_manifest_or_an_error(sample in any::<prop::sample::Index>(), mutations in mutations()) {
        let (manifests, nodes) = samples();
        let manifest = sample.get(manifests);
        let bytes = manifest.encode().unwrap();
        let body = mutate(bytes[HEAD_LEN_BYTES..bytes.len() - 32].to_vec(), &mutations);
        if let Ok(decoded) = Manifest::decode_shaped(&seal(manifest.head(), &body), manifest.list.shape) {
            exercise(&decoded, &Hostile(nodes.iter().cloned().map(Arc::new).collect()));
        }
    }

    #[test]
    fn a_hostile_body_gives_a_manifest_or_an_error(
        body in any_body(), chunks in prop_oneof![0..60u64, any::<u64>()], small in any::<bool>(),
    ) {
        let file_len = chunks.saturating_mul(65_536);
        let head = Head { generation: Generation(70_000), file_len, commit_time_ns: 0, body_len: 0 };
        let shape = if small { SMALL } else { Shape::FORMAT };
        if let Ok(decoded) = Manifest::decode_shaped(&seal(head, &body.encode_to_vec()), shape) {
            exercise(&decoded, &Hostile(samples().1.iter().cloned().map(Arc::new).collect()));
        }
    }

    #[test]
    fn a_mutated_node_gives_a_node_or_an_error(sample in any::<prop::sample::Index>(), mutations in mutations()) {
        let raw = mutate(sample.get(&samples().1).encode(), &mutations);
        if let Ok(node) = Node::parse(&raw) {
            prop_assert_eq!(Node::parse(&node.encode()), Ok(node));
        }
    }

    #[test]
    fn a_mutated_frame_gives_bytes_or_an_error(raw in prop::collection::vec(0..3u8, 0..2_000), mutations in mutations()) {
        let frame = mutate(compress(&raw).unwrap(), &mutations);
        if let Ok(decoded) = decode_frame(&frame, 3_000) {
            prop_assert!(decoded.len() <= 3_000);
        }
        let _ = pack_frames(PackId::of(&frame), &frame);
    }

    #[test]
    fn heads_survive_their_encoding(generation: u64, file_len in 0..=limits::FILE_LEN_MAX_BYTES, commit_time_ns: i64, body_len in 0..4_000_000u32) {
        let head = Head { generation: Generation(generation), file_len, commit_time_ns, body_len };
        prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
    }
}

#[test]
fn bombs_and_trailing_bytes_are_refused() {
    let frame = compress(&vec![0; 100 * 1024 * 1024]).unwrap();
    assert!(decode_frame(&frame, CHUNK).is_err());
    let frame = compress(b"chunk").unwrap();
    assert_eq!(decode_frame(&frame, 5).unwrap(), b"chunk");
    assert!(decode_frame(&frame, 4).is_err());
    assert!(decode_frame(&[frame.as_slice(), &frame].concat(), 100).is_err());
    assert!(decode_frame(&[frame.as_slice(), b"x"].concat(), 100).is_err());
    assert!(
        decode_frame(
            &[b"\x50\x2a\x4d\x18\x00\x00\x00\x00", frame.as_slice()].concat(),
            100
        )
        .is_err()
    );
}

#[test]
fn packs_hold_64_frames_and_are_found_again_without_an_index() {
    let mut builder = PackBuilder::new();
    for i in 0..64 {
        assert_eq!(builder.push(&noise(i, CHUNK)), Ok(i as usize));
    }
    assert!(builder.is_full() && builder.push(b"x").is_err());
    assert!(PackBuilder::new().push(b"").is_err());
    assert!(
        PackBuilder::new()
            .push(&vec![0; limits::NODE_LEN_MAX_BYTES + 1])
            .is_err()
    );
    let pack = builder.finish();
    assert_eq!(pack_frames(pack.id, &pack.body).unwrap(), pack.frames);
    assert_eq!(
        pack_frames(PackId::of(b"x"), &pack.body),
        Err(FormatError::WrongPack {
            id: PackId::of(b"x")
        })
    );
    let long = [pack.body.as_slice(), &compress(b"x").unwrap()].concat();
    assert!(pack_frames(PackId::of(&long), &long).is_err());
}

#[test]
fn other_versions_and_other_files_are_told_apart() {
    let bytes = samples().0[0].encode().unwrap();
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(
        Manifest::decode(&newer),
        Err(FormatError::UnknownVersion { found: 2, known: 1 })
    );
    assert_eq!(
        Manifest::decode(b"SQLite format 3\0"),
        Err(FormatError::NotAManifest)
    );
    assert_eq!(Manifest::decode(b""), Err(FormatError::NotAManifest));
    assert!(matches!(
        Manifest::decode(&bytes[..20]),
        Err(FormatError::Truncated { .. })
    ));
    assert!(matches!(
        Manifest::decode(&bytes[..bytes.len() - 1]),
        Err(FormatError::Truncated { .. })
    ));
}

#[test]
fn the_manifest_in_the_documentation_stays_readable() {
    let document = include_str!("../../../../docs/FORMAT.md");
    let dump = document
        .split("```hex\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let digits: Vec<u8> = dump
        .lines()
        .flat_map(|line| line.split("  ").nth(1))
        .flat_map(str::bytes)
        .collect();
    let digits: Vec<u8> = digits.into_iter().filter(|digit| *digit != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();

    let manifest = Manifest::decode(&bytes).unwrap();
    assert_eq!(
        (manifest.generation(), manifest.file_len()),
        (Generation(1), 1_024)
    );
    assert_eq!(manifest.identity().path, b"/a");
    assert_eq!(manifest.source().taken_ns, 1_700_000_000_000_000_000);
    let expected = [vec![b'a'; 512], vec![0; 512]].concat();
    assert_eq!(World::default().read(&manifest), expected);
}
