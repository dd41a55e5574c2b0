//! Nodes of a chunk list. Their ids are hashes of their bytes, so that any bytes are the right ones for some manifest.

use verneuil_format::limits::NODE_LEN_MAX_BYTES;
use verneuil_format::{FormatError, FrameRef, Node, NodeId, NodeRef, PackId};
use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seeds};

/// A varint of one byte is an entry of 80 bytes in a tree.
const DECODED_FACTOR: usize = 160;
const DECODED_BYTES: usize = 16 * 1024;

/// Decodes `raw` under the id that it has.
pub fn decode(raw: &[u8]) -> Result<Node, FormatError> {
    let at = FrameRef {
        pack: PackId([0; 32]),
        offset: 0,
        len: 1,
    };
    Node::decode(
        &NodeRef {
            id: NodeId::of(raw),
            at,
        },
        raw,
    )
}

#[test]
fn any_bytes_are_a_node_within_the_limits_or_an_error() {
    let objects = seeds::bytes_of(&seeds::snapshots().nodes);
    fuzz!("node", |input: &[u8]| {
        let real = input
            .first()
            .is_some_and(|tag| [0x0a, 0x12, 0x1a].contains(tag));
        let raw = script::object(&objects, input, real);
        let decoded = bounded(
            "decoding a node",
            raw.len(),
            DECODED_FACTOR,
            DECODED_BYTES,
            || decode(&raw),
        );
        let node = match decoded {
            Ok(node) => node,
            Err(error) => return crate::says_something(&error),
        };
        let again = node.encode();
        assert!(again.len() <= NODE_LEN_MAX_BYTES);
        assert_eq!(decode(&again), Ok(node));
        // Under another id the same bytes are nothing.
        let at = FrameRef {
            pack: PackId([0; 32]),
            offset: 0,
            len: 1,
        };
        assert!(
            Node::decode(
                &NodeRef {
                    id: NodeId([7; 32]),
                    at
                },
                &raw
            )
            .is_err()
        );
    });
}
