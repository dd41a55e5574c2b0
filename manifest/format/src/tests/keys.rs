//! Keys: injective for any bytes, invertible where not hashed, legal in S3 and in a directory.

use proptest::prelude::*;

use crate::limits::{KEY_LEN_MAX_BYTES, SEGMENT_LEN_MAX_BYTES};
use crate::*;

/// Paths that are apt to collide.
fn paths() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just(b"".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b"@".to_vec()),
        Just(b"a".to_vec()),
        Just(b"a@".to_vec()),
        Just(b"%empty".to_vec()),
        Just(b"%relative".to_vec()),
        Just(b"%2E".to_vec()),
        Just("é\n".into()),
        "[a-z.%@ ]{1,4}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..6),
        (250..260usize).prop_map(|len| vec![b'n'; len]),
        (80..90usize).prop_map(|len| vec![0xff; len]),
    ];
    let names = prop::collection::vec(name, 0..6).prop_map(|names| names.join(&b'/'));
    prop_oneof![
        4 => names.clone(),
        4 => names.prop_map(|path| [b"/", path.as_slice()].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..4_097),
        1 => prop::collection::vec(prop_oneof![Just(b'/'), Just(b'x')], 800..1_000),
    ]
}

fn check(host: &str, path: &[u8]) {
    let key = manifest_key(host, path);
    assert!(key.len() <= KEY_LEN_MAX_BYTES, "{} bytes", key.len());
    assert!(key.is_ascii());
    assert!(key.ends_with('@') && key.matches('@').count() == 1);
    let segments: Vec<&str> = key.trim_end_matches('@').split('/').collect();
    assert!(segments.len() >= 3);
    for segment in &segments {
        assert!(
            segment.len() <= SEGMENT_LEN_MAX_BYTES
                && !segment.is_empty()
                && *segment != "."
                && *segment != ".."
        );
    }
    let hashed = segments
        .iter()
        .any(|s| s.starts_with("%name-") || s.starts_with("%path-"));
    let inverse = invert_manifest_key(&key);
    if hashed {
        assert_eq!(inverse, None);
        assert!(
            segments
                .iter()
                .any(|s| decode_segment(s) == Ok(Segment::Hashed))
        );
    } else {
        assert_eq!(inverse, Some((host.to_owned(), path.to_vec())));
    }
    assert!(key.starts_with(&host_prefix(host)));
    assert_eq!(
        key.starts_with(&deep_prefix(host)),
        segments[2].starts_with("%path-")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn path_to_key_is_injective(a in paths(), b in paths(), host_a in "[a%@./-]{0,3}", host_b in "[a%@./-]{0,3}") {
        let same = (&host_a, &a) == (&host_b, &b);
        prop_assert_eq!(manifest_key(&host_a, &a) == manifest_key(&host_b, &b), same);
    }

    #[test]
    fn a_key_is_legal_everywhere_and_invertible_where_not_hashed(path in paths(), host in ".{0,300}") {
        check(&host, &path);
    }

    #[test]
    fn a_database_is_never_a_directory_of_another(a in paths(), b in paths()) {
        let (a, b) = (manifest_key("h", &a), manifest_key("h", &b));
        let inside = a + "/";
        prop_assert!(!b.starts_with(&inside));
    }

    #[test]
    fn a_segment_has_one_spelling(segment in "[a%@2Ef./-]{0,8}|%(empty|relative|name-|path-)?[0-9a-f]{0,64}") {
        if let Ok(Segment::Plain(name)) = decode_segment(&segment) {
            prop_assert!(!name.contains(&b'/') && !name.contains(&0));
            prop_assert_eq!(path_segment(&name), segment);
        }
    }

    #[test]
    fn only_a_key_is_inverted(key in "(manifests/)?[ah%@2E./-]{0,12}@?|manifests/h/%relative(/a)?@") {
        if let Some((host, path)) = invert_manifest_key(&key) {
            prop_assert_eq!(manifest_key(&host, &path), key);
        }
    }
}

#[test]
fn keys_of_the_documentation() {
    let long = vec![b'n'; 255];
    for (path, key) in [
        (
            b"/var/lib/app/main.db".as_slice(),
            "manifests/web-1/var/lib/app/main.db@",
        ),
        (b"/srv/a@b c.db", "manifests/web-1/srv/a%40b%20c.db@"),
        (b"/srv/\xc3\xa9\n", "manifests/web-1/srv/%C3%A9%0A@"),
        (b"/./..", "manifests/web-1/%2E/%2E%2E@"),
        (b"/a//b", "manifests/web-1/a/%empty/b@"),
        (b"/", "manifests/web-1/%empty@"),
        (b"a.db", "manifests/web-1/%relative/a.db@"),
        (b"", "manifests/web-1/%relative/%empty@"),
    ] {
        assert_eq!(manifest_key("web-1", path), key);
        check("web-1", path);
    }
    let name = blake3::hash(&long).to_hex();
    assert_eq!(
        manifest_key("h", &[b"/a/", long.as_slice()].concat()),
        format!("manifests/h/a/%name-{name}@")
    );
    let deep = b"/dir".repeat(1_000);
    let path = blake3::hash(&deep).to_hex();
    assert_eq!(
        manifest_key("h", &deep),
        format!("manifests/h/%path-{path}@")
    );
}

#[test]
fn pack_keys_are_inverted() {
    let id = PackId::of(b"body");
    let key = pack_key(id);
    assert_eq!(key, format!("packs/{}/{id}", &id.to_string()[..2]));
    assert_eq!(invert_pack_key(&key), Some(id));
    for wrong in [
        "",
        "packs/",
        "packs/00",
        "packs/é",
        &key[1..],
        &key[..key.len() - 1],
        &key.to_uppercase(),
    ] {
        assert_eq!(invert_pack_key(wrong), None);
    }
    assert_eq!(invert_pack_key(&format!("packs/zz/{id}")), None);
}
