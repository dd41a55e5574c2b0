//! What is published when writers and copiers die at any moment.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Blocked, CopyError};
use crate::flush::{Until, wait_until_stored};
use crate::pass::Outcome;

use super::trial;
use super::world::{World, journal};

#[tokio::test]
async fn a_copier_killed_at_any_await_never_publishes_anything_but_a_committed_state() {
    let mut world = World::new(6).await;
    for polls in 1..60 {
        world.transact(&[polls % 6]);
        world.transact(&[(polls + 3) % 6]);
        world.die_after(polls as usize).await;
        world.parked = None;
        world.check_prefix().await;
        if polls % 4 == 0 {
            world.drain().await.unwrap();
            world.check_complete().await;
        }
    }
    world.drain().await.unwrap();
    world.check_complete().await;
}

#[tokio::test]
async fn a_writer_killed_between_commit_and_append_is_repaired_by_the_copier_alone() {
    let mut world = World::new(4).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.drain().await.unwrap();
    world.write(&[2, 3]);
    world.finalise();
    world.kill_writer();
    world.drain().await.unwrap();
    world.check_complete().await;
    // And once more by the next writer.
    world.write(&[1, 2]);
    world.finalise();
    world.kill_writer();
    world.transact(&[3]);
    world.drain().await.unwrap();
    world.check_complete().await;
}

/// Nothing but the dirty bits tells of it, in exclusive mode.
#[tokio::test]
async fn a_dead_writers_commit_that_no_counter_shows_is_pending_and_published_whole() {
    for is_part_needed in [false, true] {
        let mut world = World::new(5).await;
        world.drain().await.unwrap();
        world.transact(&[1]);
        world.drain().await.unwrap();
        if is_part_needed {
            // Chunks 0 and 2, which a dead copier has left.
            world.transact(&[2]);
            let lock = world.db.lock_copier().unwrap().unwrap();
            lock.hand_to_inflight(lock.seal().unwrap()).unwrap();
        }
        world.write_without_counter(&[2, 3]);
        world.finalise();
        world.kill_writer();
        wait_until_stored(&world.db, Until::All, Duration::ZERO).unwrap_err();
        while world.advance().await.unwrap() == Outcome::Published {
            world.check_prefix().await;
        }
        world.check_complete().await;
        wait_until_stored(&world.db, Until::All, Duration::ZERO).unwrap();
    }
}

#[tokio::test]
async fn a_manifest_that_the_store_loses_is_made_anew_by_the_very_next_publication() {
    let mut world = World::new(4).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.drain().await.unwrap();
    std::fs::remove_file(world.manifest_file()).unwrap();
    world.transact(&[2]);
    // A flush has one try.
    assert_eq!(world.advance().await.unwrap(), Outcome::Published);
    world.check_complete().await;
}

#[tokio::test]
async fn a_hot_journal_blocks_publishing_until_it_is_rolled_back() {
    let mut world = World::new(4).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.drain().await.unwrap();
    let before = std::fs::read(&world.path).unwrap();
    world.write(&[2]);
    world.kill_writer();
    assert_eq!(
        world.drain().await.unwrap(),
        Outcome::Blocked(Blocked::HotJournal)
    );
    world.check_prefix().await;
    // The next opener rolls back, through the same writer steps.
    world.writer.begin(&world.file);
    world.writer.will_write(0, before.len() as u64);
    std::os::unix::fs::FileExt::write_all_at(&world.file, &before, 0).unwrap();
    std::fs::remove_file(journal(&world.path)).unwrap();
    world.end();
    world.drain().await.unwrap();
    world.check_complete().await;
}

#[tokio::test]
async fn a_lost_base_is_uploaded_afresh() {
    let mut world = World::new(400).await;
    world.drain().await.unwrap();
    std::fs::remove_dir_all(world.dir.path().join("store/packs")).unwrap();
    world.parked = None;
    // Everything is compared with the chunk list, whose nodes are gone.
    world.foreign_commit(7);
    let mut lost = 0;
    while let Err(error) = world.drain().await {
        assert!(matches!(error, CopyError::BaseLost { .. }), "{error}");
        lost += 1;
        assert!(lost < 3);
    }
    assert_eq!(lost, 1);
    world.check_complete().await;
}

/// A base that refers to nothing any more: what is not read anew would be published as zeros.
#[tokio::test]
async fn a_base_that_a_small_commit_finds_lost_is_uploaded_whole() {
    for (is_restarted, is_emptied) in [(false, false), (true, false), (false, true)] {
        let mut world = World::new(4).await;
        world.drain().await.unwrap();
        world.transact(&[1]);
        world.drain().await.unwrap();
        std::fs::remove_dir_all(world.dir.path().join("store/packs")).unwrap();
        world.parked = None;
        // Nothing but this is needed, and it is to be a patch of what is lost.
        world.transact(&[2]);
        let error = world.advance().await.unwrap_err();
        assert!(matches!(error, CopyError::BaseLost { .. }), "{error}");
        if is_restarted {
            world.parked = None;
        }
        if is_emptied {
            world.recreate(0);
        }
        world.drain().await.unwrap();
        world.check_complete().await;
        world.parked = None;
        assert_eq!(world.advance().await.unwrap(), Outcome::Idle);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_writer_is_caught_up_with_and_never_mixed() {
    let mut world = World::new(130).await;
    let (path, db, file) = (
        world.path.clone(),
        world.db.clone(),
        world.file.try_clone().unwrap(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let stop = stop.clone();
        let mut writer_world = WriterWorld { path, db, file };
        move || writer_world.run(&stop)
    });
    for _ in 0..40 {
        // Not until nothing is left: the writer never stops.
        world.advance().await.unwrap();
        world.parked = None;
        if let Some(bytes) = world.published_bytes().await {
            WriterWorld::check(&bytes);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let last = writing.join().unwrap();
    assert!(last > 10, "{last} transactions");
    assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
    assert_eq!(
        world.published_bytes().await.unwrap(),
        std::fs::read(&world.path).unwrap()
    );
}

/// A thread that writes the number of each transaction into the header and into two chunks.
struct WriterWorld {
    path: std::path::PathBuf,
    db: Arc<verneuil_spool::Database>,
    file: std::fs::File,
}

impl WriterWorld {
    fn run(&mut self, stop: &AtomicBool) -> u32 {
        use std::os::unix::fs::FileExt;
        let mut writer = verneuil_spool::Writer::new(self.db.clone());
        let mut number = 0u32;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            World::lock_exclusive(&self.file);
            std::fs::write(journal(&self.path), b"journal").unwrap();
            writer.begin(&self.file);
            for offset in [24, 65_536 * 5 + 100, 65_536 * 129 + 100] {
                writer.will_write(offset, 4);
                self.file
                    .write_all_at(&number.to_be_bytes(), offset)
                    .unwrap();
            }
            std::fs::remove_file(journal(&self.path)).unwrap();
            World::lock_shared(&self.file);
            writer.end(&self.file, || Ok(false));
            World::unlock(&self.file);
            std::thread::sleep(std::time::Duration::from_millis(u64::from(number % 12)));
        }
        number
    }

    fn check(bytes: &[u8]) {
        let at = |offset: usize| u32::from_be_bytes(bytes[offset..offset + 4].try_into().unwrap());
        let number = at(24);
        if number > 0 {
            assert_eq!(
                (at(65_536 * 5 + 100), at(65_536 * 129 + 100)),
                (number, number),
                "one transaction's state"
            );
        }
    }
}

#[tokio::test]
async fn a_put_of_a_killed_copier_that_arrives_late_is_built_upon_at_once() {
    for polls_before in 1..8 {
        let mut world = World::new(4).await;
        world.transact(&[1]);
        let mut polls = 0;
        while !world.manifest_file().exists() {
            polls += 1;
            world.die_after(polls).await;
            world.parked = None;
        }
        // The store has received it, but not carried it out.
        let late = std::fs::read(world.manifest_file()).unwrap();
        std::fs::remove_file(world.manifest_file()).unwrap();
        world.transact(&[2]);
        let store = world.store.clone();
        let mut pass = world.pass().in_slow_motion();
        let mut run = Box::pin(pass.advance(&store));
        let mut left = polls_before;
        let early = std::future::poll_fn(|context| match run.as_mut().poll(context) {
            std::task::Poll::Pending if left > 0 => {
                left -= 1;
                std::task::Poll::Pending
            }
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(result) => std::task::Poll::Ready(Some(result)),
        })
        .await;
        let result = match early {
            Some(result) => result,
            None => {
                std::fs::write(world.manifest_file(), late).unwrap();
                run.as_mut().await
            }
        };
        assert_eq!(result.unwrap(), Outcome::Published);
        drop(run);
        drop(pass);
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

#[tokio::test]
async fn a_store_that_loses_everything_before_a_manifest_comes_gets_everything_again() {
    for points in 0.. {
        let mut world = World::new(4).await;
        world.drain().await.unwrap();
        world.foreign_commit(7);
        let store = world.store.clone();
        let before = std::fs::read(world.manifest_file()).unwrap();
        let mut pass = world.pass();
        let mut run = Box::pin(pass.advance(&store));
        assert!(trial::run_to(&mut run, points).await.is_none());
        if std::fs::read(world.manifest_file()).unwrap() != before {
            assert!(points > 3, "it was published at once");
            return;
        }
        for folder in ["packs", "manifests"] {
            std::fs::remove_dir_all(world.dir.path().join("store").join(folder)).unwrap();
        }
        // It may say that the base is lost.
        let _ = run.as_mut().await;
        drop(run);
        drop(pass);
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

/// In exclusive mode the change counter stays, so that by it the manifest that came late could be what is in the file.
#[tokio::test]
async fn what_a_late_put_has_refused_is_needed_again_whatever_the_counter_says() {
    for points in 0.. {
        let mut world = World::new(4).await;
        world.drain().await.unwrap();
        world.transact(&[1]);
        world.drain().await.unwrap();
        let store = world.store.clone();
        let before = std::fs::read(world.manifest_file()).unwrap();
        world.transact_without_counter(&[2]);
        let late = {
            // A copier is killed as soon as it has sent it.
            let mut pass = world.pass();
            let mut run = Box::pin(pass.advance(&store));
            loop {
                assert!(trial::run_to(&mut run, 1).await.is_none());
                let now = std::fs::read(world.manifest_file()).unwrap();
                if now != before {
                    break now;
                }
            }
        };
        std::fs::write(world.manifest_file(), &before).unwrap();
        world.transact_without_counter(&[3]);
        let mut pass = world.pass();
        let mut run = Box::pin(pass.advance(&store));
        let early = trial::run_to(&mut run, points).await;
        // It is as conditional as any.
        let is_carried_out = std::fs::read(world.manifest_file()).unwrap() == before;
        if is_carried_out {
            std::fs::write(world.manifest_file(), late).unwrap();
        }
        if early.is_none() {
            assert_eq!(run.as_mut().await.unwrap(), Outcome::Published);
        }
        drop(run);
        drop(pass);
        world.drain().await.unwrap();
        world.check_complete().await;
        if !is_carried_out {
            assert!(points > 3, "it was carried out at hardly any moment");
            return;
        }
    }
}

/// Both files have the same change counter, so that nothing but the file itself tells them apart.
#[tokio::test]
async fn a_database_recreated_at_any_moment_of_a_catch_up_is_never_published_as_the_old_one() {
    let mut polls_before = 0;
    loop {
        let mut world = World::new(4).await;
        world.transact(&[1]);
        let store = world.store.clone();
        let mut pass = world.pass().in_slow_motion();
        let mut run = Box::pin(pass.advance(&store));
        let mut left = polls_before;
        let early = std::future::poll_fn(|context| match run.as_mut().poll(context) {
            std::task::Poll::Pending if left > 0 => {
                left -= 1;
                std::task::Poll::Pending
            }
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(result) => std::task::Poll::Ready(Some(result)),
        })
        .await;
        world.recreate(2);
        world.transact(&[0]);
        if early.is_none() {
            run.as_mut().await.unwrap();
        }
        drop(run);
        drop(pass);
        world.drain().await.unwrap();
        world.check_complete().await;
        if early.is_some() {
            assert!(polls_before > 3, "it was recreated at hardly any moment");
            return;
        }
        polls_before += 1;
    }
}
