//! Several targets of one database: none waits for another, and each holds committed states only.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use verneuil_config::{CopierConfig, DirectoryConfig, TargetConfig};
use verneuil_spool::Ledger;
use verneuil_store::{Pacer, Store};

use crate::Copier;
use crate::base::target_id;
use crate::error::CopyError;
use crate::pass::{Outcome, Parked, Pass};

use super::world::{CHUNK, World};

/// A second store of a world's database.
struct Second {
    root: PathBuf,
    target: TargetConfig,
    store: Store,
    parked: Option<Parked>,
}

impl Second {
    async fn new(world: &World) -> Self {
        let root = world.dir.path().join("second");
        let target = TargetConfig::Directory(DirectoryConfig { path: root.clone() });
        let store = Store::open(&target, Arc::new(Pacer::new(100_000.0, 100_000)))
            .await
            .unwrap();
        Self {
            root,
            target,
            store,
            parked: None,
        }
    }

    fn pass(&mut self, world: &World, ledger: &Arc<Ledger>) -> Pass {
        world.pass_of(ledger, &self.target, self.parked.take())
    }

    async fn drain(&mut self, world: &World, ledger: &Arc<Ledger>) {
        let mut pass = self.pass(world, ledger);
        while pass.advance(&self.store).await.unwrap() == Outcome::Published {}
        self.parked = Some(pass.park());
    }
}

/// Drains the first target under a ledger that others share.
async fn drain(world: &mut World, ledger: &Arc<Ledger>) {
    let parked = world.parked.take();
    let mut pass = world.pass_of(ledger, &world.target, parked);
    while pass.advance(&world.store).await.unwrap() == Outcome::Published {}
    world.parked = Some(pass.park());
}

/// Polls a future so many times; what it gave, if it has ended by then.
async fn poll_times<F: Future + Unpin>(future: &mut F, mut left: usize) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

/// Polls a future once, and waits until it could go on; what it gave, if it has ended.
async fn poll_and_wait<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut is_polled = false;
    std::future::poll_fn(|context| {
        if is_polled {
            return Poll::Ready(None);
        }
        is_polled = true;
        std::pin::Pin::new(&mut *future).poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn targets_in_step_get_each_commit_at_the_same_price() {
    let mut world = World::new(20).await;
    let mut second = Second::new(&world).await;
    let ledger = Arc::new(world.ledger());
    drain(&mut world, &ledger).await;
    second.drain(&world, &ledger).await;
    world.transact(&[3]);
    drain(&mut world, &ledger).await;
    second.drain(&world, &ledger).await;
    for round in 0..4 {
        let before = (
            world.store.pacer().admitted(),
            second.store.pacer().admitted(),
        );
        world.transact(&[round, 7]);
        drain(&mut world, &ledger).await;
        second.drain(&world, &ledger).await;
        let requests = (
            world.store.pacer().admitted() - before.0,
            second.store.pacer().admitted() - before.1,
        );
        // A manifest each, and now and then a pack of patches that became too many.
        assert!(requests.0 <= 2, "{requests:?}");
        assert_eq!(requests.0, requests.1, "the second one reads nothing again");
        world.check_complete().await;
        assert_eq!(world.state_in(&second.root), Some(world.states.len() - 1));
    }
}

#[tokio::test]
async fn a_target_that_hangs_at_any_await_delays_no_other_and_gets_everything_later() {
    for polls in 1..40 {
        let mut world = World::new(6).await;
        let mut second = Second::new(&world).await;
        let ledger = Arc::new(world.ledger());
        drain(&mut world, &ledger).await;
        second.drain(&world, &ledger).await;
        world.transact(&[1]);
        let store = second.store.clone();
        let mut pass = second.pass(&world, &ledger).in_slow_motion();
        let mut hanging = Box::pin(pass.advance(&store));
        let has_ended = poll_times(&mut hanging, polls).await.is_some();
        let mut last = world.state_in(&second.root);
        for round in 0..3 {
            world.transact(&[2, round]);
            drain(&mut world, &ledger).await;
            world.check_complete().await;
        }
        if has_ended {
            drop(hanging);
        } else {
            // It goes on, with what it had.
            hanging.await.unwrap();
        }
        let state = world.state_in(&second.root);
        assert!(state >= last, "manifests only move forward");
        last = state;
        second.parked = Some(pass.park());
        second.drain(&world, &ledger).await;
        let state = world.state_in(&second.root);
        assert!(state >= last);
        assert_eq!(state, Some(world.states.len() - 1));
    }
}

#[tokio::test]
async fn what_a_target_lacks_survives_the_copier() {
    for polls in 0..25 {
        let mut world = World::new(6).await;
        let mut second = Second::new(&world).await;
        {
            let ledger = Arc::new(world.ledger());
            drain(&mut world, &ledger).await;
            second.drain(&world, &ledger).await;
            world.transact(&[1]);
            drain(&mut world, &ledger).await;
            world.transact(&[2, 4]);
            // The copier dies while it serves one of them; the other has not come to it at all.
            let parked = world.parked.take();
            let mut pass = world
                .pass_of(&ledger, &world.target, parked)
                .in_slow_motion();
            let store = world.store.clone();
            let mut run = Box::pin(pass.advance(&store));
            poll_times(&mut run, polls).await;
        }
        (world.parked, second.parked) = (None, None);
        let ledger = Arc::new(world.ledger());
        second.drain(&world, &ledger).await;
        assert_eq!(world.state_in(&second.root), Some(world.states.len() - 1));
        drain(&mut world, &ledger).await;
        world.check_complete().await;
    }
}

#[tokio::test]
async fn what_one_target_alone_lacks_is_not_said_of_the_others() {
    let mut world = World::new(6).await;
    let mut second = Second::new(&world).await;
    let (first_id, second_id) = (
        target_id(&world.target, &world.db),
        target_id(&second.target, &world.db),
    );
    {
        let ledger = Arc::new(world.ledger());
        drain(&mut world, &ledger).await;
        second.drain(&world, &ledger).await;
        // The second one's manifest is gone, and putting things right takes a while.
        ledger.need_everything(second_id);
        let progress = world.db.progress().unwrap().unwrap();
        assert_eq!(progress.inflight, Some(0));
        let lacks_nothing = |id| progress.target(id).unwrap().lacks.is_empty();
        assert!(lacks_nothing(first_id));
        assert!(!lacks_nothing(second_id));
    }
    // It is remembered when the copier has died.
    let ledger = world.ledger();
    assert!(!ledger.needs_reading(first_id).unwrap());
    assert!(ledger.needs_reading(second_id).unwrap());
}

#[tokio::test]
async fn an_overflow_before_another_targets_seal_is_not_missing_under_it() {
    // A record of more chunks than are copied (64 MiB) is none: the chunks become to-do.
    let mut world = World::new(3).await;
    world.file.set_len(1_100 * CHUNK).unwrap();
    let mut second = Second::new(&world).await;
    world.transact(&[0]);
    let ledger = Arc::new(world.ledger());
    drain(&mut world, &ledger).await;
    second.drain(&world, &ledger).await;
    for round in 0..3 {
        let everywhere: Vec<u64> = (0..1_030).collect();
        world.transact(&everywhere);
        world.transact(&[round]);
        // The first one to come seals the second transaction, and both must take the first from the file.
        second.drain(&world, &ledger).await;
        assert_eq!(world.state_in(&second.root), Some(world.states.len() - 1));
        drain(&mut world, &ledger).await;
        world.check_complete().await;
    }
}

#[tokio::test]
async fn logs_that_wait_for_a_target_stay_within_their_bound() {
    let mut world = World::new(64).await;
    let mut second = Second::new(&world).await;
    let ledger = Arc::new(world.ledger());
    drain(&mut world, &ledger).await;
    second.drain(&world, &ledger).await;
    // After the first transaction of ours, everything is looked at once more.
    world.transact(&[1]);
    drain(&mut world, &ledger).await;
    second.drain(&world, &ledger).await;
    let folder = world.spool.root().to_str().unwrap().to_owned();
    // What has no name any more is on the disk for as long as somebody has it open.
    let held = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let files: BTreeMap<u64, u64> = links
            .filter_map(|link| {
                let name = std::fs::read_link(link.path()).ok()?;
                let name = name.to_str()?;
                let is_ours = name.starts_with(&folder)
                    && name.contains("/log-")
                    && name.ends_with(" (deleted)");
                let meta = std::fs::metadata(link.path()).ok()?;
                is_ours.then(|| (meta.ino(), meta.len()))
            })
            .collect();
        files.values().sum::<u64>()
    };
    let mut max = 0;
    for round in 0..40u64 {
        let chunks: Vec<u64> = (0..32).map(|k| (k + round) % 64).collect();
        world.transact(&chunks);
        drain(&mut world, &ledger).await;
        max = max.max(held());
    }
    assert!(max > 0, "something waited");
    assert!(max <= 8 << 20, "{max} bytes");
    second.drain(&world, &ledger).await;
    assert_eq!(held(), 0);
    assert_eq!(world.state_in(&second.root), Some(world.states.len() - 1));
}

#[tokio::test]
async fn what_somebody_else_has_published_meanwhile_is_built_upon() {
    let mut world = World::new(5).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.drain().await.unwrap();
    let stale = world.parked.take();
    // Another process, say `verneuilctl flush`.
    world.transact(&[2]);
    world.drain().await.unwrap();
    world.parked = stale;
    world.transact(&[3]);
    world.drain().await.unwrap();
    world.check_complete().await;
}

#[tokio::test]
async fn a_foreign_commit_after_a_dead_writers_leftovers_were_settled_is_seen() {
    let mut world = World::new(4).await;
    world.drain().await.unwrap();
    world.transact(&[1]);
    world.write(&[2]);
    world.finalise();
    world.kill_writer();
    world.drain().await.unwrap();
    world.check_complete().await;
    for chunk in [3, 0] {
        world.foreign_commit(chunk);
        world.drain().await.unwrap();
        world.check_complete().await;
    }
}

#[tokio::test]
async fn a_file_copied_over_the_database_with_the_same_counter_is_seen() {
    let mut world = World::new(4).await;
    world.transact(&[1]);
    world.drain().await.unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
    world.counter -= 1;
    world.foreign_commit(2);
    world.drain().await.unwrap();
    world.check_complete().await;
    assert_eq!(world.drain().await.unwrap(), Outcome::Idle);
}

#[tokio::test]
async fn a_base_that_starts_afresh_is_not_forgotten_when_the_store_fails_meanwhile() {
    let mut world = World::new(400).await;
    world.drain().await.unwrap();
    let store = world.dir.path().join("store");
    std::fs::remove_dir_all(store.join("packs")).unwrap();
    world.parked = None;
    // Everything is compared with the chunk list, whose nodes are gone.
    world.foreign_commit(7);
    let error = world.drain().await.unwrap_err();
    assert!(matches!(error, CopyError::BaseLost { .. }), "{error}");
    // Packs can't be written for a while.
    std::fs::write(store.join("packs"), "in the way").unwrap();
    let error = world.drain().await.unwrap_err();
    assert!(matches!(error, CopyError::Store(_)), "{error}");
    std::fs::remove_file(store.join("packs")).unwrap();
    world.drain().await.unwrap();
    world.check_complete().await;
}

#[test]
fn a_lane_ends_with_its_database() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut world = runtime.block_on(World::new(2));
    let copier = Copier::new(&CopierConfig::default(), &[]);
    copier.serve(&world.db).unwrap();
    world.transact(&[1]);
    copier.flush(&world.db, None).unwrap();
    assert_eq!(copier.lanes_count(), 1);
    std::fs::remove_file(&world.path).unwrap();
    let World { writer, db, .. } = world;
    drop((writer, db));
    let deadline = Instant::now() + Duration::from_secs(30);
    while copier.lanes_count() > 0 {
        assert!(Instant::now() < deadline, "it goes on without a database");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_catch_up_that_others_overtake_goes_on_and_reads_only_what_has_changed() {
    let mut world = World::new(450).await;
    let mut second = Second::new(&world).await;
    let ledger = Arc::new(world.ledger());
    world.transact(&[1]);
    drain(&mut world, &ledger).await;
    let store = second.store.clone();
    let mut pass = second.pass(&world, &ledger).in_slow_motion();
    let mut overtaken = 0;
    let mut behind = Box::pin(pass.advance(&store));
    // The first target seals more generations meanwhile than are kept for the second one.
    loop {
        // However busy the machine is, each step takes one turn.
        match poll_and_wait(&mut behind).await.transpose().unwrap() {
            None => {}
            Some(Outcome::Published) => break,
            // Out of patience: so busy a machine may be.
            Some(Outcome::Blocked(_)) => {
                drop(behind);
                behind = Box::pin(pass.advance(&store));
            }
            Some(Outcome::Idle) => panic!("something is pending"),
        }
        overtaken += 1;
        // 30 to 50. Reading everything again after each overtaking goes on for ever.
        assert!(overtaken < 100, "it reads for ever");
        world.transact(&[overtaken % 450]);
        drain(&mut world, &ledger).await;
        // The clock by which the file is stamped has to tick.
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    drop(behind);
    second.parked = Some(pass.park());
    assert!(overtaken > 10, "{overtaken}");
    assert!(world.state_in(&second.root).is_some());
    second.drain(&world, &ledger).await;
    assert_eq!(world.state_in(&second.root), Some(world.states.len() - 1));
    world.check_complete().await;
}
