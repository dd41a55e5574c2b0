//! The extension as hosts see it: loaded as a library, and linked in. Each host is a process of its own, because the
//! configuration is an environment variable and registrations last.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};
use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Says which part a process of this test binary plays.
const PART: &str = "VERNEUIL_TEST_PART";

/// The configuration of the host that configures itself.
const CONFIG: &str = "VERNEUIL_TEST_CONFIG";

/// An entry point, with the types of the linked SQLite.
type Entry = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;

/// The library that cargo built together with this test.
fn library() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .with_file_name("libverneuil_vfs.so")
}

/// What a host printed on stdout and stderr.
fn host(part: &str, config: Option<&str>) -> (String, String) {
    run(
        &mut Command::new(std::env::current_exe().unwrap()),
        part,
        config,
    )
}

fn run(command: &mut Command, part: &str, config: Option<&str>) -> (String, String) {
    command
        .args(["--exact", "host_process", "--nocapture"])
        .env(PART, part);
    command
        .env_remove("VERNEUIL_CONFIG")
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped());
    if let Some(config) = config {
        command.env("VERNEUIL_CONFIG", config);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{part}: {stdout} {stderr}");
    (stdout, stderr)
}

/// The body of the hosts; does nothing when it runs as a test.
#[test]
fn host_process() {
    match std::env::var(PART).as_deref() {
        Ok("load") => match load() {
            Ok(()) => println!("loaded"),
            Err(error) => println!("refused: {error}"),
        },
        Ok("use") => {
            let before = Connection::open_in_memory().unwrap();
            load().unwrap();
            load().unwrap();
            use_both();
            assert_eq!(
                before
                    .query_row("SELECT 1", [], |row| row.get::<_, i64>(0))
                    .unwrap(),
                1
            );
        }
        Ok("default") => {
            load().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let db = Connection::open(dir.path().join("x.db")).unwrap();
            db.execute_batch("CREATE TABLE t(x)").unwrap();
            println!("{}", flush(&db));
        }
        Ok(part @ ("link" | "configure")) => {
            if part == "configure" {
                let text = std::env::var(CONFIG).unwrap();
                let config = verneuil_config::Config::parse(&text, CONFIG).unwrap();
                verneuil_vfs::configure(config).unwrap();
                let second = verneuil_vfs::configure(verneuil_config::Config::default());
                assert_eq!(second, Err(verneuil_vfs::AlreadyConfigured));
            }
            let entry = verneuil_vfs::auto_extension_entry as *const ();
            // SAFETY: the entry point has the signature of automatic extensions; only the names of
            // the opaque types behind the pointers differ.
            let code = unsafe {
                ffi::sqlite3_auto_extension(Some(std::mem::transmute::<*const (), Entry>(entry)))
            };
            assert_eq!(code, 0);
            drop(Connection::open_in_memory().unwrap());
            use_both();
        }
        Ok("replicate") => {
            load().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let db = open(&dir.path().join("x.db"), c"verneuil");
            db.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
                .unwrap();
            println!("{}", flush(&db));
            db.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        }
        _ => {}
    }
}

fn load() -> Result<(), rusqlite::Error> {
    let db = Connection::open_in_memory()?;
    // SAFETY: a library of our own making, whose entry point has the default name.
    unsafe {
        let _guard = rusqlite::LoadExtensionGuard::new(&db)?;
        db.load_extension(library(), None::<&str>)
    }
}

fn open(path: &std::path::Path, vfs: &std::ffi::CStr) -> Connection {
    Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap()
}

fn flush(db: &Connection) -> String {
    db.query_row("PRAGMA verneuil_flush_replication_data", [], |row| {
        row.get(0)
    })
    .unwrap_or_else(|error| error.to_string())
}

fn use_both() {
    let dir = tempfile::tempdir().unwrap();
    for vfs in [c"linux", c"verneuil"] {
        let db = open(&dir.path().join("x.db"), vfs);
        db.execute_batch("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES(1)")
            .unwrap();
    }
    let db = open(&dir.path().join("x.db"), c"verneuil");
    println!("{}", flush(&db));
    let stock = Connection::open(dir.path().join("x.db")).unwrap();
    assert_eq!(
        stock
            .query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
            .unwrap(),
        2
    );
    assert!(
        flush(&stock).contains("Query returned no rows"),
        "the default VFS is still SQLite's own"
    );
}

#[test]
fn without_configuration_both_vfses_work_and_nothing_is_replicated() {
    for config in [None, Some(""), Some("  ")] {
        let (stdout, stderr) = host("use", config);
        assert!(
            stdout.contains("nothing to flush: not replicated: the configuration"),
            "{stdout}"
        );
        assert_eq!(stderr, "", "nothing to say");
    }
}

#[test]
fn it_can_be_linked_in() {
    let (stdout, _) = host("link", None);
    assert!(stdout.contains("nothing to flush"), "{stdout}");
}

#[test]
fn a_program_that_configures_itself_asks_no_environment() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CONFIG, replicating(dir.path()));
    let (stdout, stderr) = run(&mut command, "configure", Some("not a configuration"));
    assert!(stdout.lines().any(|line| line == "1"), "{stdout} {stderr}");
    assert!(dir.path().join("store/manifests/h").is_dir());
}

#[test]
fn a_bad_configuration_fails_the_load_with_its_error() {
    for (config, reason) in [
        (r#"{"make_defualt": true}"#, "make_defualt"),
        (r#"{"make_default": 3}"#, "make_default"),
        ("@/nonexistent/verneuil.json", "/nonexistent/verneuil.json"),
        ("{", "VERNEUIL_CONFIG"),
    ] {
        let (stdout, _) = host("load", Some(config));
        assert!(
            stdout.contains("refused: error during initialization: verneuil: ")
                && stdout.contains(reason),
            "{config}: {stdout}"
        );
    }
}

#[test]
fn make_default_makes_verneuil_the_default() {
    let (stdout, _) = host("default", Some(r#"{"make_default": true}"#));
    assert!(stdout.contains("nothing to flush"), "{stdout}");
}

fn replicating(dir: &std::path::Path) -> String {
    format!(
        r#"{{"hostname": "h", "replication_spooling_dir": "{0}/spool",
            "replication_targets": [{{"directory": {{"path": "{0}/store"}}}}]}}"#,
        dir.display()
    )
}

#[test]
fn a_configured_database_is_replicated_and_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (stdout, stderr) = host("replicate", Some(&replicating(dir.path())));
    assert!(stdout.lines().any(|line| line == "1"), "{stdout} {stderr}");
    assert!(dir.path().join("store/manifests/h").is_dir());
    assert_eq!(stderr, "");
}

#[test]
fn a_spool_that_cannot_be_used_is_said_in_one_plain_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("spool"), "in the way").unwrap();
    let (stdout, stderr) = host("replicate", Some(&replicating(dir.path())));
    assert!(!stdout.lines().any(|line| line == "1"), "{stdout}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(
        lines[0].starts_with("verneuil: error: the database works on, but is not replicated"),
        "{stderr}"
    );
    assert!(!stderr.contains('\x1b'));
}
