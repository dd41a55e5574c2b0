//! Every key, what it may hold, and what a user is told when it does not.
#![allow(clippy::panic)] // helpers of tests are not seen as tests

use std::path::PathBuf;
use verneuil_config::{
    CacheConfig, Config, ConfigError, CopierMode, JournalWal, S3Config, TargetConfig,
};

fn parse(text: &str) -> Config {
    Config::parse(text, "test").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refusal(text: &str) -> String {
    match Config::parse(text, "test") {
        Ok(config) => panic!("accepted: {config:?}\n{text}"),
        Err(error) => error.to_string(),
    }
}

fn s3_with(extra: &str) -> String {
    format!(
        r#"{{"replication_targets": [{{"s3": {{"region": "us-east-1",
            "chunk_bucket": "verneuil_chunks", "manifest_bucket": "manifests", {extra}}}}}]}}"#
    )
}

#[test]
fn blank_text_is_the_default_without_replication() {
    for text in ["", " \n\t", "{}", "\u{feff}{}", "// nothing\n{ }"] {
        assert_eq!(parse(text), Config::default(), "{text:?}");
    }
    let default = Config::default();
    assert_eq!(default.copier.requests_per_second, 30.0);
    assert_eq!(default.copier.burst, 100);
    assert_eq!(default.copier.min_manifest_interval_ms, 1_000);
    assert_eq!(default.copier.mode, CopierMode::InProcess);
    assert_eq!(default.copier.drain_on_close_ms, 1_000);
    assert_eq!(default.journal_wal, JournalWal::Refuse);
}

#[test]
fn a_whole_configuration_of_version_0_6_is_understood() {
    let config = parse(
        r#"{
          // Comments are the README's.
          "make_default": true,
          "tempdir": null,
          "replication_spooling_dir": "/var/spool/verneuil",
          "replication_spooling_dir_permissions": 448, /* 0700 */
          "replication_targets": [
            {
              "s3": {
                "region": "us-east-1",
                // "endpoint": "http://127.0.0.1:9000", // for non-standard regions
                "chunk_bucket": "verneuil_chunks",
                "manifest_bucket": "verneuil_manifests",
                "domain_addressing": true,
                "create_buckets_on_demand": true,  // create private buckets as needed
              }
            },
            {"local": {"directory": "/var/cache/v", "num_shards": 119, "capacity": 1000}},
            {"read_only": {"directory": "/var/cache/other", "num_shards": 4}},
          ],
        }"#,
    );
    assert!(config.make_default);
    assert_eq!(config.tempdir, None);
    let spool = config.spool.unwrap();
    assert_eq!(spool.dir, PathBuf::from("/var/spool/verneuil"));
    assert_eq!(spool.permissions, 0o700);
    let mut s3 = S3Config::new("us-east-1", "verneuil_chunks", "verneuil_manifests");
    s3.domain_addressing = true;
    s3.create_buckets_on_demand = true;
    assert_eq!(config.targets, [TargetConfig::S3(s3)]);
    let local = CacheConfig::Local {
        directory: "/var/cache/v".into(),
        capacity_bytes: 1_000 * 65_536,
    };
    let read_only = CacheConfig::ReadOnly {
        directory: "/var/cache/other".into(),
    };
    assert_eq!(config.caches, [local, read_only]);
}

#[test]
fn every_new_key_is_understood() {
    let config = parse(
        r#"{"replication_targets": [{"s3": {
            "region": "anything", "endpoint": "http://[::1]:8333/", "chunk_bucket": "c-1",
            "manifest_bucket": "m-1", "prefix": "a/b", "profile": "backup",
            "request_timeout_ms": 5000, "max_attempts": 2}},
            {"local": {"directory": "/c", "capacity_bytes": 4096}}],
          "hostname": "db-1.example.com",
          "journal_wal": "unreplicated",
          "copier": {"requests_per_second": 0.5, "burst": 1, "min_manifest_interval_ms": 0,
            "mode": "external", "drain_on_close_ms": 60000}}"#,
    );
    let TargetConfig::S3(s3) = &config.targets[0] else {
        panic!("{config:?}")
    };
    assert_eq!(s3.endpoint.as_deref(), Some("http://[::1]:8333"));
    assert_eq!(s3.prefix, "a/b/");
    assert_eq!(s3.profile.as_deref(), Some("backup"));
    assert_eq!((s3.request_timeout_ms, s3.max_attempts), (5_000, 2));
    assert_eq!(config.host_name().unwrap(), "db-1.example.com");
    assert_eq!(config.copier.requests_per_second, 0.5);
    assert_eq!(config.copier.burst, 1);
    assert_eq!(config.copier.min_manifest_interval_ms, 0);
    assert_eq!(config.copier.mode, CopierMode::External);
    assert_eq!(config.copier.drain_on_close_ms, 60_000);
    assert_eq!(config.journal_wal, JournalWal::Unreplicated);
    let mode = |mode| {
        parse(&format!(r#"{{"copier": {{"mode": "{mode}"}}}}"#))
            .copier
            .mode
    };
    assert_eq!(mode("in_process"), CopierMode::InProcess);
    assert_eq!(mode("off"), CopierMode::Off);
    assert_eq!(
        parse(r#"{"journal_wal": "refuse"}"#).journal_wal,
        JournalWal::Refuse
    );
}

#[test]
fn permissions_are_a_decimal_number_or_an_octal_string_and_include_the_owner() {
    let permissions = |value: &str| {
        parse(&format!(
            r#"{{"replication_spooling_dir": "/s", "replication_spooling_dir_permissions": {value},
                 "replication_targets": [{{"directory": {{"path": "/d"}}}}]}}"#
        ))
        .spool
        .unwrap()
        .permissions
    };
    assert_eq!(permissions("488"), 0o750);
    assert_eq!(permissions("\"0750\""), 0o750);
    assert_eq!(permissions("\"0o755\""), 0o755);
    assert_eq!(permissions("0"), 0o700);
    assert_eq!(permissions("null"), 0o700);
}

/// Each text with the place, the key and a word of the remedy that its error must have.
#[test]
fn every_refusal_names_place_key_and_remedy() {
    let cases: Vec<(String, &str)> = vec![
        (
            "{\n  \"make_defalt\": true\n}".into(),
            "test:2:3: key \"make_defalt\": there is no such key; remove it, or use one of: \
             make_default, tempdir",
        ),
        (
            "{\"snapshot_loading_policy\": \"eager\"}".into(),
            "test:1:2: key \"snapshot_loading_policy\": this key is not supported yet; remove it",
        ),
        (
            "{\"copier\":\n {\"burst\": 1, \"mode\": \"on\"}}".into(),
            "test:2:23: key \"copier.mode\": \"on\" is not accepted here; give one of \
             \"in_process\", \"external\", \"off\"",
        ),
        (
            "{\"copier\": {\"mode\": false}}".into(),
            "key \"copier.mode\": true or false stands here; give one of \"in_process\"",
        ),
        (
            "{\"copier\": {\"drain_on_close_ms\": 60001}}".into(),
            "test:1:34: key \"copier.drain_on_close_ms\": 60001 is not accepted here; give a whole \
             number from 0 to 60000",
        ),
        (
            "{\"journal_wal\": \"allow\"}".into(),
            "test:1:17: key \"journal_wal\": \"allow\" is not accepted here; give one of \"refuse\", \
             \"unreplicated\"",
        ),
        (
            "{\"tempdir\": \"/a\",\n\"tempdir\": \"/b\"}".into(),
            "test:2:1: key \"tempdir\": it already stands at line 1, column 2; remove one",
        ),
        (
            "{\"make_default\": 1}".into(),
            "test:1:18: key \"make_default\": a number stands here; give true or false",
        ),
        (
            "{/* é */ \"tempdir\": \"tmp\"}".into(),
            "test:1:21: key \"tempdir\": \"tmp\" is not an absolute path; give one that begins",
        ),
        (
            "{\"copier\": {\"requests_per_second\": 0}}".into(),
            "key \"copier.requests_per_second\": 0 is not accepted here; give a number from 0.001",
        ),
        (
            "{\"copier\": {\"burst\": 1.5}}".into(),
            "key \"copier.burst\": 1.5 is not accepted here; give a whole number from 1",
        ),
        (
            "{\"replication_spooling_dir\": \"/s\"}".into(),
            "test:1:2: key \"replication_spooling_dir\": nothing would leave the spool",
        ),
        (
            "{\"replication_spooling_dir_permissions\": 448}".into(),
            "there is no replication_spooling_dir that it could apply to; add that key",
        ),
        (
            "{\"replication_targets\": [{\"gcs\": {}}]}".into(),
            "key \"replication_targets[0].gcs\": there is no such kind of target; give one of \"s3\"",
        ),
        (
            "{\"replication_targets\": [{}]}".into(),
            "test:1:26: key \"replication_targets[0]\": the object has 0 keys instead of one",
        ),
        (
            "{\"replication_targets\": [{\"s3\": {\"region\": \"us-east-1\"}}]}".into(),
            "test:1:33: key \"replication_targets[0].s3.chunk_bucket\": it is missing from the \
             object that begins here; add it",
        ),
        (
            "{\"replication_targets\": [{\"local\": {\"directory\": \"/c\", \"capacity\": 1, \
             \"capacity_bytes\": 1}}]}"
                .into(),
            "capacity (files) and capacity_bytes both limit this cache; keep one of them",
        ),
        (
            "{\"replication_targets\": [{\"s3\": {\"region\": \"minio\", \"chunk_bucket\": \"ccc\", \
             \"manifest_bucket\": \"mmm\"}}]}"
                .into(),
            "key \"replication_targets[0].s3.region\": \"minio\" is not the name of an AWS region; \
             give one",
        ),
        (
            s3_with("\"storage_class\": \"STANDARD_IA\""),
            "key \"replication_targets[0].s3.storage_class\": this key is not supported yet",
        ),
        (s3_with("\"endpoint\": \"127.0.0.1:9000\""), "is not the URL of a store; give one as in"),
        (s3_with("\"endpoint\": \"http://h:0\""), "is not the URL of a store"),
        (s3_with("\"endpoint\": \"http://h/?x=1\""), "an endpoint has no user, password or parameters"),
        (s3_with("\"prefix\": \"/abs\""), "cannot be a prefix; give up to"),
        (s3_with("\"prefix\": \"a/../b\""), "cannot be a prefix"),
        (s3_with("\"prefix\": \"/\""), "cannot be a prefix"),
        (s3_with("\"max_attempts\": 0"), "0 is not accepted here; give a whole number from 1"),
        (s3_with("\"request_timeout_ms\": -5"), "-5 is not accepted here"),
        (s3_with("\"profile\": \"\""), "it is empty; give a name"),
        ("{\"hostname\": \"a/b\"}".into(), "\"a/b\" cannot be a host name; give 1 to 255"),
        ("[]".into(), "test:1:1: key \"(top level)\": a list stands here; give an object"),
    ];
    for (text, expected) in cases {
        let error = refusal(&text);
        assert!(
            error.contains(expected),
            "\n{text}\n  said: {error}\n  want: {expected}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn buckets_that_no_store_can_have_are_refused() {
    for name in [
        "ab",
        "-abc",
        "a..b",
        "a/b",
        "a b",
        "é-bucket",
        &"x".repeat(64),
    ] {
        let text = format!(
            r#"{{"replication_targets": [{{"s3": {{"region": "us-east-1",
                "chunk_bucket": {name:?}, "manifest_bucket": "mmm"}}}}]}}"#
        );
        assert!(refusal(&text).contains("cannot be a bucket"), "{name}");
    }
}

#[test]
fn only_comments_and_trailing_commas_extend_json() {
    for text in [
        "{make_default: true}",
        "{'make_default': true}",
        "{\"make_default\": true \"tempdir\": \"/t\"}",
        "{\"copier\": {\"burst\": 0x10}}",
        "{\"copier\": {\"burst\": +1}}",
        "{\"make_default\": true",
        "{} {}",
        "{\"a\": }",
        "/* never closed",
        "// only a comment",
    ] {
        let error = refusal(text);
        assert!(error.starts_with("test:1:"), "{error}");
        assert!(error.contains("not valid JSON"), "{error}");
    }
}

#[test]
fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
    for url in [
        "https://user:hunter2@example.com",
        "https://example.com/?token=hunter2",
        "https://example.com/#hunter2",
    ] {
        let error = refusal(&s3_with(&format!("\"endpoint\": \"{url}\"")));
        assert!(error.contains("endpoint"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_file_is_read_and_named_in_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let at = format!("@{}", path.display());

    let error = Config::parse(&at, "VERNEUIL_CONFIG").unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("VERNEUIL_CONFIG: cannot read"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");

    std::fs::write(&path, "{\"make_default\": true}").unwrap();
    assert!(parse(&at).make_default);

    std::fs::write(&path, "{\n\"nope\": true}").unwrap();
    let text = refusal(&at);
    assert!(
        text.starts_with(&format!("{}:2:1: ", path.display())),
        "{text}"
    );

    std::fs::write(&path, " \n").unwrap();
    assert!(refusal(&at).contains("there is nothing here"));

    std::fs::write(&path, b"{\"hostname\": \"\xff\"}").unwrap();
    assert!(refusal(&at).contains("not UTF-8"));

    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(refusal(&at).contains("longer than"));

    let directory = format!("@{}", folder.path().display());
    assert!(refusal(&directory).contains("cannot read"));
}

#[test]
fn targets_survive_the_spools_record() {
    let mut s3 = S3Config::new("eu-central-1", "ccc", "mmm");
    s3.endpoint = Some("http://127.0.0.1:9000".into());
    s3.prefix = "p/".into();
    let directory = parse(r#"{"replication_targets": [{"directory": {"path": "/d"}}]}"#);
    for target in [TargetConfig::S3(s3), directory.targets[0].clone()] {
        let json = serde_json::to_string(&target).unwrap();
        let back: TargetConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(back, target, "{json}");
    }
    let unknown = r#"{"directory": {"path": "/d", "surprise": 1}}"#;
    assert!(serde_json::from_str::<TargetConfig>(unknown).is_err());
}

#[test]
fn without_a_configured_name_the_machine_gives_one() {
    assert!(!Config::default().host_name().unwrap().is_empty());
}
