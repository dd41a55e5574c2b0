//! The copier's half of the protocol for one database and one target, steps 1 to 11; `service` and `flush` call [`Pass::advance`] until it says
//! that nothing is left. Dropping it at any `await` is as good as `kill -9`: the next pass repairs.

mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use verneuil_dbfile::FileId;
use verneuil_format::{Identity, PatchBudget};
use verneuil_spool::{Database, Ledger, Published, Replays, SpoolError, TargetId};
use verneuil_store::Store;

use crate::base::Base;
use crate::catchup::{self, CaughtUp, Need, Source, Uploaded};
use crate::error::{Blocked, CopyError};
use crate::look::Look;
use crate::selfcheck::Known;
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

/// One database, one target, and the copier's ledger of the database.
pub(crate) struct Pass {
    db: Arc<Database>,
    ledger: Arc<Ledger>,
    target: TargetId,
    identity: Identity,
    /// The last manifest; `None`: to be loaded.
    base: Option<Base>,
    source: Option<Source>,
    uploaded: Uploaded,
    interval: Duration,
    published_at: Option<Instant>,
    /// The record could not be written last time: said once, and not at every publication.
    is_record_stuck: bool,
    /// The test mode: what transactions have left, and the target's name.
    checked: Option<(Arc<Known>, String)>,
    /// Yields between any two steps, so that a test can end the pass there.
    slow_motion: bool,
}

/// What one pass leaves to the next: saves the next one requests, if nobody else has published in between.
#[derive(Default)]
pub(crate) struct Parked {
    base: Option<Base>,
    uploaded: Uploaded,
    published_at: Option<Instant>,
    is_record_stuck: bool,
}

impl Parked {
    /// When the last manifest was published.
    pub(crate) fn published_at(&self) -> Option<Instant> {
        self.published_at
    }
}

impl Pass {
    /// A pass for `db` and one of its targets, called `name`. Requests nothing yet.
    pub(crate) fn new(
        db: Arc<Database>,
        ledger: Arc<Ledger>,
        (target, name): (TargetId, &str),
        identity: Identity,
        interval: Duration,
        parked: Option<Parked>,
    ) -> Self {
        let Parked {
            base,
            uploaded,
            published_at,
            is_record_stuck,
        } = parked.unwrap_or_default();
        ledger.enter(target, name);
        Self {
            db,
            ledger,
            target,
            identity,
            base,
            source: None,
            uploaded,
            interval,
            published_at,
            is_record_stuck,
            checked: None,
            slow_motion: false,
        }
    }

    /// The same pass, which compares what it publishes.
    pub(crate) fn checked(self, known: Option<Arc<Known>>, target: &str) -> Self {
        Self {
            checked: known.map(|known| (known, target.to_owned())),
            ..self
        }
    }

    /// Tells the test mode that the file was changed behind our back.
    fn has_stranger(&self) {
        if let Some((known, _)) = &self.checked {
            known.has_stranger();
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

    /// Gives up its part of the lock.
    pub(crate) fn park(self) -> Parked {
        Parked {
            base: self.base,
            uploaded: self.uploaded,
            published_at: self.published_at,
            is_record_stuck: self.is_record_stuck,
        }
    }

    /// Writes down for others what went wrong, or that all is well again.
    pub(crate) fn note_error(&self, text: Option<&str>) {
        if let Err(error) = self.ledger.note_error(self.target, text) {
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
                // At once, and not with the next try: a flush has only this one. A store that has lost its manifest may have lost what was uploaded
                // for the next one, too.
                Err(CopyError::Overtaken(_)) => {
                    self.base = None;
                    self.uploaded.clear();
                }
                Err(error) => {
                    if let (CopyError::BaseLost { .. }, Some(base)) = (&error, &mut self.base) {
                        base.start_afresh();
                        self.uploaded.clear();
                        self.ledger.distrust(self.target);
                    } else if let CopyError::Database { .. } = error {
                        // Says nothing about the store: a database that is gone must not cost a request for each look.
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
        // What the last round had begun and not published.
        self.ledger.give_back(self.target);
        // Step 1. Loaded before anything is drained: catch-up compares with it, and without one everything is needed.
        let published = self.ledger.published(self.target).generation;
        // Another copier may have published while nobody held the lock.
        self.base = self
            .base
            .take()
            .filter(|base| published == 0 || base.manifest().generation().0 == published);
        if self.base.is_none() {
            let (base, is_ours) = Base::load(store, self.identity.clone(), published).await?;
            self.base = Some(base);
            if !is_ours {
                self.ledger.need_everything(self.target);
            }
        }
        // Found out by another copier, or before this one was started.
        if let Some(base) = self.base.as_mut().filter(|base| !base.is_afresh())
            && self.ledger.is_distrusted(self.target)
        {
            base.start_afresh();
            self.uploaded.clear();
        }
        self.boundary().await;
        if self.ledger.needs_reading(self.target)? {
            return self.catch_up(store).await;
        }
        self.boundary().await;
        if self.ledger.has_news(self.target) {
            // Steps 8 to 10 with nothing to catch up.
            return match self.ledger.take(self.target, false)? {
                Some(replays) => self.publish(store, None, replays, None).await,
                None => Ok(Step::Again),
            };
        }
        self.idle().await
    }

    /// Steps 3 to 10.
    async fn catch_up(&mut self, store: &Store) -> Result<Step, CopyError> {
        let mut more = self.ledger.begin_catch_up(self.target)?;
        // Only now: what was claimed may be about another file that has the name by then.
        let source = self.source()?;
        self.boundary().await;
        let mut sofar: Option<(CaughtUp, Look)> = None;
        for _ in 0..ROUNDS_MAX {
            let look = match settled_look(&source).await? {
                Ok(look) => look,
                Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
            };
            // A counter that is not our last transaction's is a foreign commit's, whatever else has changed: all of it, in one quiet look.
            let mut quiet = Some(look.header.change_counter) != self.ledger.lock().last_cc();
            if quiet {
                self.has_stranger();
            }
            if quiet && more != verneuil_spool::Need::All {
                self.ledger.read_everything(self.target);
                more = verneuil_spool::Need::All;
            }
            let need = match &more {
                verneuil_spool::Need::All => Need::All,
                verneuil_spool::Need::Chunks(set) => Need::Chunks(set.iter().collect()),
            };
            let Some(base) = self.base.as_mut() else {
                return Ok(Step::Again);
            };
            let unmoved = quiet.then_some(look);
            let caught =
                match catchup::read(&source, store, base, &need, unmoved, &mut self.uploaded)
                    .await?
                {
                    Ok(caught) => caught,
                    Err(Blocked::Moving) if quiet => return Ok(Step::Again),
                    Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
                };
            // All that was read in quiet mode was read under one look. Otherwise the very first one is what counter and quiet are held against: a later
            // one may be quiet in itself, while a record that was appended since is newer than what was read first.
            let (caught, reference) = match sofar.take() {
                Some((before, first)) if !quiet => (before.and(caught), first),
                _ => (caught, look),
            };
            if !quiet {
                match self.see_clean(&need, &source, &reference).await? {
                    Clean::Yes => {}
                    // Nothing has moved since before the first slice of all.
                    Clean::Quiet => quiet = true,
                    Clean::Again => return Ok(Step::Again),
                    Clean::Blocked(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
                }
            }
            // Step 7.
            if !quiet {
                match self.counter_is_known(&source, &reference).await? {
                    Ok(true) => {}
                    Ok(false) => {
                        self.ledger.need_everything(self.target);
                        return Ok(Step::Again);
                    }
                    Err(blocked) => return Ok(Step::Done(Outcome::Blocked(blocked))),
                }
            }
            // Steps 8 and 9.
            let Some(replays) = self.ledger.take(self.target, true)? else {
                if quiet {
                    return Ok(Step::Again);
                }
                more = self.ledger.go_on(self.target)?;
                if self.source()?.file.id() != source.file.id() {
                    // What was claimed now is about a new file, and what was read is not.
                    return Ok(Step::Again);
                }
                sofar = Some((caught, reference));
                continue;
            };
            self.boundary().await;
            if quiet && !source.look()?.is_ok_and(|look| look.same_state(&reference)) {
                return Ok(Step::Again);
            }
            let settles = quiet.then_some(reference.epoch);
            return self.publish(store, Some(caught), replays, settles).await;
        }
        Ok(Step::Again)
    }

    /// Step 10: publish, then write the records. `settles`: what was read in quiet mode overrides the log, and settles this epoch.
    async fn publish(
        &mut self,
        store: &Store,
        caught: Option<CaughtUp>,
        replays: Replays,
        settles: Option<u64>,
    ) -> Result<Step, CopyError> {
        if !self.ledger.lock().is_current() {
            return Err(SpoolError::replaced(self.db.path()).into());
        }
        let is_busy = self
            .published_at
            .is_some_and(|at| at.elapsed() < self.interval * BUSY_INTERVALS);
        let budget = if is_busy {
            PatchBudget::BUSY
        } else {
            PatchBudget::ORDINARY
        };
        let source = self.source().ok();
        let local = move |chunk, len| source.as_ref()?.chunk(chunk, len);
        let Some(base) = self.base.as_mut() else {
            return Ok(Step::Again);
        };
        let quiet = settles.is_some();
        let next =
            snapshot::compose(store, base, caught, replays, quiet, &mut self.uploaded).await?;
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
            if let (Some((known, target)), Some(base)) = (&self.checked, &mut self.base) {
                let (path, lock) = (self.db.path(), self.ledger.lock());
                known.check_published(path, target, store, base, lock).await;
            }
            self.boundary().await;
        }
        let Some(manifest) = self.base.as_ref().map(Base::manifest) else {
            return Ok(Step::Again);
        };
        let published = Published {
            generation: manifest.generation().0,
            change_counter: Some(manifest.source().change_counter),
        };
        let settled = self.ledger.settle(self.target, published, settles);
        if let (Err(error), false) = (&settled, self.is_record_stuck) {
            // It is published all the same; the next copier will compare more than it had to.
            tracing::warn!(db = %self.db.path().display(), %error, "cannot write down what was published");
        }
        self.is_record_stuck = settled.is_err();
        // Without news, it remains to be seen whether anything else is pending.
        Ok(if is_news {
            Step::Done(Outcome::Published)
        } else {
            Step::Again
        })
    }

    async fn boundary(&self) {
        #[cfg(test)]
        crate::tests::trial::point().await;
        if self.slow_motion {
            tokio::task::yield_now().await;
        }
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
            ledger: self.ledger.clone(),
            path: path.into(),
            file,
            bytes: self.db.lock_bytes(),
        };
        self.source = Some(source.clone());
        Ok(source)
    }
}
