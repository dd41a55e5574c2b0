//! The copier of a process: for each database that it serves one `lane` per target, started by [`Copier::serve`] and driven by commits.
//!
//! A lane holds the database's copier lock (as part of the ledger, which the lanes of one database share) only while something is pending, so that
//! `verneuilctl flush` and other processes get their turn.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use verneuil_config::{CopierConfig, TargetConfig};
use verneuil_spool::{Database, Ledger, Spool, SpoolError, TargetId};

use crate::base::target_id;
use crate::destination::{Destination, Threads};
use crate::error::FlushError;
use crate::lane::Lane;
use crate::selfcheck::SelfCheck;

/// Somebody waits for everything that is committed now to be in the store.
pub(crate) struct FlushRequest {
    pub(crate) answer: SyncSender<Result<(), FlushError>>,
}

/// Ships what is committed. Cheap until the first [`Copier::serve`], which starts its threads.
pub struct Copier {
    pub(crate) shared: Arc<Shared>,
    /// By the target's name; what could not be started is tried again.
    destinations: Mutex<HashMap<String, (Arc<Destination>, Threads)>>,
}

/// What the lanes of one copier have in common.
pub(crate) struct Shared {
    pub(crate) config: CopierConfig,
    /// Where to, if not to the targets that are recorded with each database.
    targets: Vec<TargetConfig>,
    served: Mutex<HashMap<PathBuf, Served>>,
    /// Spools that this copier has met.
    spools: Mutex<HashSet<Spool>>,
    /// The test mode.
    pub(crate) self_check: Option<SelfCheck>,
}

struct Served {
    database: Weak<Database>,
    ledger: Arc<LedgerSlot>,
    lanes: Vec<LaneEnd>,
}

/// This side of a lane.
#[derive(Clone)]
struct LaneEnd {
    id: TargetId,
    name: String,
    wake: Arc<Notify>,
    requests: mpsc::UnboundedSender<FlushRequest>,
    mood: Arc<Mood>,
}

/// How a lane's last attempt ended.
#[derive(Default)]
pub(crate) struct Mood(AtomicU8);

impl Mood {
    const WELL: u8 = 1;
    const FAILED: u8 = 2;

    pub(crate) fn set(&self, is_well: bool) {
        let mood = if is_well { Self::WELL } else { Self::FAILED };
        self.0.store(mood, Ordering::Relaxed);
    }

    /// `None` before the end of the first attempt.
    fn is_well(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            Self::WELL => Some(true),
            Self::FAILED => Some(false),
            _ => None,
        }
    }
}

/// The ledger of one database, while any lane uses it.
#[derive(Default)]
pub(crate) struct LedgerSlot(Mutex<Weak<Ledger>>);

impl LedgerSlot {
    fn is_open(&self) -> bool {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.strong_count() > 0
    }

    /// The ledger that another lane has open, or a new one; `None` when another process has it, or there is no spool.
    ///
    /// # Errors
    /// As [`Database::ledger`].
    pub(crate) fn enter(&self, db: &Database) -> Result<Option<Arc<Ledger>>, SpoolError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = slot.upgrade().filter(|ledger| ledger.lock().is_current()) {
            return Ok(Some(ledger));
        }
        let ledger = db.ledger()?.map(Arc::new);
        if let Some(ledger) = &ledger {
            *slot = Arc::downgrade(ledger);
        }
        Ok(ledger)
    }
}

impl Copier {
    /// A copier that serves nothing yet. `targets` take the place of those that are recorded with each database, unless there are none.
    pub fn new(config: &CopierConfig, targets: &[TargetConfig]) -> Self {
        Self::with(config, targets, None)
    }

    /// The same in the test mode that compares everything with what it publishes ([`Copier::check_transaction`]); what it has counted is appended to
    /// `report`, or logged.
    pub fn checked(
        config: &CopierConfig,
        targets: &[TargetConfig],
        report: Option<PathBuf>,
    ) -> Self {
        Self::with(config, targets, Some(SelfCheck::new(report)))
    }

    fn with(
        config: &CopierConfig,
        targets: &[TargetConfig],
        self_check: Option<SelfCheck>,
    ) -> Self {
        let shared = Shared {
            config: config.clone(),
            targets: targets.to_vec(),
            served: Mutex::default(),
            spools: Mutex::default(),
            self_check,
        };
        Self {
            shared: Arc::new(shared),
            destinations: Mutex::default(),
        }
    }

    /// Ships what is and will be committed to `db`, until the application has closed it and all of it is in every target.
    ///
    /// Call it for every connection that is opened. A database without targets is left alone.
    ///
    /// # Errors
    /// When a target's threads can't be started; what is committed stays in the spool.
    pub fn serve(&self, db: &Arc<Database>) -> Result<(), FlushError> {
        self.lanes(db).map(drop)
    }

    /// As [`Self::serve`]; the lanes.
    fn lanes(&self, db: &Arc<Database>) -> Result<Vec<LaneEnd>, FlushError> {
        if self.shared.self_check.is_some() {
            db.set_checked();
        }
        let targets = self.shared.targets(db);
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let destinations: Vec<_> = targets
            .iter()
            .map(|target| self.destination(target))
            .collect::<Result<_, _>>()?;
        let mut served = self.shared.served();
        let entry = served
            .entry(db.path().to_owned())
            .or_insert_with(|| Served {
                database: Weak::new(),
                ledger: Arc::default(),
                lanes: Vec::new(),
            });
        entry.database = Arc::downgrade(db);
        for destination in destinations {
            let id = target_id(&destination.target, db);
            if entry.lanes.iter().any(|lane| lane.id == id) {
                continue;
            }
            let (requests, inbox) = mpsc::unbounded_channel();
            let end = LaneEnd {
                id,
                name: destination.name.clone(),
                wake: Arc::default(),
                requests,
                mood: Arc::default(),
            };
            entry.lanes.push(end.clone());
            let lane = Lane::new(
                self.shared.clone(),
                destination.clone(),
                id,
                db,
                entry.ledger.clone(),
                (end.wake, end.mood),
            );
            destination.handle.spawn(lane.run(inbox));
        }
        let lanes = entry.lanes.clone();
        let wakes: Arc<[Arc<Notify>]> = lanes.iter().map(|lane| lane.wake.clone()).collect();
        let waker = wakes.clone();
        db.set_waker(Arc::new(move || {
            waker.iter().for_each(|wake| wake.notify_one())
        }));
        drop(served);
        // What was committed before the waker was there.
        wakes.iter().for_each(|wake| wake.notify_one());
        Ok(lanes)
    }

    pub(crate) fn destination(
        &self,
        target: &TargetConfig,
    ) -> Result<Arc<Destination>, FlushError> {
        let mut destinations = self
            .destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // By all that is configured: two targets of one name may differ in how they are reached.
        let key = format!("{target:?}");
        if let Some((destination, _)) = destinations.get(&key) {
            return Ok(destination.clone());
        }
        let (destination, threads) =
            Destination::start(target, &self.shared.config).map_err(FlushError::Stopped)?;
        let destination = Arc::new(destination);
        destinations.insert(key, (destination.clone(), threads));
        Ok(destination)
    }

    /// Uploads all that is committed to `db` now, and waits until every target has it, or for `limit`. Uses the limit of requests for explicit
    /// work, not the background's.
    ///
    /// # Errors
    /// Says which targets lack what and why. What is committed stays in the spool and is tried again.
    pub fn flush(&self, db: &Arc<Database>, limit: Option<Duration>) -> Result<(), FlushError> {
        let lanes = self.lanes(db)?;
        if lanes.is_empty() {
            return Err(FlushError::Unreplicated(
                "no replication target is configured".to_owned(),
            ));
        }
        Asked::of(lanes).answer(limit)
    }

    /// As [`Self::flush`] for each of them; all are asked before any is waited for.
    pub(crate) fn flush_all(
        &self,
        databases: &[Arc<Database>],
        limit: Option<Duration>,
    ) -> Vec<Result<(), FlushError>> {
        let begun = Instant::now();
        let asked: Vec<_> = databases
            .iter()
            .map(|db| match self.lanes(db)? {
                lanes if lanes.is_empty() => Err(FlushError::Unreplicated(
                    "no replication target is configured".to_owned(),
                )),
                lanes => Ok(Asked::of(lanes)),
            })
            .collect();
        asked
            .into_iter()
            .map(|asked| asked?.answer(limit.map(|limit| limit.saturating_sub(begun.elapsed()))))
            .collect()
    }

    pub(crate) fn self_check(&self) -> Option<&SelfCheck> {
        self.shared.self_check.as_ref()
    }

    pub(crate) fn targets(&self, db: &Database) -> Vec<TargetConfig> {
        self.shared.targets(db)
    }

    /// The ledger that the lanes of `db` share; one of the caller's own if there are none.
    pub(crate) fn ledger_slot(&self, db: &Database) -> Arc<LedgerSlot> {
        let served = self.shared.served();
        let entry = served.get(db.path());
        entry.map_or_else(Arc::default, |entry| Arc::clone(&entry.ledger))
    }

    /// How many lanes are open.
    #[cfg(test)]
    pub(crate) fn lanes_count(&self) -> usize {
        let served = self.shared.served();
        served.values().map(|served| served.lanes.len()).sum()
    }

    /// At the end of the process: uploads what is pending, for as long as `limit`, to those targets that answered last time.
    pub fn drain(&self, limit: Duration) {
        let ends: Vec<(Option<Arc<Database>>, Vec<LaneEnd>)> = self
            .shared
            .served()
            .values()
            .map(|served| (served.database.upgrade(), served.lanes.clone()))
            .collect();
        let has_answered = |db: &Option<Arc<Database>>, lane: &LaneEnd| {
            lane.mood.is_well().unwrap_or_else(|| {
                // Not one attempt yet: what an earlier process noted counts.
                db.as_ref()
                    .and_then(|db| db.progress().ok().flatten())
                    .and_then(|progress| progress.target(lane.id).cloned())
                    .is_none_or(|record| record.error.is_none())
            })
        };
        let lanes = ends.into_iter().flat_map(|(db, lanes)| {
            lanes
                .into_iter()
                .filter(move |lane| has_answered(&db, lane))
        });
        if let Err(error) = Asked::of(lanes.collect()).answer(Some(limit)) {
            tracing::debug!(%error, "left in the spool at the end of the process");
        }
    }
}

/// Lanes that were asked to flush, and their answers to come.
struct Asked(Vec<(String, Receiver<Result<(), FlushError>>)>);

impl Asked {
    fn of(lanes: Vec<LaneEnd>) -> Self {
        let ask = |lane: LaneEnd| {
            let (answer, reply) = sync_channel(1);
            // A lane that has just ended drops the request: the reply says so.
            drop(lane.requests.send(FlushRequest { answer }));
            (lane.name, reply)
        };
        Self(lanes.into_iter().map(ask).collect())
    }

    /// Waits for all of them, for at most `limit`.
    fn answer(self, limit: Option<Duration>) -> Result<(), FlushError> {
        let (begun, count) = (Instant::now(), self.0.len());
        let mut failed = Vec::new();
        for (name, reply) in self.0 {
            let answer = match limit {
                None => reply.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(limit) => reply.recv_timeout(limit.saturating_sub(begun.elapsed())),
            };
            let result = answer.unwrap_or_else(|error| {
                Err(match error {
                    RecvTimeoutError::Timeout => FlushError::TimedOut {
                        waited_ms: begun.elapsed().as_millis(),
                        last_error: None,
                    },
                    RecvTimeoutError::Disconnected => {
                        FlushError::Stopped("its task has ended; try again".to_owned())
                    }
                })
            });
            if let Err(error) = result {
                failed.push((name, error));
            }
        }
        FlushError::of_targets(failed, count)
    }
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, HashMap<PathBuf, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database of `path`, if the application has it open.
    pub(crate) fn open_database(&self, path: &Path) -> Option<Arc<Database>> {
        self.served().get(path)?.database.upgrade()
    }

    /// Something was sealed that the other lanes of the database have been offered.
    pub(crate) fn wake_others(&self, path: &Path, id: TargetId) {
        if let Some(served) = self.served().get(path) {
            let others = served.lanes.iter().filter(|lane| lane.id != id);
            others.for_each(|lane| lane.wake.notify_one());
        }
    }

    /// Ends a lane of `path`, unless the application has opened it again.
    pub(crate) fn leave(&self, path: &Path, id: TargetId) -> bool {
        let mut served = self.served();
        let Some(entry) = served.get_mut(path) else {
            return true;
        };
        // As long as another lane has the copier's lock, nobody else could serve this target.
        if entry.database.strong_count() > 0 || entry.ledger.is_open() {
            return false;
        }
        entry.lanes.retain(|lane| lane.id != id);
        if entry.lanes.is_empty() {
            served.remove(path);
        }
        true
    }

    /// Whether nobody has asked this of `spool` before.
    pub(crate) fn is_first_of(&self, spool: &Spool) -> bool {
        let mut spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        spools.insert(spool.clone())
    }

    /// Where `db` is replicated to.
    pub(crate) fn targets(&self, db: &Database) -> Vec<TargetConfig> {
        if self.targets.is_empty() {
            db.info().targets.clone()
        } else {
            self.targets.clone()
        }
    }

    /// Shortest time between two manifests of one database.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.config.min_manifest_interval_ms)
    }
}
