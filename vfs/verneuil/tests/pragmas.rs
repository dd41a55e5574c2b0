//! What users can ask of a replicated connection, and which databases are replicated.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod support;

use rusqlite::Connection;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{World, fill, flush, status};

fn wait(db: &Connection, argument: &str) -> Result<String, String> {
    db.query_row(&format!("PRAGMA VERNEUIL_WAIT{argument}"), [], |row| {
        row.get(0)
    })
    .map_err(|error| error.to_string())
}

#[test]
fn a_boolean_sets_the_flush_on_close_and_answers_what_it_was() {
    let world = World::new();
    let db = world.open();
    for (argument, before) in [
        ("=on", "0"),
        ("=TRUE", "1"),
        ("(yes)", "1"),
        ("=1", "1"),
        ("=off", "1"),
        ("=0", "0"),
        ("=False", "0"),
        ("=no", "0"),
    ] {
        assert_eq!(flush(&db, argument), Ok(before.to_owned()), "{argument}");
    }
    db.execute_batch("CREATE TABLE t(x)").unwrap();
    drop(db);
    assert_eq!(world.notes.flushes.load(Ordering::SeqCst), 0);

    let db = world.open();
    flush(&db, "=on").unwrap();
    *world.notes.failure.lock().unwrap() = Some("the store is on fire".to_owned());
    db.close().unwrap();
    assert_eq!(
        world.notes.flushes.load(Ordering::SeqCst),
        1,
        "and its failure is no failure of the close"
    );
}

#[test]
fn waiting_takes_milliseconds_and_tells_why_it_was_in_vain() {
    let world = World::new();
    let db = world.open();
    assert_eq!(wait(&db, "=250"), Ok("1".to_owned()));
    assert_eq!(
        *world.notes.waits.lock().unwrap(),
        [Duration::from_millis(250)]
    );
    for argument in ["", "=soon", "=-1", "=1.5"] {
        let error = wait(&db, argument).unwrap_err();
        assert!(error.contains("milliseconds"), "{argument}: {error}");
    }
    *world.notes.failure.lock().unwrap() = Some("12 bytes are left".to_owned());
    assert!(wait(&db, "(1)").unwrap_err().contains("12 bytes are left"));
}

#[test]
fn the_status_tells_why_something_is_not_replicated() {
    let world = World::new();
    let db = world.open();
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        .unwrap();
    fill(&db, 10, 100);
    let row = status(&db);
    assert_eq!(row["replicated"], true, "{row}");
    assert_eq!(row["reason"], serde_json::Value::Null);

    for (parameters, reason) in [
        ("nolock=1", "nolock=1"),
        ("immutable=1", "immutable=1"),
        ("mode=ro", "read-only"),
    ] {
        let row = status(&world.open_with(parameters));
        assert_eq!(row["replicated"], false);
        assert!(row["reason"].as_str().unwrap().contains(reason), "{row}");
    }
    let error = db
        .query_row("PRAGMA verneuil_status=everything", [], |_| Ok(()))
        .unwrap_err();
    assert!(error.to_string().contains("takes no argument"), "{error}");
}

#[test]
fn the_globs_choose_which_databases_are_replicated() {
    let world = World::configured(
        r#"{"replicate": {"include": ["$DIR/*.db"], "exclude": ["$DIR/cache-*"]}}"#,
    );
    let db = world.open();
    db.execute_batch("CREATE TABLE t(x)").unwrap();
    assert_eq!(status(&db)["replicated"], true);
    for name in ["cache-1.db", "x.sqlite"] {
        let other = Connection::open_with_flags_and_vfs(
            world.dir().join(name),
            rusqlite::OpenFlags::default(),
            world.vfs.as_c_str(),
        )
        .unwrap();
        other.execute_batch("CREATE TABLE t(x)").unwrap();
        let row = status(&other);
        assert_eq!(row["replicated"], false);
        assert!(
            row["reason"].as_str().unwrap().contains("replicate"),
            "{row}"
        );
        assert!(
            flush(&other, "")
                .unwrap_err()
                .contains("include and exclude")
        );
    }
    assert_eq!(world.notes.served.lock().unwrap().len(), 1);
}
