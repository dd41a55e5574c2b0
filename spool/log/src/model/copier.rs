//! A copier for the model: the steps of `verneuil-copier`'s pass in their order, on the real `ledger`, without its waiting, hashing and uploading. Patience is
//! nil: it goes to quiet mode, or gives up, at once.
//!
//! Modification times don't vouch for anything here, so the epochs have to.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunks::{CHUNK_LEN_BYTES, ChunkSet};
use crate::drain::Need;
use crate::ledger::{Ledger, Published};
use crate::model::world::{Locked, World, counter, part};
use crate::replays::Replays;
use crate::sync::fence;
use crate::target::TargetId;

/// Rounds after which a copier that nobody disturbs must be idle.
const ROUNDS_MAX: u32 = 16;

/// What came of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Idle,
    Published,
    Again,
    Blocked,
}

/// What one target holds.
pub(crate) struct Store {
    target: TargetId,
    state: Mutex<StoreState>,
}

struct StoreState {
    content: Vec<u8>,
    generation: u64,
    /// Index of `content` among the committed states.
    index: usize,
}

impl Store {
    /// A store that holds nothing.
    pub fn new(target: u64) -> Arc<Self> {
        Arc::new(Self {
            target: TargetId(target),
            state: Mutex::new(StoreState {
                content: Vec::new(),
                generation: 0,
                index: 0,
            }),
        })
    }

    fn state<T>(&self, f: impl FnOnce(&mut StoreState) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    epoch: u64,
    counter: u32,
    chunks: u32,
}

/// What was read from the file, and how many chunks it had.
struct Read {
    slices: BTreeMap<u32, Vec<u8>>,
    chunks: u32,
}

/// A lane: one target of the database.
pub(crate) struct Copier {
    world: Arc<World>,
    ledger: Arc<Ledger>,
    store: Arc<Store>,
}

impl Copier {
    pub fn new(world: &Arc<World>, ledger: &Arc<Ledger>, store: &Arc<Store>) -> Self {
        ledger.enter(store.target, "store");
        Self {
            world: world.clone(),
            ledger: ledger.clone(),
            store: store.clone(),
        }
    }

    /// Whether the store holds what the file holds.
    pub fn is_up_to_date(&self) -> bool {
        self.store
            .state(|state| state.content == self.world.content())
    }

    /// Goes on until nothing is left, which must come soon, and checks that the store holds the file.
    pub fn finish(&self) {
        for _ in 0..ROUNDS_MAX {
            match self.round() {
                Outcome::Idle => {
                    assert!(
                        self.is_up_to_date(),
                        "idle, and the store holds something else than the file"
                    );
                    return;
                }
                Outcome::Blocked => panic!("blocked, and nobody is there"),
                Outcome::Published | Outcome::Again => {}
            }
        }
        panic!("does not come to an end");
    }

    /// `Pass::round`.
    pub fn round(&self) -> Outcome {
        let target = self.store.target;
        self.world.database.arm();
        self.ledger.give_back(target);
        if self.needs_reading() {
            return self.catch_up();
        }
        if self.ledger.has_news(target) {
            let taken = self.ledger.take(target, false).expect("taking");
            return match taken {
                Some(replays) => self.publish(None, &replays, None),
                None => Outcome::Again,
            };
        }
        self.idle()
    }

    fn needs_reading(&self) -> bool {
        self.ledger
            .needs_reading(self.store.target)
            .expect("claiming")
    }

    /// `Look::take`.
    fn look(&self) -> Option<Look> {
        let lock = self.ledger.lock();
        let epoch = lock.epoch();
        fence(SeqCst);
        let chunks = self.world.chunks();
        let counter = counter(&self.world.read(0));
        let (locked, is_hot) = self
            .world
            .call(|state| (state.locked, state.journal.is_some()));
        let may_read = match locked {
            Locked::Exclusive => epoch.is_multiple_of(2) && lock.exclusive_owner_lives(),
            Locked::No => !is_hot,
            Locked::Shared => true,
        };
        may_read.then_some(Look {
            epoch,
            counter,
            chunks,
        })
    }

    /// `Pass::catch_up`.
    fn catch_up(&self) -> Outcome {
        let (target, lock) = (self.store.target, self.ledger.lock());
        let mut more = self.ledger.begin_catch_up(target).expect("beginning");
        let mut sofar: Option<(Read, Look)> = None;
        for _ in 0..ROUNDS_MAX {
            let Some(look) = self.look() else {
                return Outcome::Blocked;
            };
            let mut quiet = Some(look.counter) != lock.last_cc();
            if quiet && more != Need::All {
                self.ledger.read_everything(target);
                more = Need::All;
            }
            let Some(slice) = self.read(&more, quiet.then_some(look)) else {
                return Outcome::Blocked;
            };
            let (read, reference) = match sofar.take() {
                Some((mut before, first)) if !quiet => {
                    before.slices.extend(slice.slices);
                    before.chunks = slice.chunks;
                    (before, first)
                }
                _ => (slice, look),
            };
            if !quiet {
                match self.see_clean(&more, reference) {
                    Ok(is_quiet) => quiet = is_quiet,
                    Err(outcome) => return outcome,
                }
            }
            if !quiet {
                let Some(now) = self.look() else {
                    return Outcome::Blocked;
                };
                if now.counter != reference.counter && Some(now.counter) != lock.last_cc() {
                    self.ledger.need_everything(target);
                    return Outcome::Again;
                }
            }
            let taken = self.ledger.take(target, true).expect("taking");
            let Some(replays) = taken else {
                if quiet {
                    return Outcome::Again;
                }
                more = self.ledger.go_on(target).expect("going on");
                sofar = Some((read, reference));
                continue;
            };
            if quiet && self.look() != Some(reference) {
                return Outcome::Again;
            }
            return self.publish(Some(read), &replays, quiet.then_some(reference.epoch));
        }
        Outcome::Again
    }

    /// `catchup::read`, each chunk a slice of its own. `None`: one does not count.
    fn read(&self, need: &Need, quiet: Option<Look>) -> Option<Read> {
        let mut slices = BTreeMap::new();
        let mut before = self.look()?;
        let mut chunk = 0;
        while chunk < before.chunks {
            if quiet.is_some_and(|reference| reference != before) {
                return None;
            }
            if need.contains(chunk) {
                let bytes = self.world.read(chunk);
                if self.look()? != before {
                    return None;
                }
                slices.insert(chunk, bytes);
                before = self.look()?;
            }
            chunk += 1;
        }
        Some(Read {
            slices,
            chunks: before.chunks,
        })
    }

    /// `Pass::see_clean`: whether bits stay set, and nothing has moved.
    fn see_clean(&self, need: &Need, reference: Look) -> Result<bool, Outcome> {
        let dirty: ChunkSet = self.ledger.lock().dirty().expect("looking at the bits");
        if !dirty.iter().any(|chunk| need.contains(chunk)) {
            return Ok(false);
        }
        match self.look() {
            Some(look) if look == reference => {
                if dirty.iter().all(|chunk| need.contains(chunk)) {
                    return Ok(true);
                }
                self.ledger.add_need(self.store.target, &dirty);
                Err(Outcome::Again)
            }
            Some(_) => Err(Outcome::Again),
            None => Err(Outcome::Blocked),
        }
    }

    /// `compose` and `Pass::publish`: what is published must have been committed, and not before what is there.
    fn publish(&self, read: Option<Read>, replays: &Replays, settles: Option<u64>) -> Outcome {
        let replayed: Vec<u32> = replays.chunks().collect();
        let base = self.store.state(|state| state.content.clone());
        // In quiet mode what was read is newer than the log.
        let (read_len, log_len) = (
            read.as_ref().map(|read| read.chunks),
            replays.file_len().map(|len| (len / CHUNK_LEN_BYTES) as u32),
        );
        let base_len = (base.len() as u64 / CHUNK_LEN_BYTES) as u32;
        let newest = if settles.is_some() {
            read_len.or(log_len)
        } else {
            log_len.or(read_len)
        };
        let mut content = Vec::new();
        for chunk in 0..newest.unwrap_or(base_len) {
            let slice = read.as_ref().and_then(|read| read.slices.get(&chunk));
            if replayed.contains(&chunk) && (settles.is_none() || slice.is_none()) {
                content.extend(replays.bytes(chunk).expect("replaying"));
            } else if let Some(slice) = slice {
                content.extend_from_slice(slice);
            } else {
                assert!(chunk < base_len, "chunk {chunk} comes from nowhere");
                content.extend_from_slice(part(&base, chunk));
            }
        }
        let index = self
            .world
            .call(|state| state.committed.iter().position(|known| *known == content));
        let is_news = content != base;
        let generation = self.store.state(|state| {
            let index = index.expect("what is published was never committed");
            assert!(
                index >= state.index,
                "an older state is published over a newer one"
            );
            state.index = index;
            state.generation += u64::from(is_news);
            state.content = content.clone();
            state.generation
        });
        let published = Published {
            generation,
            change_counter: Some(counter(&content)),
        };
        self.ledger
            .settle(self.store.target, published, settles)
            .expect("settling");
        if is_news {
            Outcome::Published
        } else {
            Outcome::Again
        }
    }

    /// `Pass::idle`.
    fn idle(&self) -> Outcome {
        let (target, lock) = (self.store.target, self.ledger.lock());
        let epoch = lock.epoch();
        let Some(look) = self.look() else {
            return Outcome::Blocked;
        };
        if self.ledger.has_news(target) || self.needs_reading() || look.epoch != epoch {
            return Outcome::Again;
        }
        if epoch.is_multiple_of(2) || self.ledger.settled_epoch(target) == epoch {
            if self.store.state(|state| counter(&state.content)) == look.counter {
                return Outcome::Idle;
            }
            self.ledger.need_everything(target);
            return Outcome::Again;
        }
        let dirty = lock.dirty().expect("looking at the bits");
        if dirty.is_empty() {
            self.ledger.set_settled_epoch(target, epoch);
        } else {
            self.ledger.add_need(target, &dirty);
        }
        Outcome::Again
    }
}
