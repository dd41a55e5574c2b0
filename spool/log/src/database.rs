//! One replicated database of this process: shared by its connections (`writer`) and its copier (`drain`), found again by path. Keeps what
//! goes wrong away from the application.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use verneuil_config::TargetConfig;
use verneuil_dbfile::LockBytes;
use verneuil_dbfile::fork::ForkLocal;

use crate::error::SpoolError;
use crate::folder::{Folder, read_record};
use crate::progress::Progress;
use crate::spool::Spool;
use crate::sync::{AtomicBool, AtomicU64};

/// How long a spool that could not be used is left alone. Short enough to resume soon, long enough that a commit's average cost stays nil.
const RETRY_PERIOD: Duration = Duration::from_secs(5);

/// What is recorded beside a database, so that its spool can be flushed without the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Name of this host in the store.
    pub hostname: String,
    /// Where the database is replicated to.
    pub targets: Vec<TargetConfig>,
}

/// What to call when something becomes pending.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// One replicated database in this process.
pub struct Database {
    spool: Spool,
    path: PathBuf,
    info: DatabaseInfo,
    /// This process; asked for once, for it is a system call.
    pid: u32,
    folder: RwLock<Option<Arc<Folder>>>,
    health: Mutex<Health>,
    /// Whether `health` holds a trouble: saves the mutex on the way of every commit.
    troubled: AtomicBool,
    /// The file's header says WAL mode, as far as connections of this process have seen.
    is_wal: AtomicBool,
    /// A transaction went by unspooled: the next one that can says that everything is to do.
    missed: AtomicBool,
    /// Every transaction is compared with what would be published (`view`).
    checked: AtomicBool,
    /// The waker was called and nobody has looked since.
    signalled: AtomicBool,
    waker: RwLock<Option<Waker>>,
    /// Where SQLite's lock bytes begin: the usual place, except in its own test builds.
    pending_byte: AtomicU64,
}

#[derive(Debug, Default)]
struct Health {
    trouble: Option<String>,
    retry_at: Option<Instant>,
}

type Registry = Mutex<HashMap<(Spool, PathBuf), Weak<Database>>>;
/// A forked child opens its databases anew: these have the parent's process id, its waker, and locks that its threads may hold.
static REGISTRY: ForkLocal<Registry> = ForkLocal::new(Mutex::default);

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// The database at `path` (absolute, canonical); the same one for every caller of the process.
    ///
    /// Never fails: if the spool can't be used, the database is unreplicated ([`Database::trouble`] says why), and the spool is tried again
    /// at a later transaction.
    pub fn open(spool: &Spool, path: &Path, info: DatabaseInfo) -> Arc<Self> {
        let mut registry = registry();
        let key = (spool.clone(), path.to_owned());
        if let Some(found) = registry.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        registry.retain(|_, weak| weak.strong_count() > 0);
        let database = Arc::new(Self::new(spool, path, info));
        registry.insert(key, Arc::downgrade(&database));
        drop(registry);
        database.folder_for_writer();
        database
    }

    /// The database whose folder in the spool is `folder`, which another process has made. Creates nothing.
    ///
    /// # Errors
    /// When the folder is not a database's, or of another boot.
    pub fn open_existing(spool: &Spool, folder: &Path) -> Result<Arc<Self>, SpoolError> {
        let (path, info) = read_record(folder)?;
        if let Some(found) = registry()
            .get(&(spool.clone(), path.clone()))
            .and_then(Weak::upgrade)
        {
            return Ok(found);
        }
        let opened = spool.open_folder(folder)?;
        let database = Self::new(spool, &path, info);
        *database
            .folder
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
        Ok(Arc::new(database))
    }

    /// The database at `path` again, after the application has closed it: to ship what it left. `None` when its folder in the spool is gone;
    /// creates nothing.
    ///
    /// # Errors
    /// As [`Database::open_existing`].
    pub fn open_left(spool: &Spool, path: &Path) -> Result<Option<Arc<Self>>, SpoolError> {
        match Self::open_existing(spool, &spool.folder_of(path)?) {
            Err(error) if error.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// As [`Database::open_existing`]; a control page that is missing or can't be used is made anew, with everything to do.
    ///
    /// # Errors
    /// When the folder is not a database's, or the control page can't be made.
    pub fn open_or_repair(spool: &Spool, folder: &Path) -> Result<Arc<Self>, SpoolError> {
        let error = match Self::open_existing(spool, folder) {
            Ok(database) => return Ok(database),
            Err(error) => error,
        };
        let (path, info) = read_record(folder)?;
        tracing::warn!(db = %path.display(), %error, "the control page is made anew: the whole database will be read once");
        let opened = Folder::attach(spool, &path, &info)?;
        let database = Self::new(spool, &path, info);
        *database
            .folder
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
        Ok(Arc::new(database))
    }

    fn new(spool: &Spool, path: &Path, info: DatabaseInfo) -> Self {
        Self {
            spool: spool.clone(),
            path: path.to_owned(),
            info,
            pid: std::process::id(),
            folder: RwLock::new(None),
            health: Mutex::default(),
            troubled: AtomicBool::new(false),
            is_wal: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
            waker: RwLock::new(None),
            pending_byte: AtomicU64::new(LockBytes::default().pending()),
        }
    }

    /// The bytes on which its users lock it.
    pub fn lock_bytes(&self) -> LockBytes {
        LockBytes::at(self.pending_byte.load(SeqCst))
    }

    /// Says where the lock bytes are, as a connection has found them.
    pub fn set_lock_bytes(&self, bytes: LockBytes) {
        self.pending_byte.store(bytes.pending(), SeqCst);
    }

    /// Its absolute, canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Host name and targets.
    pub fn info(&self) -> &DatabaseInfo {
        &self.info
    }

    /// The spool that it is in.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Why the last transaction was not spooled, or `None` while all is well.
    pub fn trouble(&self) -> Option<String> {
        if self.is_wal() {
            return Some(format!(
                "{:?} is in WAL mode, which is not replicated yet; PRAGMA journal_mode=DELETE makes it replicated again",
                self.path
            ));
        }
        if !self.troubled.load(SeqCst) {
            return None;
        }
        self.health().trouble.clone()
    }

    /// Sets what to call when something becomes pending. It is called by the thread that commits, at most once until somebody calls
    /// [`Database::arm`], so that commits in a row cost no system call.
    pub fn set_waker(&self, waker: Waker) {
        *self.waker.write().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// Lets the waker be called again. Call it before looking at what is pending, or the last commit may be missed.
    pub fn arm(&self) {
        // Swapped and not stored: it takes over what a waker's swap before it has released, which is the commit that nobody is woken for.
        self.signalled.swap(false, SeqCst);
    }

    /// What the spool holds now; `None` while there is none.
    ///
    /// # Errors
    /// When the control page can't be mapped or the folder not listed.
    pub fn progress(&self) -> Result<Option<Progress>, SpoolError> {
        self.folder().map(|folder| folder.progress()).transpose()
    }

    pub(crate) fn folder(&self) -> Option<Arc<Folder>> {
        self.folder
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The folder, attached now if it wasn't and the last attempt is long enough ago.
    pub(crate) fn folder_for_writer(&self) -> Option<Arc<Folder>> {
        if let Some(folder) = self.folder() {
            return Some(folder);
        }
        if self.health().retry_at.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        self.attach(false)
    }

    /// Recovery: the control page has no name any more. Maps the new one (or makes it), with everything to do.
    pub(crate) fn reattach(&self) -> Option<Arc<Folder>> {
        *self.folder.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.attach(true)
    }

    fn attach(&self, need_everything: bool) -> Option<Arc<Folder>> {
        match Folder::attach(&self.spool, &self.path, &self.info) {
            Ok(folder) => {
                if need_everything {
                    folder.control.need_everything();
                }
                let folder = Arc::new(folder);
                *self.folder.write().unwrap_or_else(PoisonError::into_inner) = Some(folder.clone());
                self.health().retry_at = None;
                // All is well only when a transaction has gone through: see `note_success`.
                Some(folder)
            }
            Err(error) => {
                self.health().retry_at = Some(Instant::now() + RETRY_PERIOD);
                self.note_trouble(error.to_string());
                None
            }
        }
    }

    /// Whether the file is in WAL mode, as far as this process knows.
    pub fn is_wal(&self) -> bool {
        self.is_wal.load(SeqCst)
    }

    /// Tells what the file's header says. While it says WAL nothing is spooled, and when that ends everything is to do.
    pub fn set_wal(&self, is_wal: bool) {
        if self.is_wal.swap(is_wal, SeqCst) != is_wal {
            self.note_missed();
        }
    }

    /// Remembers that something was written which is not spooled: the next transaction says that everything is to do.
    pub fn note_missed(&self) {
        self.missed.store(true, SeqCst);
    }

    /// Remembers why a transaction was not spooled. Whoever asks for [`Database::trouble`] logs it.
    pub(crate) fn note_trouble(&self, text: String) {
        self.health().trouble = Some(text);
        self.troubled.store(true, SeqCst);
    }

    pub(crate) fn note_success(&self) {
        if self.troubled.load(SeqCst) {
            self.health().trouble = None;
            self.troubled.store(false, SeqCst);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether a transaction went by unspooled since the last call.
    pub(crate) fn take_missed(&self) -> bool {
        self.missed.load(SeqCst) && self.missed.swap(false, SeqCst)
    }

    /// Whether a transaction went by unspooled and the next one has not said so yet.
    pub fn has_missed(&self) -> bool {
        self.missed.load(SeqCst)
    }

    /// From now on its ledgers keep what is being published, for [`Ledger::view`](crate::Ledger::view).
    pub fn set_checked(&self) {
        self.checked.store(true, SeqCst);
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked.load(SeqCst)
    }

    /// The control page's epoch; `None` while there is no spool.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.folder()?.control.epoch())
    }

    /// Says that something may be pending; calls the waker, unless it was called and nobody has looked since.
    pub fn wake(&self) {
        if self.signalled.swap(true, SeqCst) {
            return;
        }
        // Cloned, so that no lock is held while a stranger's code runs.
        let waker = self
            .waker
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker();
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn registry() -> MutexGuard<'static, HashMap<(Spool, PathBuf), Weak<Database>>> {
    REGISTRY
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
