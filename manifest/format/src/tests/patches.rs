//! Inline patches by example: what stays in the manifest, what leaves it, and what resizing means.

use std::collections::{BTreeMap, HashMap};

use super::world::{CHUNK, World, changed, from_scratch, identity, noise, source};
use crate::*;

/// A file of whole chunks of noise, all of them packed.
fn packed(world: &mut World, chunks: usize) -> (Vec<u8>, Manifest) {
    let file = noise(1, chunks * CHUNK);
    let manifest = world.update(
        &Manifest::empty(identity()),
        &from_scratch(&file, 4_096),
        PatchBudget::ORDINARY,
    );
    assert_eq!(manifest.patches().count(), 0);
    (file, manifest)
}

/// Writes one page of noise and updates.
fn write_page(
    world: &mut World,
    file: &mut [u8],
    manifest: &Manifest,
    page: usize,
    seed: u64,
) -> Manifest {
    file[page * 4_096..][..4_096].copy_from_slice(&noise(seed, 4_096));
    let start = (page % 16 * 4_096) as u32;
    let changes = BTreeMap::from([changed(file, (page / 16) as u32, &[start..start + 4_096])]);
    let next = NextState {
        source: source(file.len(), 4_096),
        changes,
    };
    let manifest = world.update(manifest, &next, PatchBudget::ORDINARY);
    assert!(world.read(&manifest) == file);
    manifest
}

#[test]
fn a_small_commit_needs_no_pack() {
    let mut world = World::default();
    let (mut file, base) = packed(&mut world, 3);
    let packs = world.packs.len();
    let manifest = write_page(&mut world, &mut file, &base, 17, 2);
    let manifest = write_page(&mut world, &mut file, &manifest, 19, 3);
    let manifest = write_page(&mut world, &mut file, &manifest, 18, 4);
    assert_eq!(world.packs.len(), packs);
    // Three pages that touch are one range.
    let (index, patch) = manifest.patches().next().unwrap();
    assert_eq!(
        (index, patch.ranges.len(), patch.ranges[0].bytes.len()),
        (ChunkIndex(1), 1, 3 * 4_096)
    );
}

#[test]
fn a_new_small_database_needs_no_pack() {
    let mut world = World::default();
    let file = noise(1, 5 * 4_096);
    let manifest = world.update(
        &Manifest::empty(identity()),
        &from_scratch(&file, 4_096),
        PatchBudget::ORDINARY,
    );
    assert!(world.packs.is_empty());
    assert!(world.read(&manifest) == file);
}

#[test]
fn a_change_back_to_the_stored_version_ends_the_patch() {
    let mut world = World::default();
    let (mut file, base) = packed(&mut world, 2);
    let original = file.clone();
    let patched = write_page(&mut world, &mut file, &base, 20, 2);
    assert_eq!(patched.patches().count(), 1);
    let changes = BTreeMap::from([changed(&original, 1, &[16_384..20_480])]);
    let back = world.update(
        &patched,
        &NextState {
            source: *base.source(),
            changes,
        },
        PatchBudget::ORDINARY,
    );
    assert_eq!(back.patches().count(), 0);
    assert_eq!(back.list, base.list);
}

#[test]
fn the_coldest_patches_leave_together_down_to_half_the_budget() {
    let mut world = World::default();
    let (mut file, mut manifest) = packed(&mut world, 40);
    let packs = world.packs.len();
    // 15 pages cost 15 × 4,160 bytes, less than 65,536; the 16th is one too many. Chunk 0 is written again and again.
    for chunk in 1..16 {
        manifest = write_page(&mut world, &mut file, &manifest, 0, 1_000 + chunk as u64);
        manifest = write_page(
            &mut world,
            &mut file,
            &manifest,
            chunk * 16,
            2_000 + chunk as u64,
        );
    }
    assert_eq!(world.packs.len(), packs + 1);
    let left: Vec<u32> = manifest.patches().map(|(index, _)| index.0).collect();
    // 7 × 4,160 bytes are at most half the budget; the hot chunk is among them.
    assert_eq!(left, [0, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn eviction_asks_for_the_stored_chunks_that_it_needs() {
    let mut world = World::default();
    let (mut file, mut manifest) = packed(&mut world, 20);
    for chunk in 0..15 {
        manifest = write_page(
            &mut world,
            &mut file,
            &manifest,
            chunk * 16,
            50 + chunk as u64,
        );
    }
    file[15 * CHUNK] ^= 1;
    let changes = BTreeMap::from([changed(&file, 15, &[0..1])]);
    let next = NextState {
        source: source(file.len(), 4_096),
        changes,
    };
    let nodes: HashMap<NodeId, std::sync::Arc<Node>> = HashMap::new();
    let mut chunks: HashMap<ChunkId, bytes::Bytes> = HashMap::new();
    let Err(UpdateError::NeedChunks(needed)) =
        manifest.update(&next, &nodes, &chunks, PatchBudget::ORDINARY)
    else {
        panic!("nothing was evicted");
    };
    let indexes: Vec<u32> = needed.iter().map(|(index, _)| index.0).collect();
    assert_eq!(indexes, (0..9).collect::<Vec<_>>());

    for (_, entry) in &needed {
        chunks.insert(entry.id, b"damaged".as_slice().into());
    }
    let damaged = manifest.update(&next, &nodes, &chunks, PatchBudget::ORDINARY);
    assert!(matches!(
        damaged,
        Err(UpdateError::Format(FormatError::WrongStored { .. }))
    ));
    for (_, entry) in &needed {
        chunks.insert(entry.id, world.stored(entry).into());
    }
    // The new patch is believed when it has been seen what it patches.
    let Err(UpdateError::NeedChunks(patched)) =
        manifest.update(&next, &nodes, &chunks, PatchBudget::ORDINARY)
    else {
        panic!("the patch was believed");
    };
    for (index, entry) in &patched {
        assert_eq!(index.0, 15);
        chunks.insert(entry.id, world.stored(entry).into());
    }
    let updated = manifest
        .update(&next, &nodes, &chunks, PatchBudget::ORDINARY)
        .unwrap();
    assert_eq!((updated.packs.len(), updated.packs[0].frames.len()), (1, 9));
}

/// What the copier remembers of a content.
struct Remembered(ChunkId, PageIds);

impl ChunkSource for Remembered {
    fn stored(&self, _: &ChunkId) -> Option<bytes::Bytes> {
        None
    }

    fn pages(&self, id: &ChunkId) -> Option<&PageIds> {
        (*id == self.0).then_some(&self.1)
    }
}

#[test]
fn a_patch_that_would_leave_something_out_is_not_made() {
    for page_size in [512u32, 4_096, 0] {
        let mut world = World::default();
        let (file, base) = packed(&mut world, 3);
        let nodes: HashMap<NodeId, std::sync::Arc<Node>> = HashMap::new();
        let before = &file[CHUNK..2 * CHUNK];
        let remembered = Remembered(ChunkId::of(before), PageIds::of(before, page_size));
        for (foreign, patches, packs) in [
            (None, 1, 0),
            (Some(CHUNK), 0, 1),
            (Some(2 * CHUNK - 1), 0, 1),
        ] {
            let mut new = file.clone();
            new[CHUNK + 8_192..][..4_096].copy_from_slice(&noise(2, 4_096));
            foreign.into_iter().for_each(|at| new[at] ^= 1);
            let next = NextState {
                source: source(file.len(), page_size),
                changes: BTreeMap::from([changed(&new, 1, &[8_192..12_288])]),
            };
            // By what is stored ...
            let manifest = world.update(&base, &next, PatchBudget::ORDINARY);
            assert!(world.read(&manifest) == new);
            assert_eq!(manifest.patches().count(), patches);
            // ... and by what is remembered of it, without reading it.
            let updated = base
                .update(&next, &nodes, &remembered, PatchBudget::ORDINARY)
                .unwrap();
            assert_eq!((updated.manifest, updated.packs.len()), (manifest, packs));
        }
    }
}

#[test]
fn what_was_remembered_of_other_pages_or_lengths_tells_nothing() {
    let mut world = World::default();
    let (file, base) = packed(&mut world, 2);
    let nodes: HashMap<NodeId, std::sync::Arc<Node>> = HashMap::new();
    let before = &file[CHUNK..];
    let mut new = file.clone();
    new[CHUNK] ^= 1;
    let next = NextState {
        source: source(file.len(), 4_096),
        changes: BTreeMap::from([changed(&new, 1, &[0..1])]),
    };
    for pages in [
        PageIds::of(before, 512),
        PageIds::of(&before[..60_000], 4_096),
    ] {
        let updated = base.update(
            &next,
            &nodes,
            &Remembered(ChunkId::of(before), pages),
            PatchBudget::ORDINARY,
        );
        assert!(matches!(updated, Err(UpdateError::NeedChunks(_))));
    }
}

#[test]
fn a_page_as_long_as_a_chunk_goes_into_a_pack() {
    let mut world = World::default();
    let (mut file, base) = packed(&mut world, 2);
    file[CHUNK + 5] ^= 1;
    let changes = BTreeMap::from([changed(&file, 1, &[5..6])]);
    let manifest = world.update(
        &base,
        &NextState {
            source: source(file.len(), 65_536),
            changes,
        },
        PatchBudget::ORDINARY,
    );
    assert_eq!(manifest.patches().count(), 0);
    assert!(world.read(&manifest) == file);
}

#[test]
fn a_file_that_shrinks_and_grows_does_not_get_its_old_bytes_back() {
    let mut world = World::default();
    let (file, base) = packed(&mut world, 3);
    let none = |len| NextState {
        source: source(len, 4_096),
        changes: BTreeMap::new(),
    };
    let resize = |world: &mut World, manifest: &Manifest, len| {
        world.update(manifest, &none(len), PatchBudget::ORDINARY)
    };

    let short = resize(&mut world, &base, CHUNK + 1_000);
    assert!(world.read(&short) == file[..CHUNK + 1_000]);
    // Only the length differs from what is stored: a patch without ranges.
    assert!(
        short
            .patches()
            .all(|(index, patch)| index.0 == 1 && patch.ranges.is_empty())
    );
    for len in [CHUNK + 1_001, CHUNK + 60_000, 2 * CHUNK, 3 * CHUNK] {
        let long = resize(&mut world, &short, len);
        let mut expected = file[..CHUNK + 1_000].to_vec();
        expected.resize(len, 0);
        assert!(world.read(&long) == expected);
    }
}

#[test]
fn zeros_are_never_stored() {
    let mut world = World::default();
    let base = Manifest::empty(identity());
    let zeros = vec![0; 5 * CHUNK + 100];
    let manifest = world.update(&base, &from_scratch(&zeros, 4_096), PatchBudget::NONE);
    assert!(world.packs.is_empty() && manifest.list.overlay.is_empty());
    let view = manifest.chunk(ChunkIndex(5), &HashMap::new()).unwrap();
    assert_eq!(
        (view.len, view.id, view.entry),
        (100, ChunkId::of(&[0; 100]), Entry::zero(100))
    );
    assert!(world.read(&manifest) == zeros);
}

#[test]
fn equal_chunks_of_one_update_are_stored_once() {
    let mut world = World::default();
    let file = noise(1, CHUNK).repeat(70);
    world.update(
        &Manifest::empty(identity()),
        &from_scratch(&file, 4_096),
        PatchBudget::ORDINARY,
    );
    assert_eq!(world.packs.len(), 1);
}

#[test]
fn a_change_of_another_length_than_its_chunk_is_refused() {
    let file = noise(1, CHUNK);
    let mut next = from_scratch(&file, 4_096);
    next.source.file_len -= 1;
    let nodes: HashMap<NodeId, std::sync::Arc<Node>> = HashMap::new();
    let chunks: HashMap<ChunkId, bytes::Bytes> = HashMap::new();
    let result = Manifest::empty(identity()).update(&next, &nodes, &chunks, PatchBudget::ORDINARY);
    let given = CHUNK as u64;
    assert_eq!(
        result.err(),
        Some(UpdateError::WrongLength {
            index: ChunkIndex(0),
            given,
            len: CHUNK_LEN_BYTES - 1
        })
    );
    next.source.file_len = limits::FILE_LEN_MAX_BYTES + 1;
    let result = Manifest::empty(identity()).update(&next, &nodes, &chunks, PatchBudget::ORDINARY);
    assert!(matches!(
        result,
        Err(UpdateError::Format(FormatError::TooLarge { .. }))
    ));
}

#[test]
fn damaged_bytes_are_never_assembled() {
    let mut world = World::default();
    let (mut file, base) = packed(&mut world, 1);
    let patched = write_page(&mut world, &mut file, &base, 3, 9);
    for manifest in [&base, &patched] {
        let nodes: HashMap<NodeId, std::sync::Arc<Node>> = HashMap::new();
        let view = manifest.chunk(ChunkIndex(0), &nodes).unwrap();
        let stored = world.stored(&view.entry);
        assert!(assemble(&view, stored.clone()).is_ok());
        let mut damaged = stored.clone();
        damaged[60_000] ^= 1;
        assert!(assemble(&view, damaged).is_err());
        assert!(assemble(&view, stored[..50_000].to_vec()).is_err());
        assert!(assemble(&view, Vec::new()).is_err());
    }
}
