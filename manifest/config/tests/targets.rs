//! Several targets: which lists are taken, and which are refused, with both places named.
#![allow(clippy::panic)] // helpers of tests are not seen as tests

use verneuil_config::{Config, TargetConfig};

fn directory(path: &str) -> String {
    format!(r#"{{"directory": {{"path": "{path}"}}}}"#)
}

fn s3(region: &str, manifests: &str, extra: &str) -> String {
    format!(
        r#"{{"s3": {{"region": "{region}", "chunk_bucket": "chunks", "manifest_bucket": "{manifests}"{extra}}}}}"#
    )
}

fn parse(targets: &[String]) -> Result<Config, String> {
    let text = format!("{{\"replication_targets\": [\n{}]}}", targets.join(",\n"));
    Config::parse(&text, "test").map_err(|error| error.to_string())
}

#[test]
fn several_targets_keep_their_order_and_caches_may_stand_between_them() {
    let local = r#"{"local": {"directory": "/cache"}}"#.to_owned();
    let config = parse(&[
        directory("/b"),
        local,
        s3("eu-central-1", "mmm", ""),
        s3("eu-central-1", "mmm", r#", "prefix": "p""#),
        s3("us-east-1", "mmm", ""),
        s3(
            "us-east-1",
            "mmm",
            r#", "endpoint": "http://127.0.0.1:9000""#,
        ),
        s3("us-east-1", "nnn", ""),
        directory("/a"),
    ])
    .unwrap();
    let names: Vec<_> = config
        .targets
        .iter()
        .map(|target| match target {
            TargetConfig::Directory(directory) => directory.path.display().to_string(),
            TargetConfig::S3(s3) => format!("{} {} {}", s3.region, s3.manifest_bucket, s3.prefix),
        })
        .collect();
    assert_eq!(
        names,
        [
            "/b",
            "eu-central-1 mmm ",
            "eu-central-1 mmm p/",
            "us-east-1 mmm ",
            "us-east-1 mmm ",
            "us-east-1 nnn ",
            "/a",
        ]
    );
    assert_eq!(config.caches.len(), 1);
}

#[test]
fn the_same_place_twice_is_refused_with_both_positions() {
    let at_endpoint = |region, extra: &str| {
        let endpoint = r#", "endpoint": "http://127.0.0.1:9000""#;
        s3(region, "mmm", &format!("{endpoint}{extra}"))
    };
    for (one, other) in [
        (directory("/a/b"), directory("/a//b/")),
        (
            s3("us-east-1", "mmm", ""),
            s3("us-east-1", "mmm", r#", "max_attempts": 2"#),
        ),
        (at_endpoint("a", ""), at_endpoint("b", r#", "prefix": """#)),
    ] {
        let error = parse(&[directory("/first"), one, other]).unwrap_err();
        assert_eq!(
            error,
            "test:4:1: key \"replication_targets[2]\": the target at line 3, column 1 writes to the \
             same place; remove one of the two, or give them different prefixes or buckets"
        );
    }
}

#[test]
fn a_ninth_target_is_refused() {
    let targets: Vec<_> = (0..9)
        .map(|number| directory(&format!("/{number}")))
        .collect();
    assert_eq!(parse(&targets[..8]).unwrap().targets.len(), 8);
    let error = parse(&targets).unwrap_err();
    assert!(
        error.starts_with("test:10:1: key \"replication_targets[8]\": there are more than 8 "),
        "{error}"
    );
    // Those that are read only count for nothing.
    let cache = r#"{"read_only": {"directory": "/cache"}}"#.to_owned();
    assert!(parse(&[&targets[..8], &[cache]].concat()).is_ok());
}
