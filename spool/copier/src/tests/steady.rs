//! What is published when nobody dies.

use crate::error::CopyError;
use crate::pass::Outcome;

use super::trial;
use super::world::{CHUNK, World};

#[tokio::test]
async fn a_database_that_the_store_does_not_know_is_caught_up_with() {
    for chunks in [0, 1, 3, 70, 200] {
        let mut world = World::new(chunks).await;
        assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
        world.check_complete().await;
    }
}

#[tokio::test]
async fn every_commit_is_published_as_it_is() {
    let mut world = World::new(5).await;
    world.drain().await.unwrap();
    for round in 0..20u64 {
        for step in 0..=round % 3 {
            world.transact(&[round % 5, (round + step) % 7]);
        }
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

#[tokio::test]
async fn a_small_commit_in_steady_state_is_one_request() {
    let mut world = World::new(20).await;
    world.drain().await.unwrap();
    // The first transaction of ours ends with a look at everything: nobody knows yet whose the change counter was.
    world.transact(&[3]);
    world.drain().await.unwrap();
    let before = world.store.pacer().admitted();
    world.transact(&[7]);
    world.drain().await.unwrap();
    assert_eq!(
        world.store.pacer().admitted() - before,
        1,
        "one PUT: the pages are inline"
    );
    world.check_complete().await;
}

#[tokio::test]
async fn an_idle_database_costs_no_request() {
    let mut world = World::new(3).await;
    world.drain().await.unwrap();
    let before = world.store.pacer().admitted();
    for _ in 0..5 {
        assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
    }
    assert_eq!(world.store.pacer().admitted(), before);
}

#[tokio::test]
async fn a_restart_uploads_nothing_that_is_there() {
    let mut world = World::new(300).await;
    world.drain().await.unwrap();
    // Another boot: the spool is gone, the manifest is not.
    world.spool = world.spool.clone().with_boot_id([9; 16]);
    world.db = verneuil_spool::Database::open(&world.spool, &world.path, world.db.info().clone());
    world.writer = verneuil_spool::Writer::new(world.db.clone());
    world.parked = None;
    let before = world.store.pacer().admitted();
    assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
    assert_eq!(
        world.store.pacer().admitted() - before,
        2,
        "the manifest, and the one node of its chunk list"
    );
    world.transact(&[299]);
    world.drain().await.unwrap();
    world.check_complete().await;
}

#[tokio::test]
async fn a_wiped_spool_takes_over_what_it_has_not_changed() {
    let mut world = World::new(2).await;
    world.drain().await.unwrap();
    // A spool in memory, after a reboot: it has another instance id.
    let wiped = World::new(0).await.spool;
    let reopen = |world: &mut World| {
        world.db = verneuil_spool::Database::open(&wiped, &world.path, world.db.info().clone());
        world.writer = verneuil_spool::Writer::new(world.db.clone());
        world.parked = None;
    };
    world.spool = wiped.clone();
    reopen(&mut world);
    let before = world.store.pacer().admitted();
    assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
    assert_eq!(
        world.store.pacer().admitted() - before,
        2,
        "the manifest is read, and published under the new id"
    );
    // The next process of this host does not take it for another source's.
    for chunk in [0, 1] {
        reopen(&mut world);
        assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
        world.transact(&[chunk]);
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

#[tokio::test]
async fn a_database_that_shrinks_and_grows_is_published_as_it_is() {
    let mut world = World::new(9).await;
    world.drain().await.unwrap();
    for (truncate, write) in [
        (4 * CHUNK + 512, 1),
        (CHUNK, 8),
        (512, 0),
        (20 * CHUNK, 19),
        (4096, 2),
    ] {
        world.write(&[0]);
        world.writer.will_truncate(truncate);
        world.file.set_len(truncate).unwrap();
        if write > 0 {
            let offset = write * CHUNK;
            world.writer.will_write(offset, 512);
            std::os::unix::fs::FileExt::write_all_at(&world.file, &[7; 512], offset).unwrap();
        }
        world.finalise();
        world.end();
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

#[tokio::test]
async fn two_sources_of_one_name_are_noticed() {
    let mut world = World::new(2).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.drain().await.unwrap();
    // The same host name and path from another spool: what a second machine of the same name does.
    let mut other = World::new(0).await;
    other.db = verneuil_spool::Database::open(&other.spool, &world.path, world.db.info().clone());
    other.store = world.store.clone();
    other.parked = None;
    let store = other.store.clone();
    let mut pass = other.pass();
    // It adopts the manifest (as after the loss of a spool), and publishes.
    world.transact(&[0]);
    while pass.advance(&store).await.unwrap() == Outcome::Published {}
    other.parked = Some(pass.park());
    world.transact(&[1]);
    let error = world.drain().await.unwrap_err();
    assert!(matches!(error, CopyError::Claimed { .. }), "{error}");
    assert!(error.to_string().contains("hostname"), "{error}");
    // And stays noticed: nothing is built upon the other's manifest, nor put in its place.
    let manifest = world.manifest_file();
    let theirs = std::fs::read(&manifest).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            world.drain().await,
            Err(CopyError::Claimed { .. })
        ));
        world.parked = None;
    }
    assert_eq!(std::fs::read(&manifest).unwrap(), theirs);
}

#[tokio::test]
async fn a_source_whose_very_first_manifest_meets_anothers_says_so() {
    let mut world = World::new(2).await;
    let mut other = World::new(0).await;
    other.db = verneuil_spool::Database::open(&other.spool, &world.path, world.db.info().clone());
    let mut pass = other.pass();
    let store = world.store.clone();
    let mut run = Box::pin(pass.advance(&store));
    // It has asked, and there was no manifest.
    assert!(trial::run_to(&mut run, 2).await.is_none());
    assert_eq!(world.advance().await.unwrap(), Outcome::Published);
    let theirs = std::fs::read(world.manifest_file()).unwrap();
    let error = run.await.unwrap_err();
    assert!(matches!(error, CopyError::Claimed { .. }), "{error}");
    assert_eq!(std::fs::read(world.manifest_file()).unwrap(), theirs);
}

#[tokio::test]
async fn a_file_of_another_length_copied_over_before_anybody_has_looked_is_seen() {
    let mut world = World::new(2).await;
    world.transact(&[1]);
    assert_eq!(world.advance().await.unwrap(), Outcome::Published);
    // The same change counter, no lock.
    world.overwrite_longer();
    world.drain().await.unwrap();
    world.check_complete().await;
}
