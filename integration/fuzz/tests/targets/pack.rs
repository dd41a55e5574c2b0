//! Packs: frames one after the other, each of which may claim any length.

use verneuil_format::limits::{NODE_LEN_MAX_BYTES, PACK_FRAMES_MAX};
use verneuil_format::{CHUNK_LEN_BYTES, PackBuilder, PackId, decode_frame, pack_frames};
use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seeds};

/// What an index of 64 frames takes.
const INDEX_BYTES: usize = 8 * 1024;
/// What a frame becomes is bounded by what the caller expects, whatever the frame says.
const FRAME_BYTES: usize = NODE_LEN_MAX_BYTES + 1024;

#[test]
fn any_bytes_are_a_pack_of_whole_frames_or_an_error() {
    let objects = seeds::bytes_of(&seeds::packs());
    fuzz!("pack", |input: &[u8]| {
        let body = script::object(&objects, input, input.starts_with(b"\x28\xb5\x2f\xfd"));
        let found = bounded("indexing a pack", body.len(), 0, INDEX_BYTES, || {
            pack_frames(PackId::of(&body), &body)
        });
        let frames = match found {
            Ok(frames) => frames,
            Err(error) => return crate::says_something(&error),
        };
        // They are the body, without gap or overlap.
        assert!((1..=PACK_FRAMES_MAX).contains(&frames.len()));
        let mut end = 0;
        for at in &frames {
            assert_eq!((at.offset, at.pack), (end, PackId::of(&body)));
            end += at.len;
        }
        assert_eq!(end as usize, body.len());
        assert!(pack_frames(PackId([7; 32]), &body).is_err(), "another id");
        for at in &frames {
            let frame = &body[at.offset as usize..(at.offset + at.len) as usize];
            for limit in [CHUNK_LEN_BYTES as usize, NODE_LEN_MAX_BYTES] {
                let decoded = bounded("decompressing a frame", 0, 0, FRAME_BYTES, || {
                    decode_frame(frame, limit)
                });
                let Ok(raw) = decoded else { continue };
                assert!(raw.len() <= limit);
                // What a frame gives can be put into a pack, and comes back.
                let mut builder = PackBuilder::new();
                if raw.is_empty() {
                    continue;
                }
                builder.push(&raw).expect("a frame");
                let again = builder.finish();
                assert_eq!(decode_frame(&again.body, limit), Ok(raw));
            }
        }
    });
}
