//! A directory as the store: the same keys as in S3, one file each; called by `Store`, one attempt
//! per method.
//!
//! A write goes to a temporary file under `.verneuil/`, is fsynced, and is renamed over the key
//! under a lock (one of a fixed number of lock files, chosen by key), where its condition is looked
//! at; then the folder is fsynced. So a reader sees whole objects only, what was acknowledged
//! survives a power failure, and of several conditional writers one wins, in any process.
//!
//! The version of an object is its modification time and length. A write sets the time itself, in
//! nanoseconds and always later than that of the version it replaces, so two versions never share
//! one.
//!
//! - `tree`: keys to descriptors, segment by segment, without following links;
//! - `listing`: LIST in S3's order.

mod listing;
mod tree;

use crate::{
    Condition, ETag, ErrorKind, GetOptions, Got, ListPage, Meta, OBJECT_LEN_MAX_BYTES, Operation,
    StoreError,
};
use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::stat::FileStat;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tree::{Fault, Tree};

/// A temporary file older than this was left by a process that died: no attempt lasts a day.
const STALE_AFTER: Duration = Duration::from_secs(86_400);
/// How often a `put` makes the folder of its key again when a concurrent `delete` of the last other
/// object removes it. Each round, somebody else made progress.
const FOLDER_ATTEMPTS_MAX: u32 = 100;

/// A directory store.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    tree: Tree,
    is_swept: Arc<AtomicBool>,
}

impl Directory {
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        if !root.is_absolute() {
            return Err(StoreError::new(
                ErrorKind::BadRequest,
                Operation::Open,
                root.display().to_string(),
                "the path is not absolute",
            ));
        }
        Ok(Self {
            tree: Tree::new(root),
            is_swept: Arc::new(AtomicBool::new(false)),
        })
    }

    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.tree.root().display())
    }

    pub(crate) async fn put(
        &self,
        key: &str,
        body: &Bytes,
        condition: &Condition,
    ) -> Result<ETag, StoreError> {
        let (owned, body, condition) = (key.to_owned(), body.clone(), condition.clone());
        self.blocking(Operation::Put, key, move |directory| {
            directory.put_now(&owned, &body, &condition)
        })
        .await
    }

    pub(crate) async fn get(&self, key: &str, options: &GetOptions) -> Result<Got, StoreError> {
        let (owned, options) = (key.to_owned(), options.clone());
        self.blocking(Operation::Get, key, move |directory| {
            directory.get_now(&owned, &options)
        })
        .await
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let owned = key.to_owned();
        self.blocking(Operation::Head, key, move |directory| {
            let (folder, name) = directory.tree.folder_of(&owned)?;
            let stat = folder.object(name)?.ok_or(Fault::NotFound)?;
            Ok(meta(&stat))
        })
        .await
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let owned = key.to_owned();
        self.blocking(Operation::Delete, key, move |directory| {
            match directory.tree.remove(&owned) {
                Err(Fault::NotFound | Fault::NoRoot) => Ok(()),
                other => other,
            }
        })
        .await
    }

    pub(crate) async fn list(
        &self,
        prefix: &str,
        delimiter: bool,
        continuation: Option<&str>,
        page_len: u32,
    ) -> Result<ListPage, StoreError> {
        let owned = prefix.to_owned();
        let continuation = continuation.map(str::to_owned);
        self.blocking(Operation::List, prefix, move |directory| {
            listing::list(
                &directory.tree,
                &owned,
                delimiter,
                continuation,
                page_len as usize,
            )
        })
        .await
    }

    /// File calls may wait for a disk or a file server: they run on tokio's threads for that.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let directory = self.clone();
        match tokio::task::spawn_blocking(move || work(&directory)).await {
            Ok(result) => result.map_err(|fault| fault.into_error(operation, self.name(key))),
            Err(stopped) => Err(StoreError::new(
                ErrorKind::Unavailable,
                operation,
                self.name(key),
                format!("the worker stopped: {stopped}"),
            )),
        }
    }

    fn put_now(&self, key: &str, body: &[u8], condition: &Condition) -> Result<ETag, Fault> {
        tree::check_key(key)?;
        self.tree.create_root()?;
        let workshop = self.tree.workshop()?;
        if !self.is_swept.swap(true, Ordering::Relaxed) {
            workshop.sweep(SystemTime::now() - STALE_AFTER);
        }

        let temporary = workshop.temporary()?;
        let mut file = temporary.file();
        let written = write_durably(&mut file, body);
        written.map_err(|error| Fault::io("writing a temporary file", error))?;

        let _lock = workshop.lock(key)?;
        for _ in 0..FOLDER_ATTEMPTS_MAX {
            let (folder, name) = self.tree.create_folder_of(key)?;
            let current = folder.object(name)?;
            let current_etag = current.as_ref().map(|stat| meta(stat).etag);
            match (condition, &current_etag) {
                (Condition::None, _) | (Condition::Absent, None) => {}
                (Condition::Matches(wanted), Some(etag)) if wanted == etag => {}
                (_, Some(etag)) => {
                    return Err(Fault::Precondition(format!("the object is version {etag}")));
                }
                (_, None) => {
                    return Err(Fault::Precondition("the object does not exist".to_owned()));
                }
            }
            if let Some(current) = &current {
                make_later(file, modified_ns(current))?;
            }
            match temporary.rename_to(&folder, name) {
                Ok(()) => {}
                // A delete took the empty folder away.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(Fault::errno("renaming into place", errno)),
            }
            folder.sync()?;
            let stat = nix::sys::stat::fstat(file.as_fd())
                .map_err(|errno| Fault::errno("looking at the new file", errno))?;
            return Ok(meta(&stat).etag);
        }
        Err(Fault::errno("making the folder", Errno::ENOENT))
    }

    fn get_now(&self, key: &str, options: &GetOptions) -> Result<Got, Fault> {
        let (folder, name) = self.tree.folder_of(key)?;
        let (file, stat) = folder.open_object(name)?;
        let Meta { etag, len } = meta(&stat);
        if options.if_none_match.as_ref() == Some(&etag) {
            return Ok(Got::NotModified);
        }
        let range = options.range.clone().unwrap_or(0..len);
        let start = range.start.min(len);
        let wanted_len = range.end.clamp(start, len) - start;
        if wanted_len > OBJECT_LEN_MAX_BYTES {
            return Err(Fault::TooLong(wanted_len));
        }
        let mut body = vec![0; wanted_len as usize];
        file.read_exact_at(&mut body, start)
            .map_err(|error| Fault::io("reading", error))?;
        Ok(Got::Object {
            body: body.into(),
            etag,
            total_len: len,
        })
    }
}

fn write_durably(file: &mut &File, body: &[u8]) -> std::io::Result<()> {
    file.write_all(body)?;
    // The kernel's own time stamps have the granularity of its tick, several versions a tick.
    file.set_modified(SystemTime::now())?;
    file.sync_all()
}

/// Gives `file` a modification time after `previous_ns`, by the smallest step that the file system
/// keeps: a clock may have been set back, and some file systems store seconds.
fn make_later(file: &File, previous_ns: i128) -> Result<(), Fault> {
    const STEPS_NS: [i128; 5] = [1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];
    let looking = |errno| Fault::errno("looking at a temporary file", errno);
    for step_ns in STEPS_NS {
        let stat = nix::sys::stat::fstat(file.as_fd()).map_err(looking)?;
        if modified_ns(&stat) > previous_ns {
            return Ok(());
        }
        let later_ns = u64::try_from(previous_ns + step_ns).unwrap_or(0);
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(later_ns))
            .and_then(|()| file.sync_all())
            .map_err(|error| Fault::io("setting the time of a temporary file", error))?;
    }
    Ok(())
}

fn modified_ns(stat: &FileStat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn meta(stat: &FileStat) -> Meta {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    Meta {
        etag: ETag::new(format!("{:x}-{len:x}", modified_ns(stat))),
        len,
    }
}

#[cfg(test)]
mod tests;
