//! Reading snapshots: the right bytes, with few requests.
#![allow(clippy::panic, reason = "a helper of a test fails by panicking")]

mod common;

use common::{CHUNK, PAGE, Random, Source, World, database, load, scribble};
use futures::future::join_all;
use verneuil_format::PatchBudget;
use verneuil_replica::{ClientConfig, Loaded};

#[tokio::test]
async fn reads_at_random_offsets_equal_the_source_at_every_commit() {
    let (world, mut random) = (World::new().await, Random(1));
    let mut source = Source::new("host", "/srv/app.db");
    let client = world.client(ClientConfig {
        memory_cache_bytes: 4 << 20,
        ..ClientConfig::default()
    });
    let mut content = database(&mut random, 300);
    for commit in 0..12 {
        source.commit(&world, content.clone()).await;
        let snapshot = load(&client, &source.key).await;
        assert_eq!(snapshot.len(), content.len() as u64);
        for _ in 0..60 {
            let offset = random.below(content.len() + CHUNK);
            let len = random.below(3 * CHUNK);
            let expected = &content[offset.min(content.len())..content.len().min(offset + len)];
            let cached = snapshot.read_cached(offset as u64, len);
            assert!(
                cached.is_none_or(|cached| cached == expected),
                "cached {offset}+{len}"
            );
            let read = snapshot.read(offset as u64, len).await.expect("read");
            assert!(read == expected, "commit {commit}: {offset}+{len}");
        }
        scribble(&mut random, &mut content, 5);
        match commit % 4 {
            1 => content.extend(vec![commit as u8; 5 * PAGE]),
            2 => content.truncate(content.len() - 9 * PAGE),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_snapshot_stays_what_it_was() {
    let (world, mut random) = (World::new().await, Random(2));
    let mut source = Source::new("host", "/app.db");
    let client = world.client(ClientConfig {
        memory_cache_bytes: 0,
        ..ClientConfig::default()
    });
    let first = database(&mut random, 20);
    source.commit(&world, first.clone()).await;
    let old = load(&client, &source.key).await;
    let mut second = first.clone();
    scribble(&mut random, &mut second, 30);
    source
        .commit_with(&world, second.clone(), PatchBudget::NONE)
        .await;
    let new = load(&client, &source.key).await;
    assert!(old.read(0, first.len()).await.expect("read") == first);
    assert!(new.read(0, first.len()).await.expect("read") == second);
    assert!(old.manifest().generation() < new.manifest().generation());
}

#[tokio::test]
async fn what_was_read_is_served_from_memory_without_waiting() {
    let (world, mut random) = (World::new().await, Random(3));
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 10);
    source.commit(&world, content.clone()).await;
    let client = world.client(ClientConfig::default());
    let snapshot = load(&client, &source.key).await;
    assert_eq!(snapshot.read_cached(5000, 100), None);
    snapshot.read(5000, 100).await.expect("read");
    let requests = world.requests();
    assert_eq!(
        snapshot.read_cached(4096, 8192).as_deref(),
        Some(&content[4096..12_288])
    );
    assert_eq!(
        snapshot.read_cached(content.len() as u64, 10).as_deref(),
        Some(&[][..])
    );
    assert_eq!(snapshot.read_cached(u64::MAX, 10).as_deref(), Some(&[][..]));

    // A chunk that only a patch changed needs no request either.
    let mut next = content.clone();
    next[4096..8192].fill(9);
    source.commit(&world, next.clone()).await;
    let snapshot = load(&client, &source.key).await;
    let sent = world.requests();
    assert_eq!(
        snapshot.read_cached(4000, 200).as_deref(),
        Some(&next[4000..4200])
    );
    assert_eq!(world.requests(), sent);
    assert!(sent > requests);
}

#[tokio::test]
async fn many_readers_of_one_chunk_cost_one_request() {
    let (world, mut random) = (World::new().await, Random(4));
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 10);
    source.commit(&world, content.clone()).await;
    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let before = world.requests();
    let reads = join_all((0..50).map(|i| snapshot.read(3 * CHUNK as u64 + i, 1000))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!(world.requests(), before + 1);
}

#[tokio::test]
async fn neighbours_come_in_one_request_and_a_scan_in_few() {
    let (world, mut random) = (World::new().await, Random(5));
    let mut source = Source::new("host", "/app.db");
    let content = database(&mut random, 120);
    source.commit(&world, content.clone()).await;
    let client = world.client(ClientConfig::default());
    let snapshot = load(&client, &source.key).await;
    let before = world.requests();
    snapshot.read(0, 7 * CHUNK).await.expect("read");
    assert_eq!(world.requests(), before + 1);

    let snapshot = load(&world.client(ClientConfig::default()), &source.key).await;
    let before = world.requests();
    for offset in (0..content.len()).step_by(PAGE) {
        let page = match snapshot.read_cached(offset as u64, PAGE) {
            Some(page) => page,
            None => snapshot.read(offset as u64, PAGE).await.expect("read"),
        };
        assert!(page == content[offset..offset + PAGE]);
    }
    let requests = world.requests() - before;
    assert!(requests < 25, "{requests} requests for 120 chunks");
}

#[tokio::test]
async fn an_unchanged_manifest_costs_one_request_and_a_missing_one_too() {
    let (world, mut random) = (World::new().await, Random(6));
    let mut source = Source::new("host", "/app.db");
    source.commit(&world, database(&mut random, 200)).await;
    let client = world.client(ClientConfig::default());
    let snapshot = load(&client, &source.key).await;
    let before = world.requests();
    for _ in 0..5 {
        assert!(matches!(
            client.load(&source.key, Some(&snapshot)).await,
            Ok(Loaded::Unchanged)
        ));
    }
    assert_eq!(world.requests(), before + 5);
    assert!(matches!(
        client.load("manifests/host/none.db@", None).await,
        Ok(Loaded::Missing)
    ));
    assert_eq!(
        client.stat("manifests/host/none.db@").await.expect("stat"),
        None
    );
    let head = client
        .stat(&source.key)
        .await
        .expect("stat")
        .expect("is there");
    assert_eq!(world.requests(), before + 8);
    assert_eq!(
        (head.generation, head.file_len),
        (source.generation(), source.content.len() as u64)
    );

    source.commit(&world, vec![1; 100]).await;
    let Ok(Loaded::New(newer)) = client.load(&source.key, Some(&snapshot)).await else {
        panic!("it changed")
    };
    assert_eq!(newer.len(), 100);
}

#[tokio::test]
async fn a_diff_covers_every_byte_that_differs_and_a_small_commit_little_else() {
    let (world, mut random) = (World::new().await, Random(7));
    let mut source = Source::new("host", "/app.db");
    let client = world.client(ClientConfig::default());
    let mut content = database(&mut random, 300);
    source.commit(&world, content.clone()).await;
    let mut old = load(&client, &source.key).await;
    for round in 0..10 {
        let before = content.clone();
        scribble(&mut random, &mut content, if round == 5 { 400 } else { 2 });
        match round {
            3 => content.extend_from_slice(&[1; 3 * PAGE]),
            7 => content.truncate(content.len() - 20 * PAGE),
            _ => {}
        }
        source.commit(&world, content.clone()).await;
        let new = load(&client, &source.key).await;
        let diff = old.diff(&new).await.expect("diff");
        assert!(
            diff.windows(2).all(|pair| pair[0].end < pair[1].start),
            "{diff:?}"
        );
        assert!(diff.iter().all(|range| !range.is_empty()));
        let (lo, hi) = (
            before.len().min(content.len()),
            before.len().max(content.len()),
        );
        let differs = |i: usize| i >= lo || before[i] != content[i];
        let covered = |i: usize| diff.iter().any(|range| range.contains(&(i as u64)));
        assert!(
            (0..hi).step_by(64).all(|i| !differs(i) || covered(i)),
            "round {round}"
        );
        let total: u64 = diff.iter().map(|range| range.end - range.start).sum();
        assert!(total > 0 && diff.last().is_some_and(|last| last.end <= hi as u64));
        if round == 2 {
            // Some patch may have been moved into a pack by this commit; most were not.
            assert!(total <= 4 * CHUNK as u64, "{total}");
        }
        assert!(new.diff(&new).await.expect("diff").is_empty());
        old = new;
    }
}
