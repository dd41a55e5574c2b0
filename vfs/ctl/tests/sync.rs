//! `verneuilctl sync`: what is in the store afterwards, and what it says when that is not all.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use support::{command, failure, run, success};

/// Says to a process of this test binary that it is the writer, and of which database.
const WRITER: &str = "VERNEUIL_TEST_WRITER";

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("tempdir"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let dir = std::fs::canonicalize(self.dir.path()).expect("canonical");
        dir.join(name)
    }

    /// A database of some 400 KB.
    fn database(&self, name: &str) -> Connection {
        let connection = Connection::open(self.path(name)).expect("open");
        connection
            .execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, text);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO t SELECT i, printf('%0200d', i) FROM n;",
            )
            .expect("write");
        connection
    }

    fn config(&self, extra: &str) -> String {
        format!(
            r#"{{"hostname": "h", "replication_spooling_dir": {:?},
                "replication_targets": [{{"directory": {{"path": {:?}}}}}], {extra}}}"#,
            self.path("spool"),
            self.path("store")
        )
    }

    fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_with("", args)
    }

    fn ctl_with(&self, extra: &str, args: &[&str]) -> Output {
        run(command(args)
            .args(["-c", &self.config(extra)])
            // Whatever the environment says, -c goes before it.
            .env("VERNEUIL_CONFIG", "not a configuration")
            .current_dir(self.dir.path()))
    }

    /// What the store has of the database `name`, in a file of its own.
    fn restored(&self, name: &str) -> PathBuf {
        let out = self.path("restored.db");
        let (source, out_text) = (self.path(name), out.to_str().expect("text"));
        let source = source.to_str().expect("text");
        success(&self.ctl(&["restore", "-s", source, "-o", out_text]));
        out
    }

    #[track_caller]
    fn assert_stored(&self, name: &str) {
        let stored = std::fs::read(self.restored(name)).expect("read");
        let file = std::fs::read(self.path(name)).expect("read");
        assert!(stored == file, "{name}: the store has something else");
    }

    fn done(&self, name: &str) -> String {
        format!("h:{}: all is in the store\n", self.path(name).display())
    }
}

fn sum(path: &Path) -> i64 {
    Connection::open(path)
        .and_then(|db| db.query_row("SELECT sum(text) FROM t", [], |row| row.get(0)))
        .expect("sum")
}

#[test]
fn what_is_committed_is_in_the_store_when_it_ends_whoever_uploads_otherwise() {
    let world = World::new();
    let database = world.database("a.db");
    // The first time, with nothing new, and after a commit that no VFS of ours has seen; while the application has it open.
    for mode in ["in_process", "external", "external", "off"] {
        let extra = format!("\"copier\": {{\"mode\": \"{mode}\"}}");
        assert_eq!(
            success(&world.ctl_with(&extra, &["sync", "a.db"])),
            world.done("a.db")
        );
        world.assert_stored("a.db");
        if mode != "in_process" {
            database
                .execute("UPDATE t SET text = text + 1 WHERE id = 7", [])
                .expect("commit");
        }
    }
    std::os::unix::fs::symlink("a.db", world.path("link.db")).expect("symlink");
    assert_eq!(
        success(&world.ctl(&["sync", "link.db"])),
        world.done("a.db")
    );
    world.assert_stored("a.db");

    let json = success(&world.ctl(&["sync", "a.db", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let path = world.path("a.db");
    let path = path.to_str().expect("text");
    assert_eq!((&json["host"], &json["path"]), (&"h".into(), &path.into()));
    assert_eq!(
        json["key"],
        verneuil_format::manifest_key("h", path.as_bytes())
    );
    assert!(json.get("error").is_none(), "{json}");
}

/// The body of the writer; does nothing when it runs as a test.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os(WRITER) else {
        return;
    };
    let connection = Connection::open(path).expect("open");
    // With a cache this small, pages reach the file long before the commit, after the journal has been synced.
    connection
        .execute_batch("PRAGMA cache_size=5; BEGIN; UPDATE t SET text = text + 1000000;")
        .expect("write");
    println!("\nspilled");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn what_a_killed_writer_left_is_rolled_back_and_never_uploaded() {
    let world = World::new();
    drop(world.database("a.db"));
    let before = std::fs::read(world.path("a.db")).expect("read");
    let mut writer = Command::new(std::env::current_exe().expect("path"))
        .args(["--exact", "writer_process", "--nocapture"])
        .env(WRITER, world.path("a.db"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
    let spilled = lines.map_while(Result::ok).any(|line| line == "spilled");
    writer.kill().expect("kill");
    writer.wait().expect("wait");
    assert!(spilled, "the writer wrote");
    assert!(std::fs::read(world.path("a.db")).expect("read") != before);
    assert!(
        world
            .path("a.db-journal")
            .metadata()
            .expect("a journal")
            .len()
            > 0
    );

    assert_eq!(success(&world.ctl(&["sync", "a.db"])), world.done("a.db"));
    assert!(!world.path("a.db-journal").exists());
    assert_eq!(sum(&world.restored("a.db")), (1..=2000).sum::<i64>());
    world.assert_stored("a.db");
}

#[test]
fn an_open_transaction_is_left_out_and_a_lock_that_goes_away_is_waited_for() {
    let world = World::new();
    let database = world.database("a.db");
    database
        .execute_batch("BEGIN IMMEDIATE; UPDATE t SET text = text + 1 WHERE id = 1")
        .expect("write");
    success(&world.ctl(&["sync", "a.db"]));
    assert_eq!(sum(&world.restored("a.db")), (1..=2000).sum::<i64>());
    database
        .execute_batch("ROLLBACK; BEGIN EXCLUSIVE")
        .expect("lock");
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        database
            .execute_batch("UPDATE t SET text = text + 1 WHERE id = 1; COMMIT")
            .expect("commit");
    });
    success(&world.ctl(&["sync", "a.db"]));
    holder.join().expect("the holder");
    assert_eq!(sum(&world.restored("a.db")), (1..=2000).sum::<i64>() + 1);
}

#[test]
fn optimize_gathers_statistics_and_gives_unused_pages_back() {
    let world = World::new();
    let database = world.database("a.db");
    database
        .execute_batch("CREATE INDEX i ON t(text); DELETE FROM t WHERE id > 100")
        .expect("delete");
    drop(database);
    let before = world.path("a.db").metadata().expect("metadata").len();
    success(&world.ctl(&["sync", "a.db"]));
    assert_eq!(
        world.path("a.db").metadata().expect("metadata").len(),
        before
    );
    for option in ["--optimize", "-o"] {
        assert_eq!(
            success(&world.ctl(&["sync", option, "a.db"])),
            world.done("a.db")
        );
        world.assert_stored("a.db");
    }
    assert!(world.path("a.db").metadata().expect("metadata").len() < before / 4);
    let restored = Connection::open(world.restored("a.db")).expect("open");
    let count = |sql| {
        restored
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .expect("count")
    };
    assert!(count("SELECT count(*) FROM sqlite_stat1") > 0);
    assert_eq!(count("SELECT count(*) FROM t"), 100);
}

#[test]
fn what_is_no_database_is_refused_and_nothing_is_made() {
    let world = World::new();
    std::fs::write(world.path("text"), "not a database ".repeat(1000)).expect("write");
    std::fs::write(world.path("short"), "x").expect("write");
    std::fs::create_dir(world.path("dir")).expect("mkdir");
    std::os::unix::fs::symlink("gone.db", world.path("dangling")).expect("symlink");
    for (name, reason) in [
        ("gone.db", "there is no such file; check the path"),
        ("dangling", "there is no such file"),
        ("text/x", "cannot find it: Not a directory"),
        ("dir", "not a regular file; give the file of a database"),
        ("text", "not a SQLite database; give the file of one"),
        ("short", "not a SQLite database; give the file of one"),
    ] {
        let stderr = failure(&world.ctl(&["sync", name]), 1);
        assert!(stderr.contains(name) && stderr.contains(reason), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    for name in ["gone.db", "store/manifests"] {
        assert!(!world.path(name).exists(), "{name}");
    }
    // A journal may say that the file is something else; sqlite finds out that it does not.
    std::fs::write(world.path("text-journal"), "not a journal").expect("write");
    let stderr = failure(&world.ctl(&["sync", "text"]), 1);
    assert!(stderr.contains("not a SQLite database"), "{stderr}");
}

#[test]
fn an_empty_file_is_an_empty_database() {
    let world = World::new();
    std::fs::write(world.path("empty.db"), "").expect("write");
    assert_eq!(
        success(&world.ctl(&["sync", "empty.db"])),
        world.done("empty.db")
    );
    world.assert_stored("empty.db");
}

#[test]
fn a_database_in_wal_mode_is_refused_with_the_way_out() {
    let world = World::new();
    let database = world.database("a.db");
    let set = |mode: &str| {
        database
            .query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| {
                row.get::<_, String>(0)
            })
            .expect("mode")
    };
    assert_eq!(set("wal"), "wal");
    let stderr = failure(&world.ctl(&["sync", "a.db"]), 1);
    assert!(
        stderr.contains("WAL mode") && stderr.contains("journal_mode=DELETE"),
        "{stderr}"
    );
    assert_eq!(set("delete"), "delete");
    success(&world.ctl(&["sync", "a.db"]));
    world.assert_stored("a.db");
}

#[test]
fn what_the_configuration_does_not_replicate_is_refused_by_its_key() {
    let world = World::new();
    drop(world.database("a.db"));
    for extra in [
        r#""replicate": {"exclude": ["/**/a.db"]}"#,
        r#""replicate": {"include": ["/**/b.db"]}"#,
    ] {
        let stderr = failure(&world.ctl_with(extra, &["sync", "a.db"]), 1);
        assert!(
            stderr.contains("a.db: \"replicate\" in the configuration leaves it out"),
            "{stderr}"
        );
    }
    success(&world.ctl_with(
        r#""replicate": {"include": ["/**/a.db"]}"#,
        &["sync", "a.db"],
    ));

    let a_db = world.path("a.db");
    let a_db = a_db.to_str().expect("text");
    let store = format!(
        r#"{{"replication_targets": [{{"directory": {{"path": {:?}}}}}]}}"#,
        world.path("s")
    );
    for (config, key) in [
        ("{}", "replication_targets"),
        (&store, "replication_spooling_dir"),
    ] {
        let stderr = failure(&run(&mut command(&["-c", config, "sync", a_db])), 1);
        assert!(
            stderr.contains(key) && stderr.contains("--config"),
            "{stderr}"
        );
    }
    let config = world.config("");
    success(&run(command(&["sync", a_db]).env("VERNEUIL_CONFIG", config)));
}

#[test]
fn without_the_store_or_the_spool_it_fails_and_names_the_place() {
    for (blocked, elsewhere) in [("store", "spool"), ("spool", "store")] {
        let world = World::new();
        drop(world.database("a.db"));
        std::fs::write(world.path(blocked), "in the way").expect("write");
        let output = world.ctl(&["sync", "a.db", "--json"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let place = world.path(blocked);
        let place = place.to_str().expect("text");
        let last = stderr.lines().last().expect("a line");
        assert!(
            last.starts_with("verneuilctl: h:/") && last.contains(place),
            "{stderr}"
        );
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(
            json["error"].as_str().expect("text").contains(place),
            "{json}"
        );

        std::fs::remove_file(world.path(blocked)).expect("remove");
        success(&world.ctl(&["sync", "a.db"]));
        world.assert_stored("a.db");
        assert!(world.path(elsewhere).is_dir());
    }
}

#[test]
fn nobody_makes_a_spool_that_the_application_could_not_use() {
    let world = World::new();
    drop(world.database("a.db"));
    // Only root can give files away; elsewhere there is nothing to guard against.
    let somebody = Some(65_534);
    if std::os::unix::fs::chown(world.path("a.db"), somebody, None).is_err() {
        return;
    }
    let stderr = failure(&world.ctl(&["sync", "a.db"]), 1);
    assert!(
        stderr.contains("does not exist yet") && stderr.contains("uid 65534"),
        "{stderr}"
    );
    assert!(!world.path("spool").exists());
    std::fs::create_dir(world.path("spool")).expect("mkdir");
    std::os::unix::fs::chown(world.path("spool"), somebody, None).expect("chown");
    let stderr = failure(&world.ctl(&["sync", "a.db"]), 1);
    assert!(
        stderr.contains("it belongs to uid 65534; run this as the user"),
        "{stderr}"
    );
}
