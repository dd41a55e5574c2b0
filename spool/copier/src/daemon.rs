//! The copier beside the application (`verneuilctl copy SPOOL`): serves every database of a spool, whoever writes them, until it is told to stop.
//! Finds databases by looking, and commits by inotify; `service` does the work.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use verneuil_config::Config;
use verneuil_spool::{Database, Spool, SpoolError};

use crate::flush::{SpoolFlush, flush_databases};
use crate::service::Copier;

/// How often the spool is looked through for new databases, should inotify not tell (it has a limit of watches per user).
const LOOK_PERIOD_MS: u16 = 2_000;
/// How long the last uploads may take once the copier was told to stop: less than service managers wait before they kill.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Change logs are called this; their writing is what is watched for.
const LOG_PREFIX: &[u8] = b"log-";
/// What an application records about a database: renamed into place when its targets change.
const RECORD_FILE: &[u8] = b"database.json";

/// What happens, for whoever runs the copier.
#[derive(Debug)]
pub enum CopyEvent<'a> {
    /// There is no spool yet; it is waited for.
    Waiting,
    /// The spool is served from now on.
    Serving {
        /// Databases in it now.
        databases: usize,
    },
    /// It was told to stop, and uploads what is left.
    Stopping,
    /// A folder of the spool is not a usable database's.
    Unreadable(&'a Path, &'a SpoolError),
}

struct Watched {
    db: Arc<Database>,
    watch: Option<WatchDescriptor>,
}

struct Daemon {
    spool: Spool,
    copier: Copier,
    /// None when the user has no watch left: everything is found by looking.
    inotify: Option<Inotify>,
    boot: Option<(PathBuf, WatchDescriptor)>,
    databases: HashMap<PathBuf, Watched>,
    unreadable: HashMap<PathBuf, SpoolError>,
}

/// Serves the databases of the spool at `dir` until `stop` becomes readable, then uploads what is pending, for at most 30 s. Databases go to the targets
/// of `config`; if it names none, to those that were recorded when they were opened.
///
/// # Errors
/// When `dir` is somebody else's or can't be read. What became of each database at the end is in the result.
pub fn copy_spool(
    dir: &Path,
    config: &Config,
    stop: BorrowedFd<'_>,
    mut tell: impl FnMut(CopyEvent<'_>),
) -> Result<SpoolFlush, SpoolError> {
    let mut daemon = Daemon {
        spool: Spool::at(dir),
        copier: Copier::new(&config.copier, &config.targets),
        inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok(),
        boot: None,
        databases: HashMap::new(),
        unreadable: HashMap::new(),
    };
    let mut is_serving = None;
    loop {
        // What is wrong at first is a mistake; later, it is somebody who tidies up.
        let looked = daemon.spool.is_there().and_then(|is_there| {
            if is_there {
                daemon.look(&mut tell)?;
            }
            Ok(is_there)
        });
        let is_there = match looked {
            Err(error) if is_serving.is_none() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot look through the spool");
                false
            }
            Ok(is_there) => is_there,
        };
        if is_serving != Some(is_there) {
            is_serving = Some(is_there);
            tell(if is_there {
                CopyEvent::Serving {
                    databases: daemon.databases.len(),
                }
            } else {
                CopyEvent::Waiting
            });
        }
        if daemon.wait(stop) {
            break;
        }
    }
    tell(CopyEvent::Stopping);
    let databases: Vec<_> = daemon
        .databases
        .into_values()
        .map(|watched| watched.db)
        .collect();
    let mut flush = flush_databases(&daemon.copier, &databases, Some(DRAIN_LIMIT));
    flush.unreadable = daemon.unreadable.into_iter().collect();
    Ok(flush)
}

impl Daemon {
    /// Serves what is new, and forgets what is gone.
    fn look(&mut self, tell: &mut impl FnMut(CopyEvent<'_>)) -> Result<(), SpoolError> {
        let contents = self.spool.contents()?;
        let is_there = |folder: &PathBuf| contents.folders.binary_search(folder).is_ok();
        let inotify = self.inotify.as_ref();
        self.databases.retain(|folder, watched| {
            let is_there = is_there(folder);
            if let (false, Some(inotify), Some(watch)) = (is_there, inotify, watched.watch) {
                // It is gone with the folder, as a rule.
                let _ = inotify.rm_watch(watch);
            }
            is_there
        });
        self.unreadable.retain(|folder, _| is_there(folder));
        for (folder, watched) in &mut self.databases {
            watched.watch = watched.watch.or_else(|| watch(inotify, folder));
        }
        if self.boot.as_ref().map(|(path, _)| path) != contents.boot.as_ref() {
            self.boot = contents.boot.as_ref().and_then(|path| {
                let created = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
                let watch = inotify?.add_watch(path, created).ok()?;
                Some((path.clone(), watch))
            });
        }
        for folder in contents.folders {
            if self.databases.contains_key(&folder) {
                continue;
            }
            match Database::open_or_repair(&self.spool, &folder) {
                Ok(db) => {
                    self.unreadable.remove(&folder);
                    // Watched before it is looked at: no commit falls between.
                    let watch = watch(self.inotify.as_ref(), &folder);
                    if let Err(error) = self.copier.serve(&db) {
                        tracing::error!(db = %db.path().display(), %error, "not served");
                    }
                    self.databases.insert(folder, Watched { db, watch });
                }
                // An application makes the folder first and what is in it afterwards.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    if !self.unreadable.contains_key(&folder) {
                        tell(CopyEvent::Unreadable(&folder, &error));
                    }
                    self.unreadable.insert(folder, error);
                }
            }
        }
        Ok(())
    }

    /// Wakes the copier for each database that is committed to, until it is time to look again. `true`: it is time to stop.
    fn wait(&mut self, stop: BorrowedFd<'_>) -> bool {
        let until = Instant::now() + Duration::from_millis(LOOK_PERIOD_MS.into());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left_ms = u16::try_from(left.as_millis()).unwrap_or(LOOK_PERIOD_MS);
            let mut polled = vec![PollFd::new(stop, PollFlags::POLLIN)];
            if let Some(inotify) = &self.inotify {
                polled.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut polled, PollTimeout::from(left_ms)) {
                Ok(0) => return false,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    // Never seen; a pause keeps it from spinning.
                    tracing::error!(%error, "cannot wait for commits");
                    std::thread::sleep(left);
                    return false;
                }
                Ok(_) => {}
            }
            if polled[0].any().unwrap_or(true) {
                return true;
            }
            if self.wake() {
                return false;
            }
        }
    }

    /// Reads what has happened. `true`: there may be a new database.
    fn wake(&mut self) -> bool {
        let Some(inotify) = &self.inotify else {
            return true;
        };
        let events = match inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(error) => {
                tracing::warn!(%error, "inotify failed; commits are found by looking");
                self.wake_all();
                std::thread::sleep(Duration::from_millis(LOOK_PERIOD_MS.into()));
                return true;
            }
        };
        let mut is_new = false;
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.wake_all();
                is_new = true;
            }
            is_new |= event.mask.contains(AddWatchFlags::IN_CREATE);
            let is_gone = event.mask.contains(AddWatchFlags::IN_IGNORED);
            if is_gone
                && self
                    .boot
                    .as_ref()
                    .is_some_and(|(_, watch)| *watch == event.wd)
            {
                self.boot = None;
            }
            let of = |(_, watched): &(&PathBuf, &mut Watched)| watched.watch == Some(event.wd);
            let Some((folder, watched)) = self.databases.iter_mut().find(of) else {
                continue;
            };
            let name = event
                .name
                .as_deref()
                .map(OsStr::as_bytes)
                .unwrap_or_default();
            if is_gone {
                watched.watch = None;
                is_new = true;
            } else if name == RECORD_FILE && event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
                // Its targets may have changed: it is opened anew.
                let folder = folder.clone();
                self.databases.remove(&folder);
                is_new = true;
            } else if name.starts_with(LOG_PREFIX) {
                watched.db.wake();
            }
        }
        is_new
    }

    fn wake_all(&self) {
        self.databases
            .values()
            .for_each(|watched| watched.db.wake());
    }
}

fn watch(inotify: Option<&Inotify>, folder: &Path) -> Option<WatchDescriptor> {
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO;
    inotify?.add_watch(folder, what).ok()
}
