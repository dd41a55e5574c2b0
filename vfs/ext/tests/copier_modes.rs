//! Who uploads: threads of the host, another process or nobody; what happens at the end of a host, and in one that forks. Each host is a
//! process of its own.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use verneuil_spool::{Database, Spool};

const PART: &str = "VERNEUIL_TEST_PART";
const DIR: &str = "VERNEUIL_TEST_DIR";

fn library() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .with_file_name("libverneuil_vfs.so")
}

/// Runs a host in this directory; what it printed, and how long it took.
fn host(part: &str, dir: &Path, copier: &str, target: &str) -> (String, Duration) {
    let config = format!(
        r#"{{"hostname": "h", "replication_spooling_dir": "{0}/spool", "copier": {copier},
            "replication_targets": [{{"directory": {{"path": "{target}"}}}}]}}"#,
        dir.display()
    );
    let began = Instant::now();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_process", "--nocapture"])
        .env(PART, part)
        .env(DIR, dir)
        .env("VERNEUIL_CONFIG", config)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let took = began.elapsed();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{part}: {stdout} {stderr}");
    (stdout, took)
}

fn open(dir: &Path) -> Connection {
    let db =
        Connection::open_with_flags_and_vfs(dir.join("x.db"), OpenFlags::default(), c"verneuil")
            .unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES(randomblob(500))")
        .unwrap();
    db
}

fn pragma(db: &Connection, text: &str) -> String {
    db.query_row(&format!("PRAGMA {text}"), [], |row| row.get(0))
        .unwrap_or_else(|error| error.to_string())
}

fn copier_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("verneuil"))
        .count()
}

/// The body of the hosts; does nothing when it runs as a test.
#[test]
fn host_process() {
    let (Ok(part), Ok(dir)) = (std::env::var(PART), std::env::var(DIR)) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let memory = Connection::open_in_memory().unwrap();
    // SAFETY: a library of our own making, whose entry point has the default name.
    unsafe {
        let _guard = rusqlite::LoadExtensionGuard::new(&memory).unwrap();
        memory.load_extension(library(), None::<&str>).unwrap();
    }
    let db = open(&dir);
    match part.as_str() {
        "commit" => {}
        "flush on close" => {
            assert_eq!(pragma(&db, "verneuil_flush_replication_data=on"), "0");
            drop(db);
            println!("pending {}", is_pending(&dir));
        }
        "exclusive" => {
            db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
            for _ in 0..3 {
                db.execute_batch("INSERT INTO t VALUES(randomblob(500))")
                    .unwrap();
                println!("flush {}", pragma(&db, "verneuil_flush_replication_data"));
                println!("pending {}", is_pending(&dir));
            }
            db.execute_batch("BEGIN; PRAGMA cache_size=1").unwrap();
            for _ in 0..50 {
                db.execute_batch("INSERT INTO t VALUES(randomblob(5000))")
                    .unwrap();
            }
            db.execute_batch("ROLLBACK").unwrap();
            println!("flush {}", pragma(&db, "verneuil_flush_replication_data"));
            println!("pending {}", is_pending(&dir));
        }
        "ask" => {
            println!("threads {}", copier_threads());
            println!("wait {}", pragma(&db, "verneuil_wait=200"));
            println!("status {}", pragma(&db, "verneuil_status"));
            if std::env::var("VERNEUIL_CONFIG").unwrap().contains("off") {
                println!("flush {}", pragma(&db, "verneuil_flush_replication_data"));
            }
        }
        "fork" => {
            assert_eq!(pragma(&db, "verneuil_flush_replication_data"), "1");
            // SAFETY: the child goes on as this thread, and ends the process the way an application does.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    let idle = copier_threads();
                    db.execute_batch("INSERT INTO t VALUES(2)").unwrap();
                    let flushed = pragma(&db, "verneuil_flush_replication_data");
                    let is_good = idle == 0 && flushed == "1" && copier_threads() > 0;
                    eprintln!("child: {idle} {flushed}");
                    std::process::exit(if is_good { 7 } else { 8 });
                }
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 7)));
                }
            }
            // A child that only ends has nobody to wait for.
            // SAFETY: as above.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => std::process::exit(0),
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
                }
            }
            db.execute_batch("INSERT INTO t VALUES(3)").unwrap();
            println!("flush {}", pragma(&db, "verneuil_flush_replication_data"));
        }
        other => panic!("{other}"),
    }
}

/// Whether something of the database waits in the spool.
fn is_pending(dir: &Path) -> bool {
    let spool = Spool::at(&dir.join("spool"));
    let contents = spool.contents().unwrap();
    let db = Database::open_existing(&spool, &contents.folders[0]).unwrap();
    let progress = db.progress().unwrap().unwrap();
    // Before the first copier there is no record of a target.
    progress.is_anything_pending()
        || progress.dirty
        || progress.targets.is_empty()
        || !progress
            .targets
            .iter()
            .all(|target| target.record.lacks.is_empty())
}

#[test]
fn a_process_that_ends_waits_a_moment_for_what_it_has_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();
    let (_, _) = host(
        "commit",
        dir.path(),
        r#"{"drain_on_close_ms": 20000}"#,
        store,
    );
    assert!(!is_pending(dir.path()));
    // Without the wait, it stays in the spool; unless the copier was very fast.
    let (_, took) = host(
        "commit",
        dir.path(),
        r#"{"mode": "off", "drain_on_close_ms": 20000}"#,
        store,
    );
    assert!(is_pending(dir.path()));
    assert!(took < Duration::from_secs(10), "nobody to wait for");
}

#[test]
fn a_store_that_is_away_delays_the_end_of_a_process_no_longer_than_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (_, took) = host(
        "commit",
        dir.path(),
        r#"{"drain_on_close_ms": 300}"#,
        "/proc/nowhere",
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(is_pending(dir.path()));
}

#[test]
fn a_connection_flushes_when_it_is_closed_if_it_was_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (stdout, _) = host(
        "flush on close",
        dir.path(),
        r#"{"drain_on_close_ms": 20000}"#,
        store.to_str().unwrap(),
    );
    assert!(stdout.contains("pending false"), "{stdout}");
}

#[test]
fn no_threads_are_started_for_a_copier_that_is_elsewhere_or_nowhere() {
    for (mode, reason) in [
        ("external", "not all of it is there after"),
        ("off", "copier.mode"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let copier = format!(r#"{{"mode": "{mode}"}}"#);
        let (stdout, _) = host("ask", dir.path(), &copier, store.to_str().unwrap());
        assert!(stdout.contains("threads 0"), "{stdout}");
        for line in stdout
            .lines()
            .filter(|line| line.starts_with("wait") || line.starts_with("flush"))
        {
            assert!(line.contains(reason), "{line}");
        }
        assert!(stdout.contains(r#""up_to_date":false"#), "{stdout}");
        assert!(!store.exists());
    }
}

#[test]
fn a_connection_that_keeps_exclusive_is_uploaded_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (stdout, took) = host("exclusive", dir.path(), "{}", store.to_str().unwrap());
    assert_eq!(stdout.matches("flush 1\n").count(), 4, "{stdout}");
    assert_eq!(stdout.matches("pending false\n").count(), 4, "{stdout}");
    assert!(
        took < Duration::from_secs(20),
        "{took:?}: nothing waits for a lock"
    );
}

#[test]
fn a_forked_child_has_a_copier_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (stdout, _) = host("fork", dir.path(), "{}", store.to_str().unwrap());
    assert!(stdout.contains("flush 1"), "{stdout}");
    assert!(!is_pending(dir.path()));
}
