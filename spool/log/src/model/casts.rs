//! Who runs in each of the `tests`' models: writers, copiers, and those of them that die.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::thread::{JoinHandle, spawn};

use crate::ledger::Ledger;
use crate::model::copier::{Copier, Outcome, Store};
use crate::model::sync::{Killed, bury, doom};
use crate::model::world::{Place, World, Writes};
use crate::writer::Writer;

/// A transaction that is too large for a record, and becomes to-do.
const TOO_LARGE: Writes = writes(8, &[0, 1, 2]);

fn ledger(world: &World) -> Arc<Ledger> {
    let ledger = world.database.ledger().expect("opening the ledger");
    Arc::new(ledger.expect("nobody else holds the copier's lock"))
}

/// A database with a transaction of ours behind it, which its target holds: the very first one says that everything is to do.
fn settled(place: &Place, chunks: usize) -> (Arc<World>, Copier) {
    let world = World::new(place, chunks);
    commit(&world, writes(9, &[1]));
    let copier = Copier::new(&world, &ledger(&world), &Store::new(1));
    copier.finish();
    (world, copier)
}

fn commit(world: &World, writes: Writes) {
    world.transact(&mut Writer::new(world.database.clone()), writes);
}

const fn writes(value: u8, chunks: &'static [u32]) -> Writes {
    Writes { value, chunks }
}

/// A process that makes these transactions, one after the other, unless somebody else holds a lock.
fn writer<const N: usize>(world: &Arc<World>, transactions: [Writes; N]) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || {
        let mut writer = Writer::new(world.database.clone());
        for writes in transactions {
            world.transact(&mut writer, writes);
        }
    })
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("a thread of the model")
}

/// Lets this thread run `life` until it has made so many accesses. Whether it died.
fn dies_after(accesses: u32, life: impl FnOnce()) -> bool {
    doom(accesses);
    let lived = catch_unwind(AssertUnwindSafe(life));
    let is_dead = bury();
    if let Err(payload) = lived
        && !payload.is::<Killed>()
    {
        resume_unwind(payload);
    }
    is_dead
}

pub(super) fn seal(place: &Place) {
    let (world, copier) = settled(place, 2);
    let writer = writer(&world, [writes(1, &[1]), writes(2, &[1])]);
    copier.round();
    copier.round();
    join(writer);
    copier.finish();
}

pub(super) fn catch_up(place: &Place) {
    let (world, copier) = settled(place, 3);
    commit(&world, TOO_LARGE);
    let writer = writer(&world, [writes(1, &[1]), writes(2, &[2])]);
    copier.round();
    join(writer);
    copier.finish();
}

pub(super) fn overflow(place: &Place) {
    let (world, copier) = settled(place, 3);
    commit(&world, writes(1, &[1]));
    let writer = writer(&world, [TOO_LARGE, writes(2, &[1])]);
    copier.round();
    join(writer);
    copier.finish();
}

pub(super) fn two_writers(place: &Place) {
    let (world, copier) = settled(place, 2);
    let writers = [
        writer(&world, [writes(1, &[1])]),
        writer(&world, [writes(2, &[1])]),
    ];
    copier.round();
    writers.into_iter().for_each(join);
    copier.finish();
}

pub(super) fn exclusive(place: &Place) {
    let (world, copier) = settled(place, 3);
    commit(&world, TOO_LARGE);
    let writer = {
        let world = world.clone();
        spawn(move || {
            let mut writer = Writer::new(world.database.clone());
            world.transact_exclusive(&mut writer, writes(1, &[0, 1]));
            world.transact_exclusive(&mut writer, writes(2, &[0, 1]));
            writer
        })
    };
    copier.round();
    let writer = join(writer);
    copier.finish();
    drop(writer);
}

pub(super) fn two_targets(place: &Place) {
    let world = World::new(place, 2);
    commit(&world, writes(9, &[1]));
    let ledger = ledger(&world);
    let [a, b] = [1, 2].map(|target| Copier::new(&world, &ledger, &Store::new(target)));
    a.finish();
    b.finish();
    let writer = writer(&world, [writes(1, &[1])]);
    let lane = spawn(move || {
        b.round();
        b
    });
    a.round();
    join(writer);
    let b = join(lane);
    a.finish();
    b.finish();
}

pub(super) fn wake_up(place: &Place) {
    let (world, copier) = settled(place, 2);
    let writer = writer(&world, [writes(1, &[1]), writes(2, &[1])]);
    // As a lane does it: it sleeps when it finds nothing, until somebody wakes it.
    let mut sleeps = false;
    for _ in 0..2 {
        world.call(|state| state.is_woken = false);
        sleeps = copier.round() == Outcome::Idle;
    }
    join(writer);
    let is_woken = world.call(|state| state.is_woken);
    let is_published = copier.is_up_to_date();
    assert!(
        !sleeps || is_woken || is_published,
        "a commit, and the copier sleeps"
    );
}

pub(super) fn growth(place: &Place) {
    let (world, copier) = settled(place, 8);
    // Chunk 8 is described by the second segment of the control page.
    let writer = writer(&world, [writes(1, &[8]), writes(2, &[8])]);
    copier.round();
    join(writer);
    copier.finish();
}

pub(super) fn dying_copier(place: &Place, accesses: u32) -> bool {
    let world = World::new(place, 3);
    commit(&world, writes(9, &[1]));
    let store = Store::new(1);
    Copier::new(&world, &ledger(&world), &store).finish();
    let writer = writer(&world, [TOO_LARGE, writes(2, &[1])]);
    let is_dead = dies_after(accesses, || {
        let copier = Copier::new(&world, &ledger(&world), &store);
        copier.round();
        copier.round();
    });
    join(writer);
    Copier::new(&world, &ledger(&world), &store).finish();
    is_dead
}

pub(super) fn dying_writer(place: &Place, accesses: u32) -> bool {
    let (world, copier) = settled(place, 2);
    let writer = {
        let world = world.clone();
        spawn(move || {
            let is_dead = dies_after(accesses, || {
                let mut writer = Writer::new(world.database.clone());
                world.transact(&mut writer, writes(1, &[1]));
                world.transact(&mut writer, writes(2, &[1]));
            });
            if is_dead {
                world.release_dead();
                // Another process finds what it left.
                commit(&world, writes(3, &[]));
            }
            is_dead
        })
    };
    copier.round();
    let is_dead = join(writer);
    world.recover(&mut Writer::new(world.database.clone()));
    copier.finish();
    is_dead
}

pub(super) fn dying_exclusive(place: &Place, accesses: u32) -> bool {
    let (world, copier) = settled(place, 2);
    let writer = {
        let world = world.clone();
        spawn(move || {
            let is_dead = dies_after(accesses, || {
                let mut writer = Writer::new(world.database.clone());
                world.transact_exclusive(&mut writer, writes(1, &[0, 1]));
                world.transact_exclusive(&mut writer, writes(2, &[0, 1]));
            });
            world.release_dead();
            is_dead
        })
    };
    copier.round();
    copier.round();
    let is_dead = join(writer);
    world.recover(&mut Writer::new(world.database.clone()));
    copier.finish();
    is_dead
}
