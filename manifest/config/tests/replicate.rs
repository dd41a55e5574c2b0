//! The globs of `replicate`: what they cover, and which are refused.
#![allow(clippy::panic)] // helpers of tests are not seen as tests

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use verneuil_config::{Config, ReplicateConfig};

fn parse(value: &str) -> ReplicateConfig {
    let text = format!("{{\"replicate\": {value}}}");
    match Config::parse(&text, "test") {
        Ok(config) => config.replicate,
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// The paths among `paths` that the configuration covers.
fn covered<'a>(value: &str, paths: &[&'a str]) -> Vec<&'a str> {
    let config = parse(value);
    let covers = |path: &&&str| config.covers(Path::new(path));
    paths.iter().filter(covers).copied().collect()
}

#[test]
fn without_globs_every_path_is_covered() {
    let paths = ["/", "/a.db", "/srv/.hidden/a b.db"];
    for value in [
        "{}",
        "null",
        "{\"include\": []}",
        "{\"include\": [], \"exclude\": []}",
    ] {
        assert_eq!(covered(value, &paths), paths, "{value}");
    }
    assert_eq!(parse("{}"), ReplicateConfig::default());
}

#[test]
fn a_star_stays_within_a_name_and_two_cross_names() {
    let paths = [
        "/srv/a.db",
        "/srv/x/a.db",
        "/srv/x/y/.a.db",
        "/srv/x/a.db-old",
        "/srv",
        "/var/a.db",
    ];
    let with = |glob: &str| covered(&format!("{{\"include\": [\"{glob}\"]}}"), &paths);
    assert_eq!(with("/srv/*.db"), ["/srv/a.db"]);
    assert_eq!(with("/srv/*/*.db"), ["/srv/x/a.db"]);
    assert_eq!(
        with("/srv/**/*.db"),
        ["/srv/a.db", "/srv/x/a.db", "/srv/x/y/.a.db"]
    );
    assert_eq!(with("/srv/**"), paths[..4]);
    assert_eq!(with("/**/a.db"), ["/srv/a.db", "/srv/x/a.db", "/var/a.db"]);
    assert_eq!(with("/srv/?.db"), ["/srv/a.db"]);
    assert_eq!(with("/srv?a.db"), [""; 0]);
    assert_eq!(with("/{srv,var}/[a-c].db"), ["/srv/a.db", "/var/a.db"]);
    assert_eq!(
        with("/srv[!x]a.db"),
        [""; 0],
        "a class crosses no name either"
    );
    assert_eq!(with("/srv/A.db"), [""; 0]);
}

#[test]
fn exclude_wins_over_include() {
    let paths = ["/srv/a.db", "/srv/tmp/a.db", "/srv/b.db", "/var/a.db"];
    assert_eq!(
        covered(
            r#"{"include": ["/srv/**", "/var/*"], "exclude": ["/srv/tmp/**", "/**/b.db"]}"#,
            &paths
        ),
        ["/srv/a.db", "/var/a.db"]
    );
    assert_eq!(
        covered(r#"{"exclude": ["/srv/*"]}"#, &paths),
        ["/srv/tmp/a.db", "/var/a.db"]
    );
}

#[test]
fn a_backslash_takes_the_next_character_as_it_stands() {
    let paths = ["/srv/[1]*.db", "/srv/1x.db"];
    assert_eq!(
        covered(r#"{"include": ["/srv/\\[1\\]\\*.db"]}"#, &paths),
        ["/srv/[1]*.db"]
    );
}

#[test]
fn paths_are_matched_as_bytes() {
    let config = parse(r#"{"include": ["/srv/*.db", "/x/?"], "exclude": ["/srv/é*"]}"#);
    let covers = |path: &[u8]| config.covers(Path::new(OsStr::from_bytes(path)));
    assert!(covers(b"/srv/\xff\xfe.db"));
    assert!(covers(b"/srv/\n.db"), "a line break is a byte like others");
    assert!(!covers(b"/srv/\xc3\xa9\xff.db"));
    assert!(covers(b"/srv/\xc3.db"));
    assert!(covers(b"/x/\xff"));
    assert!(!covers(b"/x/\xff\xff"));
}

#[test]
fn every_bad_glob_is_refused_by_key_and_position() {
    for (value, expected) in [
        (
            "{\"include\": [\"/a\",\n \"srv/*.db\"]}",
            "test:2:2: key \"replicate.include[1]\": \"srv/*.db\" is not a glob of absolute paths; \
             give one that begins with '/'",
        ),
        (
            "{\"exclude\": [\"**/x\"]}",
            "test:1:28: key \"replicate.exclude[0]\": \"**/x\" is not a glob of",
        ),
        (
            "{\"exclude\": [\"\"]}",
            "key \"replicate.exclude[0]\": \"\" is not a glob of absolute paths",
        ),
        (
            "{\"exclude\": [\"/a/[z\"]}",
            "test:1:28: key \"replicate.exclude[0]\": \"/a/[z\" is not a glob: unclosed character class",
        ),
        ("{\"include\": [\"/a/{b\"]}", "\"/a/{b\" is not a glob: "),
        (
            "{\"include\": [\"/a/[z-a]\"]}",
            "\"/a/[z-a]\" is not a glob: ",
        ),
        ("{\"include\": [\"/a/b\\\\\"]}", "is not a glob: "),
        ("{\"include\": [\"/srv/\"]}", "\"/srv/\" matches no path: "),
        (
            "{\"include\": [\"/srv/../x\"]}",
            "\"/srv/../x\" matches no path: ",
        ),
        (
            "{\"include\": [\"/srv//x\"]}",
            "\"/srv//x\" matches no path: ",
        ),
        (
            "{\"include\": \"/srv/*\"}",
            "test:1:27: key \"replicate.include\": a string stands here; give a list",
        ),
        (
            "{\"include\": [1]}",
            "key \"replicate.include[0]\": a number stands here; give a string",
        ),
        (
            "{\"includes\": []}",
            "key \"replicate.includes\": there is no such key; remove it, or use one of: include, exclude",
        ),
    ] {
        let text = format!("{{\"replicate\": {value}}}");
        let error = Config::parse(&text, "test").unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "\n{text}\n  said: {error}\n  want: {expected}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn too_many_or_too_long_globs_are_refused() {
    let with = |globs: &[String]| {
        Config::parse(
            &format!("{{\"replicate\": {{\"include\": {globs:?}}}}}"),
            "test",
        )
    };
    let globs: Vec<_> = (0..257)
        .map(|number| format!("/srv/**/{number}-*/[ab]?.db"))
        .collect();
    let config = with(&globs[..256]).unwrap().replicate;
    assert!(config.covers(Path::new("/srv/x/y/255-z/bc.db")));
    let error = with(&globs).unwrap_err().to_string();
    assert!(
        error.contains("key \"replicate.include[256]\": there are more than 256 globs"),
        "{error}"
    );
    let error = with(&["/x".repeat(2_049)]).unwrap_err().to_string();
    assert!(error.contains("longer than 4096 bytes"), "{error}");
    // Deep or broad globs are an answer, not a crash.
    for glob in [
        format!("/{}{}", "{".repeat(2_000), "}".repeat(2_000)),
        format!("/{}", "{a,".repeat(1_000)),
    ] {
        let _ = with(&[glob]);
    }
    let broad = vec![format!("/x{}", "*[!a]".repeat(800)); 256];
    let _ = with(&broad);
}
