//! What can be seen without a server; the rest is in `integration/tests/store_conformance.rs`.

use super::*;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::presigning::PresigningConfig;

fn offline(edit: impl FnOnce(&mut S3Config)) -> S3 {
    let mut config = S3Config::new("eu-central-1", "packs-1", "manifests-1");
    edit(&mut config);
    let builder = aws_sdk_s3::config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"));
    S3::with_settings(builder, &config)
}

async fn url(s3: &S3, space: Space, key: &str) -> String {
    let presigning = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let request = s3
        .client
        .get_object()
        .bucket(s3.bucket(space))
        .key(s3.key(key))
        .presigned(presigning)
        .await
        .unwrap();
    request.uri().split('?').next().unwrap().to_owned()
}

#[tokio::test]
async fn addressing_prefix_and_endpoint_show_in_the_url() {
    let s3 = offline(|_| {});
    assert_eq!(
        url(&s3, Space::Chunks, "packs/ab/cd").await,
        "https://s3.eu-central-1.amazonaws.com/packs-1/packs/ab/cd"
    );
    let s3 = offline(|config| config.domain_addressing = true);
    assert_eq!(
        url(&s3, Space::Manifests, "manifests/h/db@").await,
        "https://manifests-1.s3.eu-central-1.amazonaws.com/manifests/h/db%40"
    );
    let s3 = offline(|config| {
        config.endpoint = Some("http://store.example:9000".into());
        config.prefix = "a/b/".into();
    });
    assert_eq!(
        url(&s3, Space::Chunks, "k").await,
        "http://store.example:9000/packs-1/a/b/k"
    );
    let s3 = offline(|config| {
        config.endpoint = Some("http://store.example:9000".into());
        config.domain_addressing = true;
    });
    assert_eq!(
        url(&s3, Space::Chunks, "k").await,
        "http://packs-1.store.example:9000/k"
    );
}

#[test]
fn content_ranges_are_read_strictly() {
    assert_eq!(parse_content_range("bytes 5-9/20"), Some((5..10, 20)));
    assert_eq!(parse_content_range("bytes 0-0/1"), Some((0..1, 1)));
    for bad in [
        "",
        "5-9/20",
        "bytes 9-5/20",
        "bytes 5-9/*",
        "bytes */20",
        "bytes a-b/c",
    ] {
        assert_eq!(parse_content_range(bad), None, "{bad}");
    }
    let huge = format!("bytes 0-{}/1", u64::MAX);
    assert_eq!(parse_content_range(&huge), None);
}

#[test]
fn names_tell_bucket_key_and_place() {
    let s3 = offline(|config| config.prefix = "p/".into());
    assert_eq!(
        s3.name(Space::Chunks, "k"),
        "s3://packs-1/p/k in eu-central-1"
    );
    let s3 = offline(|config| config.endpoint = Some("http://h:1".into()));
    assert_eq!(
        s3.name(Space::Manifests, "k"),
        "s3://manifests-1/k at http://h:1"
    );
    assert!(!format!("{s3:?}").contains("\"secret\""));
}
