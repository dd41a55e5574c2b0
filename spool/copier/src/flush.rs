//! What "flushed" means when another process is the copier, and the flush of a whole spool (`verneuilctl flush`); uses `service` for the work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use tokio::time::{Instant, sleep};
use verneuil_config::{Config, TargetConfig};
use verneuil_spool::{Database, Progress, Spool, SpoolError, TargetId};

use crate::base::target_id;
use crate::error::FlushError;
use crate::service::Copier;

/// How long a flush waits for another copier to make progress.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at another copier's progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(20);

/// Databases that a flush of a spool has open at the same time: each takes a descriptor or two, and a process has 1,024 as a rule.
pub(crate) const FLUSHED_AT_ONCE_MAX: usize = 256;

/// How waiting for another copier ended.
pub(crate) enum Other {
    /// It has published all that was pending when the wait began.
    Published,
    /// It has given up its lock; something may be pending.
    Left,
}

/// What was pending at one moment, and whether that is in a target by now, as the spool tells it: whoever is the copier.
struct Watch<'a> {
    db: &'a Database,
    then: Progress,
    counter: Option<u32>,
}

impl<'a> Watch<'a> {
    /// Begins now; `None` while there is no spool.
    fn begin(db: &'a Database) -> Result<Option<Self>, FlushError> {
        Ok(progress(db)?.map(|then| Self {
            db,
            counter: change_counter(db, &then),
            then,
        }))
    }

    /// Whether a target has, by `now`, all that was committed then by anybody.
    fn has_all(&mut self, now: &Progress, target: TargetId) -> bool {
        // A lock may hide a foreign commit: look again until nobody holds one, or a writer of ours has looked.
        self.counter = self.counter.or_else(|| change_counter(self.db, now));
        let is_known = self.counter.is_some() || now.epoch != self.then.epoch;
        let Some(record) = now.target(target) else {
            return false;
        };
        let is_settled = now.epoch.is_multiple_of(2) || record.settled_epoch == now.epoch;
        let has_moved = now.epoch != self.then.epoch;
        let is_leftover = now.dirty && !is_settled && !has_moved;
        // Nobody of ours has committed this: a foreign commit that the copier has yet to notice. There may have been more of them by now.
        let is_foreign = !has_moved
            && self.counter != record.change_counter
            && change_counter(self.db, now) != record.change_counter;
        is_known && !is_leftover && !is_foreign && self.has_ours(now, target)
    }

    /// Whether a target has, by `now`, all that was committed then through this VFS and spooled.
    fn has_ours(&self, now: &Progress, target: TargetId) -> bool {
        let Some(record) = now.target(target) else {
            return false;
        };
        let is_covered = record.covers >= self.then.head.generation;
        // Nothing is left of the log of that time, nor of what it may have become.
        let is_log_gone = now
            .sealed
            .is_none_or(|sealed| sealed > self.then.head.generation)
            && (now.head.generation > self.then.head.generation || now.head.len_bytes == 0);
        let is_empty =
            is_log_gone && !now.todo && now.inflight == Some(0) && record.lacks.is_empty();
        is_covered || is_empty
    }
}

fn progress(db: &Database) -> Result<Option<Progress>, FlushError> {
    db.progress()
        .map_err(|error| FlushError::Unreplicated(error.to_string()))
}

/// Waits until whoever holds the copier's lock has published to `target` what is pending now.
pub(crate) async fn wait_for_other_copier(
    db: &Arc<Database>,
    target: TargetId,
) -> Result<Other, FlushError> {
    let began_at = SystemTime::now();
    let Some(mut watch) = Watch::begin(db)? else {
        return Ok(Other::Left);
    };
    let (mut last, mut moved_at) = (watch.then.clone(), Instant::now());
    loop {
        sleep(PROGRESS_PERIOD).await;
        if let Ok(Some(_)) = db.lock_copier() {
            return Ok(Other::Left);
        }
        let Some(now) = progress(db)? else {
            return Ok(Other::Left);
        };
        if watch.has_all(&now, target) {
            return Ok(Other::Published);
        }
        if now != last {
            (last, moved_at) = (now.clone(), Instant::now());
        }
        let renewed = now.target(target).and_then(|record| {
            let failed_ns = u64::try_from(record.failed_ns?).ok()?;
            let failed_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(failed_ns);
            record.error.clone().filter(|_| failed_at > began_at)
        });
        if renewed.is_some() || moved_at.elapsed() > FLUSH_PATIENCE {
            return Err(FlushError::OtherCopier {
                waited_s: began_at.elapsed().map_or(0, |waited| waited.as_secs()),
                last_error: renewed,
            });
        }
    }
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All that is committed now through this VFS.
    Ours,
    /// All that is committed now, by whomever.
    All,
}

/// Waits until every target of `db` has what is committed now, riding the normal uploads of whichever process is the copier. Uploads nothing itself.
///
/// # Errors
/// After `limit`: says which targets lack it, and their last error. When it is not spooled at all: why.
pub fn wait_until_stored(
    db: &Arc<Database>,
    until: Until,
    limit: Duration,
) -> Result<(), FlushError> {
    let begun = Instant::now();
    if let Some(trouble) = db.trouble() {
        return Err(FlushError::Unreplicated(trouble));
    }
    let targets = &db.info().targets;
    let Some(mut watch) = Watch::begin(db)? else {
        return Err(FlushError::Unreplicated("it has no spool".to_owned()));
    };
    let mut now = watch.then.clone();
    loop {
        let lacking: Vec<&TargetConfig> = targets
            .iter()
            .filter(|target| {
                let id = target_id(target, db);
                match until {
                    Until::Ours => !watch.has_ours(&now, id),
                    Until::All => !watch.has_all(&now, id),
                }
            })
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            let failed = lacking.iter().map(|target| {
                let record = now.target(target_id(target, db));
                let error = FlushError::TimedOut {
                    waited_ms: begun.elapsed().as_millis(),
                    last_error: record.and_then(|record| record.error.clone()),
                };
                (target.describe(), error)
            });
            return FlushError::of_targets(failed.collect(), targets.len());
        }
        std::thread::sleep(PROGRESS_PERIOD.min(limit.saturating_sub(begun.elapsed())));
        let Some(next) = progress(db)? else {
            return Err(FlushError::Unreplicated("its spool is gone".to_owned()));
        };
        now = next;
    }
}

/// The database's change counter, if nobody is about to change it.
fn change_counter(db: &Database, progress: &Progress) -> Option<u32> {
    let file = verneuil_dbfile::open(db.path(), OFlag::O_RDONLY, 0).ok()?;
    let header = verneuil_dbfile::read_header(&file).ok()?;
    let locks = verneuil_dbfile::probe_locks(&*file, db.lock_bytes()).ok()?;
    let is_kept = locks.exclusive
        && locks.holder_pid.is_none()
        && progress.is_kept_exclusive
        && progress.epoch.is_multiple_of(2);
    (is_kept || !locks.pending_or_exclusive()).then_some(header.change_counter)
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
    for folders in contents.folders.chunks(FLUSHED_AT_ONCE_MAX) {
        let mut databases = Vec::with_capacity(folders.len());
        for folder in folders {
            match Database::open_or_repair(&spool, folder) {
                Ok(db) => databases.push(db),
                Err(error) => flush.unreadable.push((folder.clone(), error)),
            }
        }
        let flushed = flush_databases(&copier, &databases, None).databases;
        flush.databases.extend(flushed);
    }
    flush.databases.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(flush)
}

/// Flushes several databases at the same time; for at most `limit`, all in all.
pub(crate) fn flush_databases(
    copier: &Copier,
    databases: &[Arc<Database>],
    limit: Option<Duration>,
) -> SpoolFlush {
    let results = copier.flush_all(databases, limit);
    let mut flush = SpoolFlush::default();
    for (db, result) in databases.iter().zip(results) {
        flush.databases.push(Flushed {
            path: db.path().to_owned(),
            hostname: db.info().hostname.clone(),
            result,
        });
    }
    flush.databases.sort_by(|a, b| a.path.cmp(&b.path));
    flush
}
