//! Manifests: whoever can write to a store can make a reader decode any of them.

use std::collections::HashMap;
use std::sync::Arc;

use verneuil_format::limits::{FILE_LEN_MAX_BYTES, MANIFEST_LEN_MAX_BYTES, PATCHES_MAX};
use verneuil_format::{
    ChunkIndex, HEAD_LEN_BYTES, Head, LookupError, Manifest, Node, NodeId, NodeSource, manifest_key,
};
use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seal, seeds};

/// A varint of one byte is an entry of 80 bytes in a tree.
const DECODED_FACTOR: usize = 160;
/// The largest frame of patches that a manifest may hold, decompressed.
const DECODED_BYTES: usize = 512 * 1024;
/// The difference of two lists: a place for each chunk of each leaf that differs, of the leaves that a manifest and an inner node list.
const DIFFED_BYTES: usize = 64 << 20;

/// Some node for every id, as a hostile store has it (it can't, ids being hashes: so much the worse).
struct Anything(Vec<Arc<Node>>);

impl NodeSource for Anything {
    fn node(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.0
            .get(usize::from(id.0[0]) % (self.0.len() + 1))
            .cloned()
    }
}

fn check(bytes: &[u8], others: &[Manifest], nodes: &Anything) {
    let decoded = bounded(
        "decoding a manifest",
        bytes.len(),
        DECODED_FACTOR,
        DECODED_BYTES,
        || Manifest::decode(bytes),
    );
    let manifest = match decoded {
        Ok(manifest) => manifest,
        Err(error) => return crate::says_something(&error),
    };
    // What decodes is within the limits, and comes back.
    let head = Head::decode(&bytes[..HEAD_LEN_BYTES]).expect("the head of what decodes");
    assert!(manifest.file_len() <= FILE_LEN_MAX_BYTES && bytes.len() <= MANIFEST_LEN_MAX_BYTES);
    assert_eq!(
        Head {
            body_len: 0,
            ..head
        },
        manifest.head()
    );
    assert!(manifest.patches().count() <= PATCHES_MAX);
    let again = manifest.encode().expect("what was decoded can be encoded");
    assert_eq!(Manifest::decode(&again).as_ref(), Ok(&manifest));

    // Whatever it says, using it ends, within bounds.
    bounded(
        "using a manifest",
        bytes.len(),
        DECODED_FACTOR,
        DIFFED_BYTES,
        || {
            let count = manifest.chunk_count();
            assert_eq!(u64::from(count), manifest.file_len().div_ceil(65_536));
            for index in [
                0,
                1,
                127,
                128,
                1_023,
                1_024,
                count.saturating_sub(1),
                count,
                u32::MAX,
            ] {
                if let Ok(view) = manifest.chunk(ChunkIndex(index), nodes) {
                    assert!(u64::from(view.len) <= 65_536 && (index < count) == (view.len > 0));
                    for range in view.patch.iter().flat_map(|patch| &patch.ranges) {
                        assert!(range.offset as usize + range.bytes.len() <= view.len as usize);
                    }
                }
            }
            drop(manifest.node_refs(nodes));
            drop(manifest.pack_ids(nodes));
            // Without any node, all that can happen is that some are asked for.
            let none: HashMap<NodeId, Arc<Node>> = HashMap::new();
            if let Err(error) = manifest.node_refs(&none) {
                assert!(matches!(error, LookupError::Missing(_)), "{error}");
            }
            for other in others {
                for ranges in [manifest.diff(other, nodes), other.diff(&manifest, nodes)]
                    .into_iter()
                    .flatten()
                {
                    let end = count.max(other.chunk_count());
                    assert!(
                        ranges
                            .iter()
                            .all(|range| range.start < range.end && range.end <= end)
                    );
                    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                }
            }
            // Whoever it says it is, its key stays among the manifests.
            let identity = manifest.identity();
            assert!(manifest_key(&identity.host, &identity.path).starts_with("manifests/"));
        },
    );
}

#[test]
fn any_bytes_are_a_manifest_within_the_limits_or_an_error() {
    let snapshots = seeds::snapshots();
    let objects = seeds::bytes_of(&snapshots.manifests);
    let others: Vec<Manifest> = objects
        .iter()
        .map(|bytes| Manifest::decode(bytes).unwrap())
        .collect();
    let nodes = Anything(
        snapshots
            .nodes
            .iter()
            .map(|(_, raw)| Arc::new(crate::node::decode(raw).unwrap()))
            .collect(),
    );
    fuzz!("manifest", |input: &[u8]| {
        let mut bytes = script::object(&objects, input, input.starts_with(b"\x8eVERNEU\n"));
        check(&bytes, &others, &nodes);
        seal::manifest(&mut bytes);
        check(&bytes, &others, &nodes);
    });
}
