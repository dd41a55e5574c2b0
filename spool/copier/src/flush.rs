//! What "flushed" means when another process is the copier, and the flush of a whole spool (`verneuilctl flush`); uses `service` for the work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use tokio::time::{Instant, sleep};
use verneuil_config::Config;
use verneuil_dbfile::LockBytes;
use verneuil_spool::{Database, Progress, Spool, SpoolError};

use crate::error::FlushError;
use crate::service::Copier;

/// How long a flush waits for another copier to make progress.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at another copier's progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(20);
/// Databases of a spool that are flushed at the same time.
const FLUSHING_MAX: usize = 8;

/// How waiting for another copier ended.
pub(crate) enum Other {
    /// It has published all that was pending when the wait began.
    Published,
    /// It has given up its lock; something may be pending.
    Left,
}

/// Waits until whoever holds the copier's lock has published what is pending now.
pub(crate) async fn wait_for_other_copier(db: &Arc<Database>) -> Result<Other, FlushError> {
    let began_at = SystemTime::now();
    let progress = || {
        db.progress()
            .map_err(|error| FlushError::Unreplicated(error.to_string()))
    };
    let Some(first) = progress()? else {
        return Ok(Other::Left);
    };
    let mut counter = change_counter(db.path());
    let (mut last, mut moved_at) = (first, Instant::now());
    loop {
        sleep(PROGRESS_PERIOD).await;
        if let Ok(Some(_)) = db.lock_copier() {
            return Ok(Other::Left);
        }
        let Some(now) = progress()? else {
            return Ok(Other::Left);
        };
        // A lock may hide a foreign commit: look again until nobody holds one, or a writer of ours has looked.
        counter = counter.or_else(|| change_counter(db.path()));
        let is_known = counter.is_some() || now.epoch != first.epoch;
        if is_known && holds_nothing_of(&first, &now, counter) {
            return Ok(Other::Published);
        }
        if now != last {
            (last, moved_at) = (now, Instant::now());
        }
        let renewed = db
            .last_error()
            .filter(|(at, _)| *at > began_at)
            .map(|(_, text)| text);
        if renewed.is_some() || moved_at.elapsed() > FLUSH_PATIENCE {
            return Err(FlushError::OtherCopier {
                waited_s: began_at.elapsed().map_or(0, |waited| waited.as_secs()),
                last_error: renewed,
            });
        }
    }
}

/// Waits, for at most so long, until all that is committed to `db` now is in the store; whose copier that does is all the same.
///
/// # Errors
/// That the database is not replicated, that the time is over, or what a copier complained about meanwhile.
pub fn wait_for_published(db: &Arc<Database>, limit: Duration) -> Result<(), FlushError> {
    let (began_at, until) = (SystemTime::now(), std::time::Instant::now() + limit);
    let progress = || match db.progress() {
        Ok(Some(progress)) => Ok(progress),
        Ok(None) => Err(FlushError::Unreplicated(
            db.trouble()
                .unwrap_or_else(|| "there is no spool".to_owned()),
        )),
        Err(error) => Err(FlushError::Unreplicated(error.to_string())),
    };
    if let Some(trouble) = db.trouble() {
        return Err(FlushError::Unreplicated(trouble));
    }
    let first = progress()?;
    let mut counter = None;
    loop {
        let now = progress()?;
        // As in `wait_for_other_copier`.
        counter = counter.or_else(|| change_counter(db.path()));
        let is_known = counter.is_some() || now.epoch != first.epoch;
        if is_known && holds_nothing_of(&first, &now, counter) {
            return Ok(());
        }
        if std::time::Instant::now() >= until {
            let last_error = db
                .last_error()
                .filter(|(at, _)| *at > began_at)
                .map(|(_, text)| text);
            return Err(match last_error {
                Some(text) => FlushError::OtherCopier {
                    waited_s: limit.as_secs(),
                    last_error: Some(text),
                },
                None => FlushError::TimedOut {
                    limit_ms: limit.as_millis(),
                },
            });
        }
        std::thread::sleep(PROGRESS_PERIOD);
    }
}

/// The database's change counter, if nobody is about to change it.
fn change_counter(path: &Path) -> Option<u32> {
    let file = verneuil_dbfile::open(path, OFlag::O_RDONLY, 0).ok()?;
    let header = verneuil_dbfile::read_header(&file).ok()?;
    let locks = verneuil_dbfile::probe_locks(&*file, LockBytes::default()).ok()?;
    (!locks.pending_or_exclusive()).then_some(header.change_counter)
}

/// Whether all that was committed at `then` has left the spool by `now`.
fn holds_nothing_of(then: &Progress, now: &Progress, counter: Option<u32>) -> bool {
    // The log of that time is gone: published, or handed to the chunks in flight, which must be gone too.
    let is_log_gone = now
        .sealed
        .is_none_or(|sealed| sealed > then.head.generation)
        && (now.head.generation > then.head.generation || now.head.len_bytes == 0);
    let is_settled = !now.todo && now.inflight == Some(0);
    let is_leftover = now.dirty
        && now.epoch % 2 == 1
        && now.epoch == then.epoch
        && now.settled_epoch != now.epoch;
    // Nobody of ours has committed this: a foreign commit that the copier has yet to notice.
    let is_foreign = counter != now.published_cc
        && now.epoch == then.epoch
        && (now.epoch.is_multiple_of(2) || now.settled_epoch == now.epoch);
    is_log_gone && is_settled && !is_leftover && !is_foreign
}

/// What became of one database of a spool.
#[derive(Debug)]
pub struct Flushed {
    /// The database.
    pub path: PathBuf,
    /// Name of this host in the store.
    pub hostname: String,
    /// Whether all of it is in the store.
    pub result: Result<(), FlushError>,
}

/// What a flush of a spool has come to.
#[derive(Debug, Default)]
pub struct SpoolFlush {
    /// The databases of this boot, by path.
    pub databases: Vec<Flushed>,
    /// Folders that are not a usable database's, and why.
    pub unreadable: Vec<(PathBuf, SpoolError)>,
    /// Folders of other boots, which are ignored: the next opener of a database compares it with the store.
    pub other_boots: Vec<PathBuf>,
}

/// Uploads all that is pending in the spool at `dir`, and waits for it. Databases go to the targets of `config`; if it names none, to those
/// that were recorded when they were opened.
///
/// # Errors
/// When `dir` is not a readable spool. What became of each database is in the result.
pub fn flush_spool(dir: &Path, config: &Config) -> Result<SpoolFlush, SpoolError> {
    let spool = Spool::at(dir);
    let contents = spool.contents()?;
    let copier = Copier::new(&config.copier, &config.targets);
    let mut flush = SpoolFlush {
        other_boots: contents.other_boots,
        ..SpoolFlush::default()
    };
    let mut databases = Vec::new();
    for folder in contents.folders {
        match Database::open_existing(&spool, &folder) {
            Ok(db) => databases.push(db),
            Err(error) => flush.unreadable.push((folder, error)),
        }
    }
    let next = std::sync::Mutex::new(databases.into_iter());
    let next_database = || {
        next.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .next()
    };
    std::thread::scope(|scope| {
        let flushers: Vec<_> = (0..FLUSHING_MAX)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    while let Some(db) = next_database() {
                        let result = copier.flush(&db);
                        done.push(Flushed {
                            path: db.path().to_owned(),
                            hostname: db.info().hostname.clone(),
                            result,
                        });
                    }
                    done
                })
            })
            .collect();
        for flusher in flushers {
            // A flusher has nothing of its own that can panic; if it did, its databases are missing, and the caller must not take that for success.
            match flusher.join() {
                Ok(done) => flush.databases.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    flush.databases.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(flush)
}
