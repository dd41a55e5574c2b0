//! Keys: what a store lists becomes names on a mount, and names become keys.

use verneuil_format::limits::{KEY_LEN_MAX_BYTES, SEGMENT_LEN_MAX_BYTES};
use verneuil_format::{
    Segment, decode_segment, invert_manifest_key, invert_pack_key, manifest_key, pack_key,
    path_segment,
};
use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seeds};

/// A name, its key and what the key gives back.
const KEY_FACTOR: usize = 16;
const KEY_BYTES: usize = 16 * 1024;

/// A key that a store lists: it stands for nothing, or for exactly one database.
fn listed(key: &str) {
    if let Some((host, path)) = invert_manifest_key(key) {
        assert_eq!(manifest_key(&host, &path), key);
    }
    if let Some(id) = invert_pack_key(key) {
        assert_eq!(pack_key(id), key);
    }
    for segment in key.split('/') {
        if let Ok(Segment::Plain(name)) = decode_segment(segment) {
            assert_eq!(path_segment(&name), segment, "two spellings");
            assert!(
                !name.contains(&b'/') && !name.contains(&0),
                "{name:?} is not one name"
            );
        }
    }
}

/// A database: its key is legal everywhere, and leads back to it.
fn named(host: &str, path: &[u8]) {
    let key = manifest_key(host, path);
    assert!(key.len() <= KEY_LEN_MAX_BYTES && key.is_ascii());
    let segments: Vec<&str> = key.split('/').collect();
    assert!(segments[0] == "manifests" && segments.len() >= 3);
    for segment in &segments {
        assert!(
            !segment.is_empty() && *segment != "." && *segment != "..",
            "{key}"
        );
        assert!(segment.len() <= SEGMENT_LEN_MAX_BYTES + 1, "{key}");
        assert!(
            segment
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\'),
            "{key}"
        );
    }
    assert_eq!(key.matches('@').count(), 1);
    match invert_manifest_key(&key) {
        Some(found) => assert_eq!(found, (host.to_owned(), path.to_owned())),
        None => assert!(
            key.contains("%path-") || key.contains("%name-"),
            "{key} hides no name"
        ),
    }
}

#[test]
fn a_key_stands_for_one_database_and_stays_in_its_place() {
    let objects = seeds::bytes_of(&seeds::keys());
    fuzz!("key", |input: &[u8]| {
        let bytes = script::object(&objects, input, input.first().is_some_and(u8::is_ascii));
        bounded("a key", bytes.len(), KEY_FACTOR, KEY_BYTES, || {
            listed(&String::from_utf8_lossy(&bytes));
            let at = bytes.iter().position(|byte| *byte == b'/').unwrap_or(0);
            let (host, path) = bytes.split_at(at);
            named(&String::from_utf8_lossy(host), path);
            named("h", &bytes);
        });
    });
}
