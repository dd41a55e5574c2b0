//! What is pending for which target of a database, and why: for `PRAGMA verneuil_status` and `verneuilctl status`. Reads the spool, whoever is the
//! copier; changes nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use serde::Serialize;
use verneuil_config::TargetConfig;
use verneuil_dbfile::Journal;
use verneuil_spool::{Database, Progress, TargetRecord};

use crate::base::target_id;
use crate::error::Blocked;

/// Length of a chunk, in bytes.
const CHUNK_LEN_BYTES: u64 = verneuil_spool::CHUNK_LEN_BYTES;

/// One database.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether what is committed reaches the spool and can be published.
    pub replicated: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Name of this host in the store.
    pub host: String,
    /// Path of the database.
    pub path: String,
    /// Generation of the last manifest that every target holds; 0 while one has none.
    pub generation: u64,
    /// Bytes that wait: of logs, and of chunks that have to be read again (all of the file, if nobody knows which).
    pub pending_bytes: u64,
    /// Age of the oldest commit that some target lacks, in milliseconds; 0 when all is there.
    pub lag_ms: u64,
    /// The last error of a target that has not been got over.
    pub last_error: Option<String>,
    /// Each target.
    pub targets: Vec<TargetStatus>,
}

/// One target of a database.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// The store.
    pub target: String,
    /// Generation of the last manifest there; 0 for none.
    pub generation: u64,
    /// When it was published, in milliseconds since the epoch.
    pub published_ms: Option<i64>,
    /// Whether it holds all that is in the spool.
    pub up_to_date: bool,
    /// Bytes that wait for this target.
    pub pending_bytes: u64,
    /// Age of the oldest commit that it lacks, in milliseconds.
    pub lag_ms: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When, in milliseconds since the epoch.
    pub failed_ms: Option<i64>,
}

/// How `db` is replicated now: to `targets`, or if there are none to those that are recorded with it.
pub fn status(db: &Database, targets: &[TargetConfig]) -> Status {
    let mut status = Status {
        replicated: false,
        reason: None,
        host: db.info().hostname.clone(),
        path: db.path().to_string_lossy().into_owned(),
        generation: 0,
        pending_bytes: 0,
        lag_ms: 0,
        last_error: None,
        targets: Vec::new(),
    };
    let targets = if targets.is_empty() {
        &db.info().targets
    } else {
        targets
    };
    let progress = match db.progress() {
        Ok(Some(progress)) => progress,
        Ok(None) => {
            status.reason = Some(db.trouble().unwrap_or_else(|| "it has no spool".to_owned()));
            return status;
        }
        Err(error) => {
            status.reason = Some(error.to_string());
            return status;
        }
    };
    status.reason = db.trouble().or_else(|| obstacle(db));
    status.replicated = status.reason.is_none();
    let file_len = std::fs::metadata(db.path()).map_or(0, |meta| meta.len());
    status.targets = targets
        .iter()
        .map(|target| {
            let record = progress.target(target_id(target, db));
            of_target(target, record, &progress, file_len)
        })
        .collect();
    let each = || status.targets.iter();
    status.generation = each().map(|target| target.generation).min().unwrap_or(0);
    status.pending_bytes = each().map(|target| target.pending_bytes).max().unwrap_or(0);
    status.lag_ms = each().map(|target| target.lag_ms).max().unwrap_or(0);
    status.last_error = each().find_map(|target| {
        let error = target.error.as_ref()?;
        Some(format!("{}: {error}", target.target))
    });
    status
}

fn of_target(
    target: &TargetConfig,
    record: Option<&TargetRecord>,
    progress: &Progress,
    file_len: u64,
) -> TargetStatus {
    let chunks = |count: Option<u64>| {
        count.map_or(file_len, |count| {
            count.saturating_mul(CHUNK_LEN_BYTES).min(file_len)
        })
    };
    let lacks = record.map_or(file_len, |record| chunks(record.lacks.chunk_count()));
    let shared = progress.logs_len_bytes + chunks(progress.inflight);
    let todo = if progress.todo { CHUNK_LEN_BYTES } else { 0 };
    let is_lacking = record.is_none_or(|record| !record.lacks.is_empty());
    let up_to_date = !is_lacking && !progress.is_anything_pending();
    let behind_ns = record.and_then(|record| record.behind_ns);
    let log_ns = progress
        .pending_since_ns
        .filter(|_| behind_ns.is_none() || progress.head.len_bytes > 0);
    let since_ns = [behind_ns, log_ns].into_iter().flatten().min();
    let lag_ms = since_ns.map_or(0, |since_ns| {
        let since_ns = u64::try_from(since_ns).unwrap_or(0);
        let since = UNIX_EPOCH + std::time::Duration::from_nanos(since_ns);
        let age = SystemTime::now().duration_since(since).unwrap_or_default();
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    });
    let ms = |ns: i64| ns / 1_000_000;
    TargetStatus {
        target: target.describe(),
        generation: record.map_or(0, |record| record.generation),
        published_ms: record.and_then(|record| record.published_ns).map(ms),
        up_to_date,
        pending_bytes: if up_to_date { 0 } else { lacks + shared + todo },
        lag_ms: if up_to_date { 0 } else { lag_ms },
        error: record.and_then(|record| record.error.clone()),
        failed_ms: record.and_then(|record| record.failed_ns).map(ms),
    }
}

/// What keeps the database from being published, as far as its files say.
fn obstacle(db: &Database) -> Option<String> {
    let file = match verneuil_dbfile::open(db.path(), OFlag::O_RDONLY, 0) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some(
                "the database file is gone; the store keeps the last snapshot that was uploaded"
                    .to_owned(),
            );
        }
        Err(error) => return Some(format!("the database file can't be opened: {error}")),
    };
    if verneuil_dbfile::read_header(&file).is_ok_and(|header| header.is_wal()) {
        return Some(Blocked::Wal.to_string());
    }
    let locks = verneuil_dbfile::probe_locks(&*file, db.lock_bytes()).ok()?;
    let is_writing = locks.pending_or_exclusive() || locks.reserved;
    let journal = verneuil_dbfile::journal_state(db.path()).ok()?;
    (!is_writing && journal == Journal::Live).then(|| Blocked::HotJournal.to_string())
}
