//! One target of this process: its threads, its connections, its limits. Made by `service`, used by every `lane` that goes there.
//!
//! Nothing is shared between two destinations, not even a thread: one that hangs in a name lookup or on a dead network file system
//! delays nobody else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit, oneshot};
use verneuil_config::{CopierConfig, EXPLICIT_BURST, EXPLICIT_REQUESTS_PER_SECOND, TargetConfig};
use verneuil_dbfile::fork::Delicate;
use verneuil_dbfile::occupy_standard_streams;
use verneuil_store::{Pacer, Store, StoreError};

/// Databases of one process that publish to one target at the same time. Each holds at most some 20 MiB while it does.
const PUBLISHING_MAX: usize = 16;
/// Of these, how many may be at the background's pace: whoever asks for a flush finds a place, however many databases wait at that pace.
const BACKGROUND_MAX: usize = 12;
/// Threads that read, hash and compress.
const WORK_THREADS_MAX: usize = 4;
/// How long such a thread waits for more work: for ever. As long as there is one, work waits for it when the system refuses another thread; without
/// any it would be lost.
const WORK_THREAD_IDLE: Duration = Duration::from_secs(u32::MAX as u64);

/// A store, and what this process spends on it.
pub(crate) struct Destination {
    pub(crate) target: TargetConfig,
    /// The store in a few words.
    pub(crate) name: String,
    pub(crate) handle: Handle,
    publishing: Semaphore,
    background_turns: Semaphore,
    store: OnceCell<Store>,
    background: Arc<Pacer>,
    explicit: Arc<Pacer>,
}

/// Keeps a destination's threads; dropped, they end, whatever they are doing. The spool is made for that.
pub(crate) struct Threads(#[allow(dead_code)] oneshot::Sender<()>);

/// The right to publish now, one of [`PUBLISHING_MAX`].
pub(crate) struct Turn<'a> {
    _permits: [Option<SemaphorePermit<'a>>; 2],
}

impl Destination {
    /// Starts the threads; sends no request.
    ///
    /// # Errors
    /// When they can't be started.
    pub(crate) fn start(
        target: &TargetConfig,
        config: &CopierConfig,
    ) -> Result<(Self, Threads), String> {
        // What the runtime opens must not become the host's standard output.
        occupy_standard_streams();
        let (handle, threads) = start_threads(target)?;
        // A host that becomes a daemon closes its standard streams at any time, and each request may open a connection.
        let pacer = |rate, burst| Arc::new(Pacer::new(rate, burst).with(occupy_standard_streams));
        let destination = Self {
            target: target.clone(),
            name: target.describe(),
            handle,
            publishing: Semaphore::new(PUBLISHING_MAX),
            background_turns: Semaphore::new(BACKGROUND_MAX),
            store: OnceCell::new(),
            background: pacer(config.requests_per_second, config.burst),
            explicit: pacer(EXPLICIT_REQUESTS_PER_SECOND, EXPLICIT_BURST),
        };
        Ok((destination, threads))
    }

    /// Waits until it is somebody's turn to publish, at the background's pace or for a flush.
    pub(crate) async fn turn(&self, is_explicit: bool) -> Turn<'_> {
        // Nobody closes them, so that `None` never comes.
        let background = if is_explicit {
            None
        } else {
            self.background_turns.acquire().await.ok()
        };
        let publishing = self.publishing.acquire().await.ok();
        Turn {
            _permits: [background, publishing],
        }
    }

    /// The store, under the background's limit or the one for explicit work.
    pub(crate) async fn store(&self, is_explicit: bool) -> Result<Store, StoreError> {
        let open = || Store::open(&self.target, self.background.clone());
        let store = self.store.get_or_try_init(open).await?;
        Ok(if is_explicit {
            store.with_pacer(self.explicit.clone())
        } else {
            store.clone()
        })
    }
}

/// Starts a runtime on a thread of its own, which is also the one that waits for the network: a runtime that starts threads for that hangs
/// while it is made if it gets only some of them. All its threads block every signal: those are the application's.
fn start_threads(target: &TargetConfig) -> Result<(Handle, Threads), String> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, start) = sync_channel(1);
    let delicate = Delicate::begin();
    let target = target.clone();
    let body = move || {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(WORK_THREADS_MAX)
            .thread_keep_alive(WORK_THREAD_IDLE)
            .thread_name("verneuil-copier")
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                // The first thread for work. It panics if there can't be one.
                let first = catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(|| ())));
                if first.is_err() {
                    drop(started.send(Err("the system refuses a thread".to_owned())));
                    return;
                }
                drop(started.send(Ok(runtime.handle().clone())));
                runtime.block_on(Store::prepare_process(&target));
                drop(delicate);
                // Ends when the copier is dropped.
                drop(runtime.block_on(stopped));
                runtime.shutdown_background();
            }
            Err(error) => drop(started.send(Err(error.to_string()))),
        }
    };
    spawn_deaf(body).map_err(|error| error.to_string())?;
    let handle = start
        .recv()
        .unwrap_or_else(|_| Err("its thread ended".to_owned()))?;
    Ok((handle, Threads(stop)))
}

/// A thread that blocks every signal from its first instruction on, and so do those that it starts: signals and handlers are the
/// application's, and run on its threads.
fn spawn_deaf(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let spawned = std::thread::Builder::new()
        .name("verneuil-copier".to_owned())
        .spawn(body);
    // What arrived meanwhile is handled here, where it would have been.
    before.thread_set_mask()?;
    spawned.map(drop)
}
