//! The disk cache, as readers see it: persistent, bounded, shared, and never believed.
#![allow(clippy::panic, reason = "a helper of a test fails by panicking")]

mod common;

use std::path::Path;

use common::{CHUNK, Random, Source, World, damage, database, files, load};
use verneuil_config::CacheConfig;
use verneuil_replica::ClientConfig;

fn with_cache(directory: &Path, capacity_bytes: u64) -> ClientConfig {
    ClientConfig {
        disk_caches: vec![CacheConfig::Local {
            directory: directory.to_owned(),
            capacity_bytes,
        }],
        ..ClientConfig::default()
    }
}

/// Waits until the cache has `count` files: they are written after the reader got its bytes.
async fn wait_for_files(cache: &Path, count: usize) {
    for _ in 0..500 {
        if files(cache)
            .iter()
            .filter(|path| !path.to_string_lossy().contains(".tmp-"))
            .count()
            >= count
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!(
        "the cache has {} files, {count} were expected",
        files(cache).len()
    );
}

#[tokio::test]
async fn a_restart_reads_from_disk_and_damage_there_is_fetched_again() {
    let (world, mut random) = (World::new().await, Random(11));
    let cache = world.dir.path().join("cache");
    let mut source = Source::new("host", "/app.db");
    // Long enough for nodes in the chunk list: they are cached too.
    let content = database(&mut random, 300);
    source.commit(&world, content.clone()).await;
    let stored = 263 + 1;
    {
        let snapshot = load(&world.client(with_cache(&cache, 1 << 30)), &source.key).await;
        assert!(snapshot.read(0, content.len()).await.expect("read") == content);
        wait_for_files(&cache, stored).await;
    }
    let snapshot = load(&world.client(with_cache(&cache, 1 << 30)), &source.key).await;
    let before = world.requests();
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
    assert_eq!(world.requests(), before, "nothing but the disk was read");

    let cached = files(&cache);
    cached.iter().step_by(3).for_each(|path| damage(path));
    cached
        .iter()
        .skip(1)
        .step_by(3)
        .for_each(|path| std::fs::write(path, b"").expect("truncate"));
    let snapshot = load(&world.client(with_cache(&cache, 1 << 30)), &source.key).await;
    let before = world.requests();
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
    assert!(world.requests() > before);
    wait_for_files(&cache, stored).await;
}

#[tokio::test]
async fn the_cache_directory_stays_within_its_bound() {
    let (world, mut random) = (World::new().await, Random(12));
    let cache = world.dir.path().join("cache");
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 120);
    source.commit(&world, content.clone()).await;
    let capacity = 1 << 20;
    let snapshot = load(&world.client(with_cache(&cache, capacity)), &source.key).await;
    for chunk in 0..120 {
        let from = chunk * CHUNK;
        let read = snapshot.read(from as u64, CHUNK).await.expect("read");
        assert!(read == content[from..content.len().min(from + CHUNK)]);
        let occupied: u64 = files(&cache)
            .iter()
            .filter_map(|path| Some(path.metadata().ok()?.len()))
            .sum();
        assert!(occupied <= capacity, "{occupied}");
    }
    wait_for_files(&cache, 10).await;
}

#[tokio::test]
async fn another_users_cache_is_read_and_left_alone() {
    let (world, mut random) = (World::new().await, Random(13));
    let cache = world.dir.path().join("theirs");
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 20);
    source.commit(&world, content.clone()).await;
    {
        let snapshot = load(&world.client(with_cache(&cache, 1 << 30)), &source.key).await;
        snapshot.read(0, content.len()).await.expect("read");
        wait_for_files(&cache, 18).await;
    }
    let first = files(&cache).pop().expect("a file");
    damage(&first);
    let config = ClientConfig {
        disk_caches: vec![CacheConfig::ReadOnly {
            directory: cache.clone(),
        }],
        ..ClientConfig::default()
    };
    let snapshot = load(&world.client(config), &source.key).await;
    let before = world.requests();
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
    assert_eq!(
        world.requests(),
        before + 1,
        "only the damaged one was fetched"
    );
    assert!(first.exists(), "and it is not ours to remove");
}

#[tokio::test]
async fn without_memory_for_a_cache_reads_are_still_right() {
    let (world, mut random) = (World::new().await, Random(14));
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 300);
    source.commit(&world, content.clone()).await;
    let config = ClientConfig {
        memory_cache_bytes: 0,
        node_cache_bytes: 0,
        ..ClientConfig::default()
    };
    let snapshot = load(&world.client(config), &source.key).await;
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
}
