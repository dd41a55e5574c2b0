//! Whole snapshots into files and writers: exact, or not at all.
#![allow(clippy::panic, reason = "a helper of a test fails by panicking")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{PAGE, Random, Source, World, damage, database, load, scribble};
use verneuil_replica::{ClientConfig, ReplicaError, restore_to_path, restore_to_writer};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

async fn published(world: &World, seed: u64) -> Source {
    let mut random = Random(seed);
    let mut source = Source::new("host", "/srv/app.db");
    let mut content = database(&mut random, 400);
    source.commit(world, content.clone()).await;
    for _ in 0..5 {
        scribble(&mut random, &mut content, 20);
        content.extend_from_slice(&[3; PAGE]);
        source.commit(world, content.clone()).await;
    }
    source
}

#[tokio::test]
async fn a_restored_file_equals_the_source_and_zeros_take_no_space() {
    let world = World::new().await;
    let source = published(&world, 31).await;
    let out_dir = world.dir.path().join("out");
    std::fs::create_dir(&out_dir).expect("mkdir");
    let out = out_dir.join("copy.db");
    std::fs::write(&out, vec![1; 50_000_000]).expect("an older, longer file");
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let before = world.requests();
    let seen = std::sync::Mutex::new((0, 0));
    let progress = |done: u64, total: u64| {
        let mut seen = seen.lock().expect("no panic");
        assert!(done >= seen.0 && done <= total, "{done} of {total}");
        *seen = (done, total);
    };
    restore_to_path(&snapshot, &out, &progress)
        .await
        .expect("restore");
    let requests = world.requests() - before;
    assert!(std::fs::read(&out).expect("read") == source.content);
    assert_eq!(
        *seen.lock().expect("no panic"),
        (snapshot.len(), snapshot.len())
    );
    assert_eq!(names(&out_dir), ["copy.db"]);
    let meta = out.metadata().expect("metadata");
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(
        meta.blocks() * 512 < snapshot.len() * 95 / 100,
        "{} blocks",
        meta.blocks()
    );
    // 350 chunks in 6 packs, some chunks since then in others, and the nodes.
    assert!(requests < 40, "{requests} requests");
}

#[tokio::test]
async fn a_restored_stream_equals_the_source() {
    let world = World::new().await;
    let source = published(&world, 32).await;
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let mut bytes = Vec::new();
    restore_to_writer(&snapshot, &mut bytes, &|_, _| {})
        .await
        .expect("restore");
    assert!(bytes == source.content);

    let mut empty = Source::new("host", "/empty.db");
    empty.commit(&world, Vec::new()).await;
    let snapshot = load(&world.client(ClientConfig::default()), &empty.key).await;
    let mut bytes = Vec::new();
    restore_to_writer(&snapshot, &mut bytes, &|_, _| {})
        .await
        .expect("restore");
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn a_failed_restore_leaves_what_was_there() {
    let world = World::new().await;
    let source = published(&world, 33).await;
    source
        .pack_files(&world)
        .iter()
        .for_each(|pack| damage(pack));
    let out_dir = world.dir.path().join("out");
    std::fs::create_dir(&out_dir).expect("mkdir");
    let out = out_dir.join("copy.db");
    std::fs::write(&out, b"precious").expect("write");
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let error = restore_to_path(&snapshot, &out, &|_, _| {})
        .await
        .expect_err("damaged");
    assert!(matches!(error, ReplicaError::Data { .. }), "{error}");
    assert_eq!(std::fs::read(&out).expect("read"), b"precious");
    assert_eq!(names(&out_dir), ["copy.db"]);
    let mut bytes = Vec::new();
    assert!(
        restore_to_writer(&snapshot, &mut bytes, &|_, _| {})
            .await
            .is_err()
    );
    assert!(source.content.starts_with(&bytes));
}

#[tokio::test]
async fn a_file_with_a_journal_and_what_is_no_file_are_not_replaced() {
    let world = World::new().await;
    let source = published(&world, 34).await;
    let out_dir = world.dir.path().join("out");
    std::fs::create_dir(&out_dir).expect("mkdir");
    let out = out_dir.join("copy.db");
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    for suffix in ["-journal", "-wal"] {
        let beside = out_dir.join(format!("copy.db{suffix}"));
        std::fs::write(&beside, b"x").expect("write");
        let error = restore_to_path(&snapshot, &out, &|_, _| {})
            .await
            .expect_err("in use");
        assert!(matches!(error, ReplicaError::OutputInUse { .. }), "{error}");
        assert!(!out.exists());
        std::fs::write(&beside, b"").expect("an empty one does nothing");
    }
    restore_to_path(&snapshot, &out, &|_, _| {})
        .await
        .expect("restore");
    let link = out_dir.join("link.db");
    std::os::unix::fs::symlink(&out, &link).expect("symlink");
    std::fs::write(&out, b"old").expect("write");
    restore_to_path(&snapshot, &link, &|_, _| {})
        .await
        .expect("restore");
    assert!(
        std::fs::read(&out).expect("read") == source.content,
        "the link was followed"
    );
    std::fs::remove_file(&out).expect("remove");
    let other = out_dir.join("other.db");
    std::os::unix::fs::symlink("link.db", &other).expect("symlink");
    restore_to_path(&snapshot, &other, &|_, _| {})
        .await
        .expect("restore");
    assert!(
        std::fs::read(&out).expect("read") == source.content && link.is_symlink(),
        "links to a file that is not there are followed, too"
    );
    assert!(
        restore_to_path(&snapshot, &out_dir, &|_, _| {})
            .await
            .is_err()
    );
    assert!(
        restore_to_path(&snapshot, &out_dir.join("none/copy.db"), &|_, _| {})
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_killed_restores_left_is_removed_and_what_living_ones_write_is_not() {
    let world = World::new().await;
    let source = published(&world, 37).await;
    let out_dir = world.dir.path().join("out");
    std::fs::create_dir(&out_dir).expect("mkdir");
    let out = out_dir.join("copy.db");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    let make = |name: &str, is_old: bool| {
        let file = std::fs::File::create(out_dir.join(name)).expect("create");
        if is_old {
            file.set_modified(old).expect("set the time");
        }
        file
    };
    drop(make(".copy.db.verneuil-restore-dead", true));
    drop(make(".other.db.verneuil-restore-dead", true));
    drop(make(".copy.db.restore-notes", true));
    drop(make(".copy.db.verneuil-restore-young", false));
    let living = make(".copy.db.verneuil-restore-living", true);
    living.try_lock().expect("lock");
    std::os::unix::fs::symlink("elsewhere", out_dir.join(".copy.db.verneuil-restore-link"))
        .expect("link");
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    restore_to_path(&snapshot, &out, &|_, _| {})
        .await
        .expect("restore");
    assert_eq!(
        names(&out_dir),
        [
            ".copy.db.restore-notes",
            ".copy.db.verneuil-restore-link",
            ".copy.db.verneuil-restore-living",
            ".copy.db.verneuil-restore-young",
            ".other.db.verneuil-restore-dead",
            "copy.db"
        ]
    );
}
