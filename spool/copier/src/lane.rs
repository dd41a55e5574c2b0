//! One database on its way to one target: waits for commits and requests, paces manifests, backs off; `service` starts it, `pass` does the work.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use verneuil_dbfile::occupy_standard_streams;
use verneuil_format::Identity;
use verneuil_spool::{Database, Ledger, Spool, TargetId};

use crate::destination::{Destination, Turn};
use crate::error::{Blocked, CopyError, FlushError};
use crate::flush;
use crate::pass::{Outcome, Parked, Pass};
use crate::service::{FlushRequest, LedgerSlot, Mood, Shared};

/// How often a database that the application has open is looked at although nobody said that something happened: leftovers of dead writers,
/// commits of other processes and of other VFSes. Local work only.
const POLL_PERIOD: Duration = Duration::from_secs(5);
/// First pause after a failure; doubled up to [`BACKOFF_MAX`], with jitter.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause after failures: what a store that comes back may have to wait for.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a lane that panicked does nothing.
const PANIC_PAUSE: Duration = Duration::from_secs(5);
/// How long a flush waits for a writer to end its transaction. Whoever asks from within one would wait for himself.
const FLUSH_BLOCKED_PATIENCE: Duration = Duration::from_secs(10);
/// Pause when a writer or another copier is in the way.
const BLOCKED_PAUSE: Duration = Duration::from_millis(250);

/// What a try has come to.
pub(crate) enum Tried {
    Outcome(Outcome),
    /// Another copier holds the lock.
    Elsewhere,
    Failed(CopyError),
}

pub(crate) struct Lane {
    shared: Arc<Shared>,
    pub(crate) destination: Arc<Destination>,
    id: TargetId,
    spool: Spool,
    path: PathBuf,
    ledger: Arc<LedgerSlot>,
    /// Kept open, and with it the lock, while its records can't be written (a full disk).
    stuck: Option<Arc<Ledger>>,
    wake: Arc<Notify>,
    mood: Arc<Mood>,
    parked: Option<Parked>,
    failures: u32,
    /// The last failure that was logged: the same one is not logged again and again.
    complaint: Option<String>,
    has_succeeded: bool,
}

impl Lane {
    pub(crate) fn new(
        shared: Arc<Shared>,
        destination: Arc<Destination>,
        id: TargetId,
        db: &Database,
        ledger: Arc<LedgerSlot>,
        (wake, mood): (Arc<Notify>, Arc<Mood>),
    ) -> Self {
        Self {
            shared,
            destination,
            id,
            spool: db.spool().clone(),
            path: db.path().to_owned(),
            ledger,
            stuck: None,
            wake,
            mood,
            parked: None,
            failures: 0,
            complaint: None,
            has_succeeded: false,
        }
    }

    /// Serves the database until the application has closed it and nothing is pending.
    ///
    /// A panic ends a turn and not the lane. Whoever waits for a flush then is told that the task has ended.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<FlushRequest>) {
        while let Err(panic) = AssertUnwindSafe(self.serve(&mut inbox))
            .catch_unwind()
            .await
        {
            // The logger may be what panics.
            drop(catch_unwind(AssertUnwindSafe(|| {
                self.begin_anew(panic.as_ref())
            })));
            sleep(PANIC_PAUSE).await;
            self.wake.notify_one();
        }
    }

    /// After a panic (a bug, or a system that refuses threads), which is as good as `kill -9` of this lane alone: what it knew is in the spool.
    fn begin_anew(&mut self, panic: &(dyn Any + Send)) {
        (self.parked, self.stuck, self.has_succeeded) = (None, None, false);
        self.mood.set(false);
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let error = format!(
            "the copier panicked and begins anew: {}",
            said.unwrap_or("it did not say why")
        );
        let db = self.shared.open_database(&self.path);
        if let Some(Ok(Some(ledger))) = db.map(|db| self.ledger.enter(&db)) {
            // For the status; the log has it anyway.
            drop(ledger.note_error(self.id, Some(&error)));
        }
        tracing::error!(db = %self.path.display(), target = %self.destination.name, %error);
    }

    async fn serve(&mut self, inbox: &mut mpsc::UnboundedReceiver<FlushRequest>) {
        let mut next_try = Instant::now() + POLL_PERIOD;
        if self.shared.is_first_of(&self.spool) {
            let spool = self.spool.clone();
            tokio::task::spawn_blocking(move || spool.remove_other_boots());
        }
        loop {
            // Woken by a commit, a request, or the clock.
            let request = tokio::select! {
                biased;
                request = inbox.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                // While the store is away, the clock decides: a commit is no reason to ask it again.
                () = self.wake.notified(), if self.failures == 0 => None,
                () = sleep_until(next_try) => None,
            };
            let request = match request {
                Some(request) => Some(request),
                None => self.hold_back(inbox).await,
            };
            // Its turn first, then the database: what waits for its turn holds no descriptor, however many the application has closed meanwhile.
            let destination = self.destination.clone();
            let (request, turn) = match request {
                Some(request) => (Some(request), destination.turn(true).await),
                None => tokio::select! {
                    biased;
                    request = inbox.recv() => match request {
                        Some(request) => (Some(request), destination.turn(true).await),
                        None => return,
                    },
                    turn = destination.turn(false) => (None, turn),
                },
            };
            let db = match self.shared.open_database(&self.path) {
                Some(db) => db,
                // The application has closed it; what it left is still to be shipped.
                None => match Database::open_left(&self.spool, &self.path) {
                    Ok(Some(db)) => db,
                    left => {
                        if let Err(error) = left {
                            tracing::warn!(db = %self.path.display(), %error, "what was left is not shipped before it is opened again");
                        }
                        if self.shared.leave(&self.path, self.id) {
                            return;
                        }
                        continue;
                    }
                },
            };
            // A host that becomes a daemon may have closed its standard streams meanwhile: our connections must not take their place.
            occupy_standard_streams();
            let tried = match request {
                Some(request) => self.flush(&db, &request, turn).await,
                None => self.attempt(&db, false, turn).await,
            };
            drop(db);
            next_try = Instant::now() + self.pause_after(&tried);
            if matches!(tried, Tried::Outcome(Outcome::Published)) {
                // There may be more; the interval holds it back.
                self.wake.notify_one();
            } else if (matches!(tried, Tried::Outcome(Outcome::Idle)) || is_gone(&tried))
                && self.shared.leave(&self.path, self.id)
            {
                return;
            }
        }
    }

    /// The first commit after a pause goes out at once; otherwise waits until the interval is over, unless somebody asks for a flush.
    async fn hold_back(
        &self,
        inbox: &mut mpsc::UnboundedReceiver<FlushRequest>,
    ) -> Option<FlushRequest> {
        let published_at = self.parked.as_ref().and_then(Parked::published_at)?;
        let due = Instant::from_std(published_at) + self.shared.interval();
        timeout_at(due, inbox.recv()).await.ok().flatten()
    }

    fn pause_after(&mut self, tried: &Tried) -> Duration {
        match tried {
            Tried::Outcome(Outcome::Blocked(Blocked::Writing | Blocked::Moving))
            | Tried::Elsewhere => BLOCKED_PAUSE,
            Tried::Outcome(_) => {
                self.failures = 0;
                POLL_PERIOD
            }
            Tried::Failed(_) => {
                self.failures = self.failures.saturating_add(1);
                let limit = BACKOFF_FIRST
                    .saturating_mul(1 << (self.failures - 1).min(8))
                    .min(BACKOFF_MAX);
                // Half of it at least, so that a store that is away is not hammered.
                limit / 2 + limit.mul_f64(fastrand::f64() / 2.0)
            }
        }
    }

    /// One turn: takes the copier's lock (or joins the lanes that have it), advances as far as possible, leaves the lock.
    pub(crate) async fn attempt(
        &mut self,
        db: &Arc<Database>,
        is_explicit: bool,
        _turn: Turn<'_>,
    ) -> Tried {
        let destination = self.destination.clone();
        // Of a control page that was lost, nothing is worth keeping, least of all the lock.
        drop(self.stuck.take_if(|ledger| !ledger.lock().is_current()));
        let ledger = match self.ledger.enter(db) {
            Ok(Some(ledger)) => ledger,
            Ok(None) => return Tried::Elsewhere,
            Err(error) => return self.failed(error.into()),
        };
        let identity = identity(db, ledger.lock().instance_id());
        let before = ledger.lock().head().generation;
        let pass = Pass::new(
            db.clone(),
            ledger.clone(),
            (self.id, &destination.name),
            identity,
            self.shared.interval(),
            self.parked.take(),
        );
        let check = self.shared.self_check.as_ref();
        let known = check.map(|check| check.known(&self.path));
        let mut pass = pass.checked(known, &destination.name);
        let result = match destination.store(is_explicit).await {
            Ok(store) => pass.advance(&store).await,
            Err(error) => Err(error.into()),
        };
        if ledger.lock().head().generation != before {
            self.shared.wake_others(&self.path, self.id);
        }
        let tried = match result {
            Ok(outcome) => {
                if self.complaint.take().is_some() || !self.has_succeeded {
                    // Also one that a dead copier has left.
                    pass.note_error(None);
                    self.has_succeeded = true;
                }
                Tried::Outcome(outcome)
            }
            Err(error) => {
                pass.note_error(Some(&error.to_string()));
                self.failed(error)
            }
        };
        self.mood.set(!matches!(tried, Tried::Failed(_)));
        self.parked = Some(pass.park());
        // What could not be written down is remembered here, or the next look would begin with everything.
        self.stuck = (!ledger.get_unstuck() && ledger.lock().is_current()).then_some(ledger);
        tried
    }

    fn failed(&mut self, error: CopyError) -> Tried {
        let text = error.to_string();
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!(db = %self.path.display(), target = %self.destination.name, error = %text, "not published; trying again");
            self.complaint = Some(text);
        }
        Tried::Failed(error)
    }

    /// Until nothing is pending. One publication alone doesn't say so: a dead writer's leftovers and foreign commits are seen when the log is
    /// empty. A second one does, for whoever has committed in between has looked for both before it began to write.
    pub(crate) async fn flush(
        &mut self,
        db: &Arc<Database>,
        request: &FlushRequest,
        turn: Turn<'_>,
    ) -> Tried {
        let deadline = Instant::now() + FLUSH_BLOCKED_PATIENCE;
        let destination = self.destination.clone();
        let (mut published, mut first) = (0, Some(turn));
        loop {
            let turn = match first.take() {
                Some(turn) => turn,
                None => destination.turn(true).await,
            };
            let tried = self.attempt(db, true, turn).await;
            let answer = match &tried {
                Tried::Outcome(Outcome::Published) if published == 0 => {
                    published += 1;
                    continue;
                }
                Tried::Outcome(Outcome::Idle | Outcome::Published) => Ok(()),
                Tried::Outcome(Outcome::Blocked(Blocked::Writing | Blocked::Moving))
                    if Instant::now() < deadline =>
                {
                    sleep(BLOCKED_PAUSE).await;
                    continue;
                }
                Tried::Outcome(Outcome::Blocked(blocked)) => Err(FlushError::Blocked(*blocked)),
                Tried::Elsewhere => match (
                    flush::wait_for_other_copier(db, self.id).await,
                    db.trouble(),
                ) {
                    (Ok(flush::Other::Published), _) => Ok(()),
                    // Nobody can have the lock: there is no spool.
                    (Ok(flush::Other::Left), Some(trouble)) => {
                        Err(FlushError::Unreplicated(trouble))
                    }
                    // It has left the lock with something pending: it is ours now.
                    (Ok(flush::Other::Left), None) => continue,
                    (Err(error), _) => Err(error),
                },
                Tried::Failed(error) => Err(error.into()),
            };
            // Whoever asked may have gone.
            drop(request.answer.send(answer));
            return tried;
        }
    }
}

/// Whether there is nothing to copy from any more. What was in the log has been published by then: that needs no file.
fn is_gone(tried: &Tried) -> bool {
    matches!(tried, Tried::Failed(CopyError::Database { source, .. })
        if source.kind() == std::io::ErrorKind::NotFound)
}

/// Who the manifests of `db` are by.
pub(crate) fn identity(db: &Database, instance: [u8; 16]) -> Identity {
    use std::os::unix::ffi::OsStrExt;
    Identity {
        software_version: concat!("verneuil ", env!("CARGO_PKG_VERSION")).to_owned(),
        host: db.info().hostname.clone(),
        path: db.path().as_os_str().as_bytes().to_vec(),
        instance,
    }
}
