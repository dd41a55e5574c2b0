//! Hosts and directories out of keys; names that are hashed, and names that are hostile.
#![allow(clippy::panic, reason = "a helper of a test fails by panicking")]

mod common;

use common::{Source, World};
use verneuil_replica::{ClientConfig, DirEntry, EntryKind};

fn entry(name: &str, kind: EntryKind) -> DirEntry {
    DirEntry {
        name: name.as_bytes().to_vec(),
        kind,
    }
}

#[tokio::test]
async fn a_listing_has_what_was_published() {
    use EntryKind::{Database, Directory};
    let world = World::new().await;
    let long = "long-".repeat(50);
    let very_long = format!("{}%", "é".repeat(120));
    let deep = "/deep".repeat(300);
    let odd_host = "h%st @/é";
    for (host, path) in [
        ("web1", "/srv/app.db".to_owned()),
        ("web1", "/srv/app.db/inside.db".to_owned()),
        ("web1", "/srv/a @b%.db".to_owned()),
        ("web1", format!("/{very_long}/x.db")),
        ("web1", format!("/srv/{very_long}.db")),
        ("web1", format!("/srv/{long}")),
        ("web1", deep.clone()),
        ("web2", "/x.db".to_owned()),
        (odd_host, "/x.db".to_owned()),
    ] {
        Source::new(host, &path)
            .commit(&world, b"content".to_vec())
            .await;
    }
    let client = world.client(ClientConfig::default());
    // A host's name is a directory of the mount: one with a slash can't be shown.
    assert_eq!(client.hosts().await.expect("hosts"), ["web1", "web2"]);
    let list = async |dir: &str| client.list("web1", dir.as_bytes()).await.expect("list");
    let mut root = vec![
        entry("deep", Directory),
        entry("srv", Directory),
        entry(&very_long, Directory),
    ];
    root.sort();
    assert_eq!(list("/").await, root);
    let mut srv = vec![
        entry("app.db", Directory),
        entry("app.db", Database),
        entry("a @b%.db", Database),
        entry(&format!("{very_long}.db"), Database),
        entry(&long, Database),
    ];
    srv.sort();
    assert_eq!(list("/srv").await, srv);
    assert_eq!(list("/srv/").await, srv);
    assert_eq!(list("/srv/app.db").await, [entry("inside.db", Database)]);
    assert_eq!(
        list(&format!("/{very_long}")).await,
        [entry("x.db", Database)]
    );
    assert_eq!(list("/deep").await, [entry("deep", Directory)]);
    assert_eq!(list(&"/deep".repeat(299)).await, [entry("deep", Database)]);
    assert_eq!(list(&deep).await, []);
    assert_eq!(list("/none").await, []);
    assert_eq!(client.list("nobody", b"/").await.expect("list"), []);
}

#[tokio::test]
async fn names_that_could_leave_the_mount_are_never_listed() {
    let world = World::new().await;
    let good = Source::new("host", "/ok.db")
        .manifest
        .encode()
        .expect("encode");
    for key in [
        "manifests/host/ok.db@",
        "manifests/host/%2E%2E@",
        "manifests/host/%2E@",
        "manifests/host/%2E%2E/passwd@",
        "manifests/host/%empty@",
        "manifests/host/a%00b@",
        "manifests/host/a%2Fb@",
        "manifests/host/%zz@",
        "manifests/host/%name-0000000000000000000000000000000000000000000000000000000000000000@",
        "manifests/host/not-a-database",
        "manifests/%2E%2E/x.db@",
        "manifests/%empty/x.db@",
    ] {
        world.put_manifest(key, good.clone()).await;
    }
    let client = world.client(ClientConfig::default());
    assert_eq!(client.hosts().await.expect("hosts"), ["host"]);
    assert_eq!(
        client.list("host", b"/").await.expect("list"),
        [entry("ok.db", EntryKind::Database)]
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_an_empty_one() {
    let world = World::new().await;
    let client = world.client(ClientConfig::default());
    let error = client.hosts().await.expect_err("there is nothing");
    assert!(error.is_not_found(), "{error}");
}
