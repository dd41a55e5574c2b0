//! What a store should not hold: damaged packs, missing ones, manifests that are none or not of their key.
#![allow(clippy::panic, reason = "a helper of a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{CHUNK, Random, Source, World, damage, database, load};
use verneuil_format::manifest_key;
use verneuil_replica::{Client, ClientConfig, Loaded, ReplicaError};

#[tokio::test]
async fn a_damaged_pack_is_an_error_that_names_all_and_never_wrong_data() {
    let (world, mut random) = (World::new().await, Random(21));
    let mut source = Source::new("web1", "/srv/app.db");
    let content = database(&mut random, 20);
    source.commit(&world, content.clone()).await;
    let pack = &source.pack_files(&world)[0];
    let good = std::fs::read(pack).expect("read");
    damage(pack);
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let before = world.requests();
    let error = snapshot
        .read(2 * CHUNK as u64, 10)
        .await
        .expect_err("damaged")
        .to_string();
    assert_eq!(world.requests(), before + 2, "it is read twice");
    let key = pack
        .strip_prefix(world.root())
        .expect("below")
        .to_string_lossy()
        .into_owned();
    let root = world.root().display().to_string();
    for part in ["web1:/srv/app.db", "chunk 2 ", &key, &root] {
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
    assert!(!error.contains('\n'));

    // No error is remembered: once the pack is repaired, all is well.
    std::fs::write(pack, good).expect("repair");
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
}

#[tokio::test]
async fn one_bad_frame_does_not_spoil_its_neighbours() {
    let (world, mut random) = (World::new().await, Random(22));
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 20);
    source.commit(&world, content.clone()).await;
    let pack = &source.pack_files(&world)[0];
    let mut bytes = std::fs::read(pack).expect("read");
    bytes[100] ^= 1;
    std::fs::write(pack, bytes).expect("write");
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    assert!(snapshot.read(0, content.len()).await.is_err());
    assert!(
        snapshot.read_cached(CHUNK as u64, CHUNK).as_deref() == Some(&content[CHUNK..2 * CHUNK])
    );
}

#[tokio::test]
async fn a_missing_or_short_pack_is_an_error_that_names_it() {
    let (world, mut random) = (World::new().await, Random(23));
    let mut source = Source::new("host", "/app.db");
    source.commit(&world, database(&mut random, 20)).await;
    let pack = &source.pack_files(&world)[0];
    let key = pack
        .strip_prefix(world.root())
        .expect("below")
        .to_string_lossy()
        .into_owned();
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let bytes = std::fs::read(pack).expect("read");
    for damaged in [None, Some(&bytes[..0]), Some(&bytes[..50])] {
        match damaged {
            None => std::fs::remove_file(pack).expect("remove"),
            Some(bytes) => std::fs::write(pack, bytes).expect("write"),
        }
        let error = snapshot.read(0, 10).await.expect_err("no pack").to_string();
        assert!(
            error.contains(&key) && error.contains("host:/app.db"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_one_store_lacks_comes_from_the_next() {
    let (first, second, mut random) = (World::new().await, World::new().await, Random(24));
    let content = database(&mut random, 20);
    let mut source = Source::new("host", "/app.db");
    source.commit(&second, content.clone()).await;
    let mut source = Source::new("host", "/app.db");
    source.commit(&first, content.clone()).await;
    damage(&source.pack_files(&first)[0]);
    let stores = vec![first.store.clone(), second.store.clone()];
    let client = Client::open(stores, ClientConfig::default()).expect("client");
    let snapshot = load(&client, &source.key).await;
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);

    // With the first store gone, the second one's manifest is as new: the snapshot stays.
    std::fs::remove_dir_all(first.root()).expect("remove");
    assert!(matches!(
        client.load(&source.key, Some(&snapshot)).await,
        Ok(Loaded::Unchanged)
    ));
    assert!(matches!(
        client.load(&source.key, None).await,
        Ok(Loaded::New(_))
    ));
}

#[tokio::test]
async fn a_damaged_manifest_is_read_once_more_and_then_had_from_the_next_store() {
    let (first, second, mut random) = (World::new().await, World::new().await, Random(27));
    let content = database(&mut random, 5);
    let mut source = Source::new("host", "/app.db");
    source.commit(&first, content.clone()).await;
    let mut source = Source::new("host", "/app.db");
    source.commit(&second, content.clone()).await;
    let mut bytes = source.manifest.encode().expect("encode");
    bytes[20] ^= 1;
    first.put_manifest(&source.key, bytes).await;
    let stores = vec![first.store.clone(), second.store.clone()];
    let client = Client::open(stores, ClientConfig::default()).expect("client");
    let before = first.requests();
    let snapshot = load(&client, &source.key).await;
    assert_eq!(first.requests(), before + 2, "it is read twice");
    assert!(snapshot.read(0, content.len()).await.expect("read") == content);
    let head = client.stat(&source.key).await.expect("stat");
    assert_eq!(head.map(|head| head.file_len), Some(content.len() as u64));
    assert!(
        client
            .raw_manifest(&source.key)
            .await
            .expect("raw")
            .is_some()
    );
}

#[tokio::test]
async fn hostile_manifests_are_refused() {
    let (world, mut random) = (World::new().await, Random(25));
    let mut source = Source::new("host", "/app.db");
    source.commit(&world, database(&mut random, 150)).await;
    let good = source.manifest.encode().expect("encode");
    let client = world.client(ClientConfig::default());

    // Somebody else's manifest, under this key.
    let other = manifest_key("host", b"/other.db");
    world.put_manifest(&other, good.clone()).await;
    let error = client.load(&other, None).await.expect_err("misplaced");
    assert!(matches!(error, ReplicaError::Misplaced { .. }), "{error}");
    assert!(error.to_string().contains(&other) && error.to_string().contains("host:/app.db"));

    let known = load(&client, &source.key).await;
    let mut bad: Vec<Vec<u8>> = vec![Vec::new(), b"SQLite format 3\0".to_vec(), vec![0xff; 5000]];
    bad.extend((0..good.len()).step_by(97).map(|len| good[..len].to_vec()));
    bad.extend((0..good.len()).step_by(61).map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        flipped
    }));
    for bytes in bad {
        world.put_manifest(&source.key, bytes).await;
        let error = client
            .load(&source.key, Some(&known))
            .await
            .expect_err("refused");
        assert!(matches!(error, ReplicaError::Manifest { .. }), "{error}");
        assert!(error.to_string().contains(&source.key), "{error}");
        assert!(
            known.read(0, 100).await.is_ok(),
            "what was known stays usable"
        );
    }
}

#[tokio::test]
async fn a_manifest_whose_nodes_are_not_there_is_an_error() {
    let (world, mut random) = (World::new().await, Random(26));
    let mut source = Source::new("host", "/app.db");
    source.commit(&world, database(&mut random, 400)).await;
    for pack in source.pack_files(&world) {
        std::fs::remove_file(pack).expect("remove");
    }
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let error = snapshot
        .read(0, 10)
        .await
        .expect_err("no nodes")
        .to_string();
    for part in ["host:/app.db", "of the chunk list", "packs/"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let shared = Arc::clone(&snapshot);
    assert!(
        snapshot
            .diff(&shared)
            .await
            .is_ok_and(|diff| diff.is_empty()),
        "equal lists need no nodes"
    );
}
