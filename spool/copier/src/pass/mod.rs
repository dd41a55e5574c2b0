//! The copier's half of the protocol for one database and one target, steps 1 to 11; `service` and `flush` call [`Pass::advance`] until it says
//! that nothing is left. Dropping it at any `await` is as good as `kill -9`: the next pass repairs.

mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use verneuil_dbfile::FileId;
use verneuil_format::{Identity, PatchBudget};
use verneuil_spool::{CopierLock, Database, Replay, Sealed};
use verneuil_store::Store;

use crate::base::{self, Base};
use crate::catchup::{self, CaughtUp, Need, Source, Uploaded};
use crate::error::{Blocked, CopyError};
use crate::snapshot;
use watch::{Clean, settled_look};

/// How often one call of `advance` starts over before it reports that the database does not hold still.
const ROUNDS_MAX: u32 = 32;
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
    uploaded: Uploaded,
    interval: Duration,
    published_at: Option<Instant>,
    /// Yields between any two steps, so that a test can end the pass there.
    slow_motion: bool,
}

/// What one pass leaves to the next: saves the next one requests, if nobody else has published in between.
#[derive(Default)]
pub(crate) struct Parked {
    base: Option<Base>,
    uploaded: Uploaded,
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
    pub(crate) fn new(
        db: Arc<Database>,
        lock: CopierLock,
        identity: Identity,
        interval: Duration,
        parked: Option<Parked>,
    ) -> Self {
        let Parked {
            base,
            uploaded,
            published_at,
        } = parked.unwrap_or_default();
        let lock = Arc::new(lock);
        Self {
            db,
            lock,
            identity,
            base,
            source: None,
            uploaded,
            interval,
            published_at,
            slow_motion: false,
        }
    }

    /// The same pass, which can be ended between any two steps.
    #[cfg(test)]
    pub(crate) fn in_slow_motion(self) -> Self {
        Self {
            slow_motion: true,
            ..self
        }
    }

    /// Gives up the lock.
    pub(crate) fn park(self) -> Parked {
        Parked {
            base: self.base,
            uploaded: self.uploaded,
            published_at: self.published_at,
        }
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
                // At once, and not with the next try: a flush has only this one.
                Err(CopyError::Overtaken(_)) => self.base = None,
                Err(error) => {
                    if let (CopyError::BaseLost { .. }, Some(base)) = (&error, &mut self.base) {
                        base.start_afresh();
                        self.uploaded.clear();
                        self.lock.need_everything();
                    } else if self.base.as_ref().is_none_or(|base| !base.is_afresh()) {
                        // Whether a failed PUT took effect is known to the store only. But a base that starts afresh must not be
                        // replaced by the one that refers to what is lost; the store's condition sees to the rest.
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
        let place = base::place(store, &self.identity);
        let published = self.lock.published_generation(place);
        // Another copier may have published while nobody held the lock.
        self.base = self
            .base
            .take()
            .filter(|base| published == 0 || base.manifest().generation().0 == published);
        if self.base.is_none() {
            let (base, is_ours) = Base::load(store, self.identity.clone(), published).await?;
            self.base = Some(base);
            if !is_ours {
                self.lock.need_everything();
            }
        }
        // Nothing was published there from this control page, or something was published elsewhere since: log and in-flight set are not
        // what that manifest lacks.
        if published == 0 {
            self.lock.need_everything();
        }
        self.boundary().await;
        if let Some(step) = self.leftovers(store).await? {
            return Ok(step);
        }
        // Step 2.
        self.lock.claim()?;
        self.boundary().await;
        if let Some(need) = self.inflight()? {
            // Step 3, after the claim: a record may be older than what the catch-up will read.
            if self.lock.head().len_bytes > 0 {
                let sealed = self.lock.seal()?;
                self.boundary().await;
                self.lock.hand_to_inflight(sealed)?;
                self.boundary().await;
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
        self.boundary().await;
        let Some(replay) = self.replay(sealed)? else {
            return Ok(Step::Again);
        };
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
        let Some(base) = self.base.as_mut() else {
            return Ok(Step::Again);
        };
        let caught = match catchup::read(
            &source,
            store,
            base,
            &need,
            quiet.then_some(reference),
            &mut self.uploaded,
        )
        .await?
        {
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
        self.boundary().await;
        let Some(replay) = self.replay(sealed)? else {
            return Ok(Step::Again);
        };
        // Step 9.
        let still_quiet =
            || Ok::<_, CopyError>(source.look()?.is_ok_and(|look| look.same_state(&reference)));
        if self.lock.has_todo()? || (quiet && !still_quiet()?) {
            self.lock.hand_to_inflight(sealed)?;
            return Ok(Step::Again);
        }
        let settles = quiet.then_some(reference.epoch);
        let step = self
            .publish(store, sealed, Some(caught), &replay, quiet)
            .await?;
        if let Some(epoch) = settles {
            self.lock.set_settled_epoch(epoch);
        }
        Ok(step)
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
        let is_busy = self
            .published_at
            .is_some_and(|at| at.elapsed() < self.interval * BUSY_INTERVALS);
        let budget = if is_busy {
            PatchBudget::BUSY
        } else {
            PatchBudget::ORDINARY
        };
        let place = base::place(store, &self.identity);
        let source = self.source().ok();
        let local = move |chunk, len| source.as_ref()?.chunk(chunk, len);
        let Some(base) = self.base.as_mut() else {
            return Ok(Step::Again);
        };
        let next =
            snapshot::compose(store, base, caught, replay, quiet, &mut self.uploaded).await?;
        let is_news = next.is_some();
        if let Some(mut next) = next {
            let result = match base.next(store, &mut next, budget, local).await {
                Ok(updated) => base.publish(store, updated).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                // Uploaded all the same.
                self.uploaded = catchup::uploaded_of(next);
                return Err(error);
            }
            self.published_at = Some(Instant::now());
            self.boundary().await;
        }
        let Some(manifest) = self.base.as_ref().map(Base::manifest) else {
            return Ok(Step::Again);
        };
        self.lock.set_published(
            place,
            manifest.generation().0,
            manifest.source().change_counter,
        );
        self.boundary().await;
        self.lock.delete(sealed)?;
        self.boundary().await;
        self.lock.clear_inflight()?;
        Ok(Step::Done(if is_news {
            Outcome::Published
        } else {
            Outcome::Idle
        }))
    }

    async fn boundary(&self) {
        if self.slow_motion {
            tokio::task::yield_now().await;
        }
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
        let source = Source {
            lock: self.lock.clone(),
            path: path.into(),
            file,
        };
        self.source = Some(source.clone());
        Ok(source)
    }
}
