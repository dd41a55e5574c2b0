//! One database as one inode: `tree` makes it, `fs` forwards requests to it, it calls `source` and `notify`.
//!
//! | file | what happens there |
//! |---|---|
//! | `mod.rs` | the state, attributes |
//! | `handles.rs` | open, flush, release; who pins the snapshot without locks |
//! | `locking.rs` | lock requests: granted, queued, answered |
//! | `read.rs` | reads: from memory at once, else by a task |
//! | `refresh.rs` | looking at the store, preparing a newer snapshot |
//! | `advance.rs` | the move to it |

mod advance;
mod handles;
mod locking;
mod read;
mod refresh;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use self::handles::Handle;
pub use self::handles::OpenRequest;
use self::locking::Waiting;
use self::read::Miss;
use crate::fs::Reply;
use crate::header::HeaderHistory;
use crate::locks::LockTable;
use crate::notify::Notifications;
use crate::options::{
    DRAIN_PAUSE_MIN, LONG_TTL, Options, READS_IN_FLIGHT_MAX, REFRESHES_IN_FLIGHT_MAX, SHORT_TTL,
};
use crate::source::{Head, Source};
use crate::view::View;

/// What all inodes of a mount share.
pub struct Shared<S> {
    pub source: S,
    pub runtime: tokio::runtime::Handle,
    pub options: Options,
    pub notify: Notifications,
    /// The process of a thread: `open` tells the thread, locks tell the process.
    pub process_of: fn(u32) -> Option<u32>,
    reads: Arc<Semaphore>,
    refreshes: Semaphore,
}

impl<S> Shared<S> {
    pub fn new(
        source: S,
        runtime: tokio::runtime::Handle,
        options: Options,
        notify: Notifications,
    ) -> Self {
        Self {
            source,
            runtime,
            options,
            notify,
            process_of: handles::process_of,
            reads: Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX)),
            refreshes: Semaphore::new(REFRESHES_IN_FLIGHT_MAX),
        }
    }
}

/// Where a database is, in the store and in the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Inode of the directory.
    pub parent: u64,
    /// Name in it.
    pub name: Vec<u8>,
    /// Source host.
    pub host: String,
    /// Absolute path there.
    pub path: Vec<u8>,
}

/// One inode that serves a database.
pub struct LiveFile<S: Source> {
    pub ino: u64,
    place: Place,
    shared: Arc<Shared<S>>,
    /// New openers get another inode: this one has waited too long for its readers.
    retired: AtomicBool,
    state: Mutex<State<S::Snapshot>>,
    /// Makes the refresher look at the store now.
    wake: Notify,
    /// An advance ended.
    settled: Notify,
    /// Held while the store is asked.
    checking: tokio::sync::Mutex<()>,
}

struct State<N> {
    /// What is served; `None` until the first open.
    view: Option<Arc<View<N>>>,
    next_view: u64,
    header: HeaderHistory,
    /// The newest snapshot loaded, in `view`, in `ready`, or equal to one of them.
    newest: Option<Arc<N>>,
    /// A newer snapshot, prepared so that the advance needs nothing from the store.
    ready: Option<Ready<N>>,
    /// Since when some `ready` has waited for readers.
    blocked_since: Option<Instant>,
    /// The kernel is dropping pages; no SHARED lock is granted.
    advancing: bool,

    locks: LockTable,
    queue: Vec<Waiting>,
    /// No lock request waits for readers to drain before this time.
    drain_after: Option<Instant>,
    /// What is added to that after the next wait in vain.
    drain_pause: Duration,
    handles: HashMap<u64, Handle<N>>,
    /// Processes that have locked this inode.
    lockers: HashSet<u32>,
    misses: HashMap<u64, Miss>,
    next_miss: u64,

    /// A refresher runs.
    watched: bool,
    used_since_check: bool,
    last_used: Instant,
    check_started: Option<Instant>,
    check_running: bool,
    /// What the last check that succeeded found.
    exists: bool,
    /// The length that the kernel was told last.
    told_len: Option<u64>,
    /// Of a file that is not watched.
    head: Option<(Head, Instant)>,
}

/// A snapshot that an inode can move to without asking the store.
struct Ready<N> {
    snapshot: Arc<N>,
    /// What differs from the present view.
    changed: Vec<Range<u64>>,
    header: Vec<u8>,
    /// Offset and bytes of the last page, if the length differs from what the kernel may know.
    tail: Option<(u64, Vec<u8>)>,
}

impl<S: Source> LiveFile<S> {
    pub fn new(ino: u64, place: Place, shared: Arc<Shared<S>>) -> Self {
        let state = State {
            view: None,
            next_view: 1,
            header: HeaderHistory::default(),
            newest: None,
            ready: None,
            blocked_since: None,
            advancing: false,
            locks: LockTable::default(),
            queue: Vec::new(),
            drain_after: None,
            drain_pause: DRAIN_PAUSE_MIN,
            handles: HashMap::new(),
            lockers: HashSet::new(),
            misses: HashMap::new(),
            next_miss: 0,
            watched: false,
            used_since_check: false,
            last_used: Instant::now(),
            check_started: None,
            check_running: false,
            exists: true,
            told_len: None,
            head: None,
        };
        Self {
            ino,
            place,
            shared,
            retired: AtomicBool::new(false),
            state: Mutex::new(state),
            wake: Notify::new(),
            settled: Notify::new(),
            checking: tokio::sync::Mutex::new(()),
        }
    }

    /// True if new openers shall get another inode.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// True if the store is being watched on behalf of this inode, so that it need not be asked again to open it.
    pub fn is_watched(&self) -> bool {
        let state = self.lock();
        state.watched && state.exists && state.view.is_some()
    }

    /// Answers with length, time, and how long the kernel may keep them.
    pub fn head(self: &Arc<Self>, reply: Reply<(Head, Duration)>) {
        if let Some(known) = self.known_head() {
            return reply(Ok(known));
        }
        let file = self.clone();
        self.shared
            .runtime
            .spawn(async move { reply(file.fetch_head().await) });
    }

    fn known_head(&self) -> Option<(Head, Duration)> {
        let mut state = self.lock();
        let known = match (&state.view, state.head) {
            (Some(view), _) if state.watched => (view.head(), LONG_TTL),
            (_, Some((head, fetched))) if fetched.elapsed() < SHORT_TTL => (head, SHORT_TTL),
            _ => return None,
        };
        state.told_len = Some(known.0.len);
        Some(known)
    }

    async fn fetch_head(&self) -> Result<(Head, Duration), Errno> {
        let result = self
            .shared
            .source
            .head(&self.place.host, &self.place.path)
            .await;
        let mut state = self.lock();
        let head = match (&state.view, result) {
            // Opened meanwhile: the view is what is read.
            (Some(view), _) if state.watched => {
                let head = view.head();
                state.told_len = Some(head.len);
                return Ok((head, LONG_TTL));
            }
            (_, Ok(Some(head))) => head,
            (_, Ok(None)) => {
                self.shared
                    .notify
                    .name(self.place.parent, self.place.name.clone());
                return Err(Errno::ENOENT);
            }
            (Some(view), Err(error)) => {
                tracing::warn!(file = %self, %error, "stat answers with the last size known");
                view.head()
            }
            (None, Err(error)) => {
                tracing::error!(file = %self, %error, "stat failed");
                return Err(Errno::EIO);
            }
        };
        state.head = Some((head, Instant::now()));
        state.told_len = Some(head.len);
        Ok((head, SHORT_TTL))
    }

    /// A thread that panicked while it held the lock left a state that is still consistent: every step below changes
    /// it in one piece.
    fn lock(&self) -> MutexGuard<'_, State<S::Snapshot>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N> State<N> {
    fn touch(&mut self, now: Instant) {
        self.used_since_check = true;
        self.last_used = now;
    }
}

/// For logs: a store may name a file with line feeds and escape sequences.
impl<S: Source> std::fmt::Display for LiveFile<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{} (inode {})",
            self.place.host.escape_debug(),
            String::from_utf8_lossy(&self.place.path).escape_debug(),
            self.ino
        )
    }
}
