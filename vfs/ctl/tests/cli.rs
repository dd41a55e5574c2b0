//! `verneuilctl` as its users see it: its help, its answers, its exit statuses and its errors.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use support::{command, failure, run, success};
use verneuil_format::{
    Change, ChunkIndex, Identity, Manifest, NextState, PatchBudget, SourceState, Written,
    manifest_key, pack_key,
};

/// The directory that holds the expected help, beside this file.
const GOLDEN: &str = "tests/help.txt";

struct World {
    dir: tempfile::TempDir,
    content: Vec<u8>,
}

const PATH: &str = "/srv/app.db";

impl World {
    /// A directory store with one database, `web1:/srv/app.db`.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let content: Vec<u8> = (0..200_000_u32).map(|i| (i / 7 % 251) as u8).collect();
        let identity = Identity {
            software_version: "test".to_owned(),
            host: "web1".to_owned(),
            path: PATH.into(),
            instance: [1; 16],
        };
        let changes = content
            .chunks(65_536)
            .enumerate()
            .map(|(i, chunk)| {
                let bytes = chunk.to_vec().into();
                (
                    ChunkIndex(i as u32),
                    Change::Bytes {
                        bytes,
                        written: Written::Unknown,
                    },
                )
            })
            .collect();
        let source = SourceState {
            file_len: content.len() as u64,
            page_size: 4096,
            taken_ns: 1_764_000_000_000_000_000,
            ..SourceState::default()
        };
        let none = std::collections::HashMap::new();
        let updated = Manifest::empty(identity)
            .update(
                &NextState { source, changes },
                &none,
                &std::collections::HashMap::new(),
                PatchBudget::NONE,
            )
            .expect("update");
        let world = Self { dir, content };
        for pack in &updated.packs {
            world.put(&pack_key(pack.id), &pack.body);
        }
        world.put(
            &manifest_key("web1", PATH.as_bytes()),
            &updated.manifest.encode().expect("encode"),
        );
        world
    }

    fn put(&self, key: &str, body: &[u8]) {
        let path = self.store().join(key);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
        std::fs::write(path, body).expect("write");
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let config = format!(
            r#"{{ "hostname": "here", "replication_targets": [ {{"directory": {{"path": {:?}}}}}, ], }}"#,
            self.store()
        );
        run(command(args)
            .env("VERNEUIL_CONFIG", config)
            .current_dir(self.dir.path()))
    }
}

/// To accept a change: `VERNEUIL_BLESS=1 cargo test -p verneuilctl`.
#[test]
fn the_help_of_every_command_is_as_recorded() {
    let mut all = String::new();
    for args in [
        &["--help"][..],
        &["-h"],
        &["flush", "--help"],
        &["sync", "--help"],
        &["restore", "--help"],
        &["manifest", "--help"],
        &["manifest-name", "--help"],
        &["ls", "--help"],
    ] {
        all.push_str(&format!(
            "$ verneuilctl {}\n{}\n",
            args.join(" "),
            success(&run(&mut command(args)))
        ));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os("VERNEUIL_BLESS").is_some() {
        std::fs::write(&golden, &all).expect("write");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(all == expected, "{GOLDEN} differs; the help now is:\n{all}");
}

#[test]
fn the_version_is_the_packages() {
    let version = success(&run(&mut command(&["--version"])));
    assert_eq!(
        version,
        format!("verneuilctl {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn bad_usage_ends_with_2() {
    let world = World::new();
    for args in [
        &[][..],
        &["no-such-command"],
        &["--no-such-option", "ls"],
        &["flush"],
        &["sync"],
        &["sync", ""],
        &["restore"],
        &["restore", "-m", "x", "-s", "y"],
        &["restore", "-m", "x", "--hostname", "y"],
        &["restore", "-s", PATH, "--json"],
        &["restore", "-s", "", "-o", "x"],
        &["restore", "-s", PATH, "--hostname", "", "-o", "x"],
        &["manifest"],
        &["manifest-name"],
        &["ls", "/no/host"],
        &["ls", "a", "b"],
        &["--log", "=====", "ls"],
    ] {
        let stderr = failure(&world.ctl(args), 2);
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_store_both_ways_to_name_one_are_told() {
    for args in [&["ls"][..], &["restore", "-s", "/x"], &["manifest", "/x"]] {
        let stderr = failure(&run(&mut command(args)), 1);
        assert!(
            stderr.contains("--config") && stderr.contains("VERNEUIL_CONFIG"),
            "{stderr}"
        );
    }
}

#[test]
fn a_bad_configuration_is_refused_by_key_and_place() {
    let stderr = failure(
        &run(&mut command(&["-c", "{\"replication_tragets\": []}", "ls"])),
        1,
    );
    assert!(
        stderr.contains("replication_tragets") && stderr.contains("--config:1:2"),
        "{stderr}"
    );
    let stderr = failure(&run(&mut command(&["-c", "@/no/such/file", "ls"])), 1);
    assert!(stderr.contains("/no/such/file"), "{stderr}");
}

#[test]
fn what_is_there_is_listed() {
    let world = World::new();
    assert_eq!(success(&world.ctl(&["ls"])), "web1\n");
    let line = "        200000  2025-11-24T16:00:00Z  web1/srv/app.db\n";
    for name in ["web1", "web1/", "web1/srv", "web1/srv/app.db"] {
        assert_eq!(success(&world.ctl(&["ls", name])), line, "{name}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&success(&world.ctl(&["ls", "web1", "--json"]))).expect("JSON");
    assert_eq!(json[0]["path"], PATH);
    assert_eq!(json[0]["length_bytes"], 200_000);
    assert_eq!(json[0]["generation"], 1);
    for name in ["web2", "web1/other", "web1/srv/app.db/x"] {
        assert!(failure(&world.ctl(&["ls", name]), 1).contains(name));
    }
}

#[test]
fn a_manifest_name_is_that_of_the_canonical_path() {
    let world = World::new();
    let key = manifest_key("web1", PATH.as_bytes());
    assert_eq!(
        success(&world.ctl(&["manifest-name", "/srv/../srv//app.db", "--hostname", "web1"])),
        format!("{key}\n")
    );
    std::fs::create_dir(world.path("real")).expect("mkdir");
    std::os::unix::fs::symlink(world.path("real"), world.path("link")).expect("symlink");
    let real = std::fs::canonicalize(world.path("real"))
        .expect("canonical")
        .join("x.db");
    let key = manifest_key("here", real.as_os_str().as_encoded_bytes());
    assert_eq!(
        success(&world.ctl(&["manifest-name", "link/x.db"])),
        format!("{key}\n")
    );
    let json: serde_json::Value = serde_json::from_str(&success(&world.ctl(&[
        "--json",
        "manifest-name",
        "link/x.db",
    ])))
    .expect("JSON");
    assert_eq!((&json["host"], &json["key"]), (&"here".into(), &key.into()));
}

#[test]
fn json_says_a_path_as_it_is_and_no_control_character_reaches_a_terminal() {
    let world = World::new();
    let path = "/srv/tab\t \u{7f}\u{9b}31m\\.db";
    let printed = success(&world.ctl(&["--json", "manifest-name", path, "--hostname", "far"]));
    let json: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(json["path"], path);
    let is_plain = |character: char| character == '\n' || !character.is_control();
    assert!(printed.chars().all(is_plain), "{printed:?}");
}

#[test]
fn a_manifest_is_printed_raw_or_decoded() {
    let world = World::new();
    let raw =
        std::fs::read(world.store().join(manifest_key("web1", PATH.as_bytes()))).expect("read");
    let args = ["manifest", PATH, "--hostname", "web1"];
    assert_eq!(world.ctl(&args).stdout, raw);
    success(&world.ctl(&["manifest", PATH, "--hostname", "web1", "-o", "m"]));
    assert_eq!(std::fs::read(world.path("m")).expect("read"), raw);
    let decoded = success(&world.ctl(&["manifest", PATH, "--hostname", "web1", "--decode"]));
    let json: serde_json::Value = serde_json::from_str(&decoded).expect("JSON");
    assert_eq!(
        (&json["host"], &json["path"]),
        (&"web1".into(), &PATH.into())
    );
    assert_eq!(json["chunks"].as_array().expect("list").len(), 4);
    assert_eq!(json["chunks"][3]["length_bytes"], 200_000 - 3 * 65_536);
    let stderr = failure(
        &world.ctl(&["manifest", "/other.db", "--hostname", "web1"]),
        1,
    );
    assert!(
        stderr.contains("web1:/other.db") && stderr.contains("verneuilctl ls"),
        "{stderr}"
    );
}

#[test]
fn a_restore_gives_the_database_or_nothing() {
    let world = World::new();
    assert!(
        world
            .ctl(&["restore", "-s", PATH, "--hostname", "web1"])
            .stdout
            == world.content
    );
    assert!(
        world
            .ctl(&["restore", "-s", PATH, "--hostname", "web1", "-o", "-"])
            .stdout
            == world.content
    );
    success(&world.ctl(&["restore", "-s", PATH, "--hostname", "web1", "-o", "a.db"]));
    let key = manifest_key("web1", PATH.as_bytes());
    success(&world.ctl(&["restore", "-m", &key, "-o", "b.db"]));
    success(&world.ctl(&["manifest", PATH, "--hostname", "web1", "-o", "m"]));
    let json = success(&world.ctl(&["restore", "-m", "m", "-o", "c.db", "--json"]));
    assert!(json.contains("\"length_bytes\": 200000"), "{json}");
    for name in ["a.db", "b.db", "c.db"] {
        assert!(
            std::fs::read(world.path(name)).expect("restored") == world.content,
            "{name}"
        );
        assert_eq!(
            world
                .path(name)
                .metadata()
                .expect("metadata")
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
    }

    std::fs::remove_dir_all(world.store().join("packs")).expect("remove");
    let stderr = failure(&world.ctl(&["restore", "-m", "m", "-o", "d.db"]), 1);
    assert!(
        stderr.contains("web1:/srv/app.db") && stderr.contains("packs/"),
        "{stderr}"
    );
    assert!(!world.path("d.db").exists());
    failure(&world.ctl(&["restore", "-m", "a.db", "-o", "d.db"]), 1);
    failure(&world.ctl(&["restore", "-m", "none", "-o", "d.db"]), 1);
    failure(
        &world.ctl(&["restore", "-m", "manifests/web1/none.db@", "-o", "d.db"]),
        1,
    );
}

#[test]
fn a_reader_that_goes_away_is_no_message() {
    let world = World::new();
    let config = format!(
        r#"{{"replication_targets": [{{"directory": {{"path": {:?}}}}}]}}"#,
        world.store()
    );
    let mut child = command(&["restore", "-s", PATH, "--hostname", "web1"])
        .env("VERNEUIL_CONFIG", config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("verneuilctl starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_spool_that_is_none_cannot_be_flushed() {
    let world = World::new();
    let stderr = failure(&world.ctl(&["flush", "no-spool"]), 1);
    assert!(stderr.contains("no-spool"), "{stderr}");
}

#[test]
fn an_interrupted_restore_removes_its_temp_file() {
    let world = World::new();
    success(&world.ctl(&["manifest", PATH, "--hostname", "web1", "-o", "m"]));
    // A store that accepts connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let config = format!(
        r#"{{"replication_targets": [{{"s3": {{"region": "none", "endpoint": "{endpoint}",
            "chunk_bucket": "chunks", "manifest_bucket": "manifests"}}}}]}}"#
    );
    let out_dir = world.path("out");
    std::fs::create_dir(&out_dir).expect("mkdir");
    let entries = || std::fs::read_dir(&out_dir).expect("directory").count();
    let mut child = command(&["restore", "-m", "m", "-o", "out/copy.db"])
        .env("VERNEUIL_CONFIG", config)
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .current_dir(world.dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("verneuilctl starts");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while entries() == 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(entries(), 1, "the temp file, {:?}", child.try_wait());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
    let output = child.wait_with_output().expect("it ends");
    assert!(failure(&output, 130).contains("interrupted"));
    assert_eq!(entries(), 0);
    drop(listener);
}
