//! The copier's half of the protocol for one database and one target, steps 1 to 11; `service` and `flush` call [`Pass::advance`] until it says
//! that nothing is left. Dropping it at any `await` is as good as `kill -9`: the next pass repairs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use verneuil_dbfile::FileId;
use verneuil_format::{Identity, PatchBudget};
use verneuil_spool::{CopierLock, Database, Replay, Sealed};
use verneuil_store::Store;

use crate::base::Base;
use crate::catchup::{self, CaughtUp, Need, Source};
use crate::error::{Blocked, CopyError};
use crate::look::Look;
use crate::snapshot;

/// How often one call of `advance` starts over before it reports that the database does not hold still.
const ROUNDS_MAX: u32 = 32;
/// How long leftover dirty bits are watched before they count as a dead writer's: a live one needs microseconds from its unlock to the end
/// of its append, and being wrong costs a catch-up in quiet mode, nothing more.
const LEFTOVER_PATIENCE: Duration = Duration::from_millis(100);
/// How long a writer may keep a needed chunk dirty before the pass gives up for now.
const DIRTY_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks at bits that a writer is about to clear.
const DIRTY_PAUSE: Duration = Duration::from_millis(1);
/// Publications closer together than this many intervals are those of a database that commits all the time.
const BUSY_INTERVALS: u32 = 2;

/// What one call of [`Pass::advance`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that is committed is in the store.
    Idle,
    /// A manifest was published that holds all that was committed when the call began.
    Published,
    /// Not now.
    Blocked(Blocked),
}

enum Step {
    Done(Outcome),
    /// Something moved: look again.
    Again,
}

/// One database, one target, and the copier's lock on the database.
pub(crate) struct Pass {
    db: Arc<Database>,
    lock: Arc<CopierLock>,
    identity: Identity,
    /// The last manifest; `None`: to be loaded.
    base: Option<Base>,
    source: Option<Source>,
    interval: Duration,
    published_at: Option<Instant>,
}

/// What one pass leaves to the next: saves the next one a request, if nobody else has published in between.
pub(crate) struct Parked {
    base: Option<Base>,
    published_at: Option<Instant>,
}

impl Parked {
    /// When the last manifest was published.
    pub(crate) fn published_at(&self) -> Option<Instant> {
        self.published_at
    }
}

impl Pass {
    /// A pass for `db`, whose copier lock it holds. Requests nothing yet.
    pub(crate) fn new(db: Arc<Database>, lock: CopierLock, identity: Identity, interval: Duration, parked: Option<Parked>) -> Self {
        let Parked { base, published_at } = parked.unwrap_or(Parked { base: None, published_at: None });
        // Another copier may have published while nobody held the lock.
        let base = base.filter(|base| base.manifest().generation().0 == lock.published_generation());
        Self { db, lock: Arc::new(lock), identity, base, source: None, interval, published_at }
    }

    /// Gives up the lock.
    pub(crate) fn park(self) -> Parked {
        Parked { base: self.base, published_at: self.published_at }
    }

    /// Writes down for others what went wrong, or that all is well again.
    pub(crate) fn note_error(&self, text: Option<&str>) {
        if let Err(error) = self.lock.set_last_error(text) {
            tracing::warn!(db = %self.db.path().display(), %error, "cannot write down the copier's state");
        }
    }

    /// Publishes what is committed now, if anything is pending.
    ///
    /// # Errors
    /// The store or the spool failed. Nothing is lost: the next call goes on where the protocol allows it.
    pub(crate) async fn advance(&mut self, store: &Store) -> Result<Outcome, CopyError> {
        for _ in 0..ROUNDS_MAX {
            match self.round(store).await {
                Ok(Step::Done(outcome)) => return Ok(outcome),
                Ok(Step::Again) => {}
                Err(error) => {
                    if let (CopyError::BaseLost { .. }, Some(base)) = (&error, &mut self.base) {
                        base.start_afresh();
                        self.lock.need_everything();
                    } else {
                        // Whether a failed PUT took effect is known to the store only.
                        self.base = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(Outcome::Blocked(Blocked::Moving))
    }

    async fn round(&mut self, store: &Store) -> Result<Step, CopyError> {
        self.db.arm();
        // Step 1. Loaded before anything is drained: catch-up compares with it, and without one everything is needed.
        if self.base.is_none() {
            let (base, found) = Base::load(store, self.identity.clone()).await?;
            self.base = Some(base);
            if !found {
                self.lock.need_everything();
            }
        }
        if let Some(step) = self.leftovers(store).await? {
            return Ok(step);
        }
        // Step 2.
        self.lock.claim()?;
        if let Some(need) = self.inflight()? {
            // Step 3, after the claim: a record may be older than what the catch-up will read.
            if self.lock.head().len_bytes > 0 {
                let sealed = self.lock.seal()?;
                self.lock.hand_to_inflight(sealed)?;
                return Ok(Step::Again);
            }
            return self.catch_up(store, need).await;
        }
        if self.lock.head().len_bytes > 0 {
            return self.steady(store).await;
        }
        self.idle().await
    }

    /// Step 1: a generation that a dead copier sealed.
    async fn leftovers(&mut self, store: &Store) -> Result<Option<Step>, CopyError> {
        if let Some(sealed) = self.lock.leftover()? {
            if !self.lock.has_todo()? && self.inflight()?.is_none() {
                if let Some(replay) = self.replay(sealed)? {
                    self.publish(store, sealed, None, &replay, false).await?;
                }
            } else {
                self.lock.hand_to_inflight(sealed)?;
            }
            return Ok(Some(Step::Again));
        }
        Ok(None)
    }

    /// Steps 8 to 10 with nothing to catch up.
    async fn steady(&mut self, store: &Store) -> Result<Step, CopyError> {
        let sealed = self.lock.seal()?;
        let Some(replay) = self.replay(sealed)? else { return Ok(Step::Again) };
        // Step 9. Read after the swap of the head: a writer stores its to-do before its CAS.
        if self.lock.has_todo()? {
            self.lock.hand_to_inflight(sealed)?;
            return Ok(Step::Again);
        }
        self.publish(store, sealed, None, &replay, false).await
    }

    /// Steps 4 to 10.
    async fn catch_up(&mut self, store: &Store, need: Need) -> Result<Step, CopyError> {
        let source = self.source()?;
        let reference = match settled_look(&source).await? {
            Ok(look) => look,
            Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
        };
        // A counter that is not our last transaction's is a foreign commit's, whatever else has changed: all of it, in one quiet look.
        let mut quiet = Some(reference.header.change_counter) != self.lock.last_cc();
        let need = if quiet && need != Need::All {
            self.lock.need_everything();
            Need::All
        } else {
            need
        };
        let Some(base) = self.base.as_mut() else { return Ok(Step::Again) };
        let caught = match catchup::read(&source, store, base, &need, quiet.then_some(reference)).await? {
            Ok(caught) => caught,
            Err(Blocked::Moving) if quiet => return Ok(Step::Again),
            Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
        };
        if !quiet {
            match self.see_clean(&need, &source, &reference).await? {
                Clean::Yes => {}
                Clean::Quiet => quiet = true,
                Clean::Again => return Ok(Step::Again),
                Clean::Blocked(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
            }
            // Step 7.
            if !self.counter_is_known(&source, &reference).await? {
                self.lock.need_everything();
                return Ok(Step::Again);
            }
        }
        // Step 8.
        let sealed = self.lock.seal()?;
        let Some(replay) = self.replay(sealed)? else { return Ok(Step::Again) };
        // Step 9.
        let still_quiet = || Ok::<_, CopyError>(source.look()?.is_ok_and(|look| look.same_state(&reference)));
        if self.lock.has_todo()? || (quiet && !still_quiet()?) {
            self.lock.hand_to_inflight(sealed)?;
            return Ok(Step::Again);
        }
        let settles = quiet.then_some(reference.epoch);
        let step = self.publish(store, sealed, Some(caught), &replay, quiet).await?;
        if let Some(epoch) = settles {
            self.lock.set_settled_epoch(epoch);
        }
        Ok(step)
    }

    /// Step 5: each needed dirty bit is seen clear once, or step 6: nobody will ever clear it.
    async fn see_clean(&mut self, need: &Need, source: &Source, reference: &Look) -> Result<Clean, CopyError> {
        let begun = Instant::now();
        let mut unseen: Option<Vec<u32>> = None;
        loop {
            let dirty = self.lock.dirty()?;
            let left: Vec<u32> = match unseen {
                None => dirty.iter().filter(|chunk| need.contains(*chunk)).collect(),
                Some(chunks) => chunks.into_iter().filter(|chunk| dirty.contains(*chunk)).collect(),
            };
            if left.is_empty() {
                return Ok(Clean::Yes);
            }
            unseen = Some(left);
            if begun.elapsed() > LEFTOVER_PATIENCE {
                match source.look()? {
                    Ok(look) if look.same_state(reference) && is_odd(look.epoch) => {
                        if dirty.iter().all(|chunk| need.contains(chunk)) {
                            return Ok(Clean::Quiet);
                        }
                        self.lock.add_inflight(&dirty);
                        return Ok(Clean::Again);
                    }
                    // Nobody writes and bits are left, but the file has moved since the first slice: read again.
                    Ok(look) if is_odd(look.epoch) => return Ok(Clean::Again),
                    Ok(_) | Err(Blocked::Writing) => {}
                    Err(blocked) => return Ok(Clean::Blocked(blocked)),
                }
            }
            if begun.elapsed() > DIRTY_PATIENCE {
                return Ok(Clean::Blocked(Blocked::Writing));
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    /// Step 7: the counter is the noted one, or that of our own last transaction.
    async fn counter_is_known(&self, source: &Source, reference: &Look) -> Result<bool, CopyError> {
        let begun = Instant::now();
        loop {
            if let Ok(look) = source.look()? {
                let counter = look.header.change_counter;
                if counter == reference.header.change_counter || Some(counter) == self.lock.last_cc() {
                    return Ok(true);
                }
            }
            // A writer of ours that has unlocked and not yet noted its counter looks like a stranger for an instant.
            if begun.elapsed() > LEFTOVER_PATIENCE {
                return Ok(false);
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    /// Step 11: nothing is pending by our own account; is that so?
    async fn idle(&mut self) -> Result<Step, CopyError> {
        let source = self.source()?;
        let begun = Instant::now();
        loop {
            let epoch = self.lock.epoch();
            let look = match source.look()? {
                Ok(look) => look,
                // Somebody writes: what is not committed yet is not pending.
                Err(Blocked::Writing) => return Ok(Step::Done(Outcome::Idle)),
                Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
            };
            if self.lock.head().len_bytes > 0 || self.lock.has_todo()? {
                return Ok(Step::Again);
            }
            if look.epoch != epoch {
                continue;
            }
            if !is_odd(epoch) {
                let published = self.base.as_ref().map(|base| base.manifest().source().change_counter);
                if Some(look.header.change_counter) != published {
                    self.lock.need_everything();
                    return Ok(Step::Again);
                }
                return Ok(Step::Done(Outcome::Idle));
            }
            if self.lock.settled_epoch() == epoch {
                return Ok(Step::Done(Outcome::Idle));
            }
            if begun.elapsed() > LEFTOVER_PATIENCE {
                // A writer died between its first write and the end of its append.
                self.lock.add_inflight(&self.lock.dirty()?);
                if self.inflight()?.is_none() {
                    self.lock.set_settled_epoch(epoch);
                }
                return Ok(Step::Again);
            }
            tokio::time::sleep(DIRTY_PAUSE).await;
        }
    }

    /// Step 10, in this order: publish, delete the generation, `inflight = 0`.
    async fn publish(
        &mut self,
        store: &Store,
        sealed: Sealed,
        caught: Option<CaughtUp>,
        replay: &Arc<Replay>,
        quiet: bool,
    ) -> Result<Step, CopyError> {
        let Some(base) = self.base.as_mut() else { return Ok(Step::Again) };
        let is_busy = self.published_at.is_some_and(|at| at.elapsed() < self.interval * BUSY_INTERVALS);
        let budget = if is_busy { PatchBudget::BUSY } else { PatchBudget::ORDINARY };
        let published = match snapshot::compose(store, base, caught, replay, quiet).await? {
            Some(next) => {
                let updated = base.next(store, &next, budget).await?;
                base.publish(store, updated).await?;
                self.published_at = Some(Instant::now());
                true
            }
            None => false,
        };
        self.lock.set_published(base.manifest().generation().0, base.manifest().source().change_counter);
        self.lock.delete(sealed)?;
        self.lock.clear_inflight()?;
        Ok(Step::Done(if published { Outcome::Published } else { Outcome::Idle }))
    }

    /// Indexes a sealed generation. `None`: it can't be used, so everything is to be read from the file; it is gone.
    fn replay(&mut self, sealed: Sealed) -> Result<Option<Arc<Replay>>, CopyError> {
        match self.lock.replay(sealed) {
            Ok(replay) => Ok(Some(Arc::new(replay))),
            Err(error) => {
                tracing::warn!(db = %self.db.path().display(), %error, "the change log can't be used: the whole database is compared");
                self.lock.need_everything();
                self.lock.delete(sealed)?;
                Ok(None)
            }
        }
    }

    /// What is in flight; `None` if nothing.
    fn inflight(&self) -> Result<Option<Need>, CopyError> {
        Ok(match self.lock.inflight()? {
            verneuil_spool::Need::All => Some(Need::All),
            verneuil_spool::Need::Chunks(set) if set.is_empty() => None,
            verneuil_spool::Need::Chunks(set) => Some(Need::Chunks(set.iter().collect())),
        })
    }

    /// The file that has the database's name now.
    fn source(&mut self) -> Result<Source, CopyError> {
        let path = self.db.path();
        let failed = CopyError::database(path);
        let id = FileId::of(&std::fs::metadata(path).map_err(&failed)?);
        if let Some(source) = self.source.as_ref().filter(|source| source.file.id() == id) {
            return Ok(source.clone());
        }
        let file = Arc::new(verneuil_dbfile::open(path, OFlag::O_RDONLY, 0).map_err(&failed)?);
        let source = Source { lock: self.lock.clone(), path: path.into(), file };
        self.source = Some(source.clone());
        Ok(source)
    }
}

/// Waits for a look at the file that a later write is sure to change.
async fn settled_look(source: &Source) -> Result<Result<Look, Blocked>, CopyError> {
    let begun = Instant::now();
    loop {
        let blocked = match source.look()? {
            Ok(look) if look.is_settled() => return Ok(Ok(look)),
            Ok(_) => Blocked::Moving,
            Err(Blocked::Writing) => Blocked::Writing,
            Err(blocked) => return Ok(Err(blocked)),
        };
        if begun.elapsed() > DIRTY_PATIENCE {
            return Ok(Err(blocked));
        }
        tokio::time::sleep(DIRTY_PAUSE).await;
    }
}

enum Clean {
    Yes,
    Quiet,
    Again,
    Blocked(Blocked),
}

fn is_odd(epoch: u64) -> bool {
    epoch % 2 == 1
}
