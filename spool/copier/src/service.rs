//! The copier as threads of the application: one task per database that this process opened, started by [`Copier::serve`], driven by commits.
//!
//! A task holds the database's copier lock only while something is pending, so that `verneuilctl flush` and other processes get their turn.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use verneuil_config::{CopierConfig, EXPLICIT_BURST, EXPLICIT_REQUESTS_PER_SECOND, TargetConfig};
use verneuil_spool::{Database, Spool};
use verneuil_store::{Pacer, Store, StoreError};

use crate::error::FlushError;
use crate::task::Task;

/// Databases of one process that publish at the same time. Each holds at most some 20 MiB while it does.
const PUBLISHING_MAX: usize = 16;
/// Threads that wait for the network.
const NETWORK_THREADS: usize = 2;
/// Threads that read, hash and compress.
const WORK_THREADS_MAX: usize = 4;

type FlushAnswer = Result<(), FlushError>;

/// Somebody waits for everything that is committed now to be in the store.
pub(crate) struct FlushRequest {
    pub(crate) answer: SyncSender<FlushAnswer>,
}

fn stopped() -> FlushError {
    FlushError::Stopped("its task has ended; try again".to_owned())
}

/// Ships what this process commits. Cheap until the first [`Copier::serve`], which starts its threads.
pub struct Copier {
    shared: Arc<Shared>,
    threads: OnceLock<Result<Threads, String>>,
}

struct Threads {
    handle: Handle,
    /// Dropped: the threads end, whatever they are doing. The spool is made for that.
    _stop: oneshot::Sender<()>,
}

/// What the tasks of one copier have in common.
pub(crate) struct Shared {
    pub(crate) config: CopierConfig,
    /// Where to, if not to the targets that are recorded with each database.
    targets: Vec<TargetConfig>,
    pub(crate) publishing: Semaphore,
    served: Mutex<HashMap<std::path::PathBuf, Served>>,
    stores: tokio::sync::Mutex<HashMap<String, Store>>,
    /// Spools that this copier has met.
    spools: Mutex<HashSet<Spool>>,
    explicit: Arc<Pacer>,
}

struct Served {
    database: Weak<Database>,
    wake: Arc<Notify>,
    requests: mpsc::UnboundedSender<FlushRequest>,
    /// The last attempt to publish failed.
    is_failing: Arc<AtomicBool>,
}

impl Copier {
    /// A copier that serves nothing yet. `targets` take the place of those that are recorded with each database, unless there are none.
    pub fn new(config: &CopierConfig, targets: &[TargetConfig]) -> Self {
        let shared = Shared {
            config: config.clone(),
            targets: targets.to_vec(),
            publishing: Semaphore::new(PUBLISHING_MAX),
            served: Mutex::default(),
            stores: tokio::sync::Mutex::default(),
            spools: Mutex::default(),
            explicit: Arc::new(Pacer::new(EXPLICIT_REQUESTS_PER_SECOND, EXPLICIT_BURST)),
        };
        Self {
            shared: Arc::new(shared),
            threads: OnceLock::new(),
        }
    }

    /// Ships what is and will be committed to `db`, until the application has closed it and all of it is in the store.
    ///
    /// Call it for every connection that is opened. A database without targets is left alone.
    ///
    /// # Errors
    /// When the copier's threads can't be started; what is committed stays in the spool.
    pub fn serve(&self, db: &Arc<Database>) -> Result<(), FlushError> {
        if self.shared.targets(db).is_empty() {
            return Ok(());
        }
        let threads = self.threads()?;
        let mut served = self.shared.served();
        // A task that panicked must not be the last one.
        if served
            .get(db.path())
            .is_some_and(|known| known.requests.is_closed())
        {
            served.remove(db.path());
        }
        let known = served.get_mut(db.path());
        let wake = match &known {
            Some(known) => known.wake.clone(),
            None => Arc::new(Notify::new()),
        };
        let waker = wake.clone();
        db.set_waker(Arc::new(move || waker.notify_one()));
        if let Some(known) = known {
            known.database = Arc::downgrade(db);
        } else {
            let (requests, inbox) = mpsc::unbounded_channel();
            let task = Task::new(self.shared.clone(), db, wake.clone());
            served.insert(
                db.path().to_owned(),
                Served {
                    database: Arc::downgrade(db),
                    wake: wake.clone(),
                    requests,
                    is_failing: task.is_failing(),
                },
            );
            threads.handle.spawn(task.run(inbox));
        }
        // What was committed before the waker was there.
        wake.notify_one();
        Ok(())
    }

    /// Uploads all that is committed to `db` now, and waits for it. Uses the limit for explicit work, not the background's.
    ///
    /// # Errors
    /// Says what is left and why. What is committed stays in the spool and is tried again.
    pub fn flush(&self, db: &Arc<Database>) -> Result<(), FlushError> {
        self.request(db)?.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// The same, waiting for at most so long.
    ///
    /// # Errors
    /// As for [`Copier::flush`], and that the time is over; the upload goes on then.
    pub fn flush_within(&self, db: &Arc<Database>, limit: Duration) -> Result<(), FlushError> {
        match self.request(db)?.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(FlushError::TimedOut {
                limit_ms: limit.as_millis(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    /// The end of the process: waits until all that is committed is in the store, but not longer than this, and not for databases whose last
    /// attempt failed.
    pub fn drain(&self, limit: Duration) {
        if limit.is_zero() {
            return;
        }
        let until = Instant::now() + limit;
        let replies: Vec<Receiver<_>> = self
            .shared
            .served()
            .values()
            .filter(|served| !served.is_failing.load(SeqCst))
            .filter_map(|served| {
                let (answer, reply) = sync_channel(1);
                served.requests.send(FlushRequest { answer }).ok()?;
                Some(reply)
            })
            .collect();
        for reply in replies {
            // What does not arrive stays in the spool, and whoever opens the database next uploads it.
            drop(reply.recv_timeout(until.saturating_duration_since(Instant::now())));
        }
    }

    fn request(&self, db: &Arc<Database>) -> Result<Receiver<FlushAnswer>, FlushError> {
        if self.shared.targets(db).is_empty() {
            return Err(FlushError::Unreplicated(
                "no replication target is configured".to_owned(),
            ));
        }
        self.serve(db)?;
        let (answer, reply) = sync_channel(1);
        if let Some(served) = self.shared.served().get(db.path()) {
            // A task that has just ended drops the request: the reply says so.
            drop(served.requests.send(FlushRequest { answer }));
        }
        Ok(reply)
    }

    fn threads(&self) -> Result<&Threads, FlushError> {
        self.threads
            .get_or_init(start_threads)
            .as_ref()
            .map_err(|error| FlushError::Stopped(error.clone()))
    }
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, HashMap<std::path::PathBuf, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database of `path`, if the application has it open.
    pub(crate) fn open_database(&self, path: &std::path::Path) -> Option<Arc<Database>> {
        self.served().get(path)?.database.upgrade()
    }

    /// Ends the service of `path`, unless the application has opened it again.
    pub(crate) fn leave(&self, path: &std::path::Path) -> bool {
        let mut served = self.served();
        let is_closed = served
            .get(path)
            .is_none_or(|entry| entry.database.strong_count() == 0);
        if is_closed {
            served.remove(path);
        }
        is_closed
    }

    /// The store of `target`: under the background's limit, or the one for explicit work.
    pub(crate) async fn store(
        &self,
        target: &TargetConfig,
        is_explicit: bool,
    ) -> Result<Store, StoreError> {
        let name = format!("{target:?}");
        let mut stores = self.stores.lock().await;
        let store = match stores.get(&name) {
            Some(store) => store.clone(),
            None => {
                let pacer = Pacer::new(self.config.requests_per_second, self.config.burst);
                let store = Store::open(target, Arc::new(pacer)).await?;
                stores.insert(name, store.clone());
                store
            }
        };
        Ok(if is_explicit {
            store.with_pacer(self.explicit.clone())
        } else {
            store
        })
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

/// Starts the runtime on a thread of its own. All its threads block every signal: those are the application's.
fn start_threads() -> Result<Threads, String> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, start) = sync_channel(1);
    let body = move || {
        // A thread that can't block signals must not run beside somebody else's handlers.
        let runtime = SigSet::all()
            .thread_block()
            .map_err(std::io::Error::from)
            .and_then(|()| {
                Builder::new_multi_thread()
                    .worker_threads(NETWORK_THREADS)
                    .max_blocking_threads(WORK_THREADS_MAX)
                    .thread_name("verneuil-copier")
                    .enable_all()
                    .build()
            });
        match runtime {
            Ok(runtime) => {
                drop(started.send(Ok(runtime.handle().clone())));
                // Ends when the copier is dropped.
                drop(runtime.block_on(stopped));
                runtime.shutdown_background();
            }
            Err(error) => drop(started.send(Err(error.to_string()))),
        }
    };
    std::thread::Builder::new()
        .name("verneuil-copier".to_owned())
        .spawn(body)
        .map_err(|error| error.to_string())?;
    let handle = start
        .recv()
        .unwrap_or_else(|_| Err("its thread ended".to_owned()))?;
    Ok(Threads {
        handle,
        _stop: stop,
    })
}
