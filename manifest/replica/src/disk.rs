//! The disk cache: one file per frame, named by the hash of what it decodes to, in directories that several processes
//! may share. [`crate::frames`] looks here between memory and the store.
//!
//! A file holds the zstd frame as the store has it: half the space of the raw chunk, and nothing to compress again.
//! There is no index: a name is a hash, a reader checks every byte against it, and the modification time (renewed when
//! a file is used) is the order of eviction. Files come by temp file and rename, so that none is ever half written.
//! Nothing here is an error for a reader: what can't be used is as good as absent.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use verneuil_config::CacheConfig;

use crate::error::ReplicaError;

/// A file's time is renewed at most this often: order among files that were all used lately matters little.
const RENEW_AFTER: Duration = Duration::from_secs(600);
/// A temp file this old belongs to a process that died.
const TEMP_STALE_AFTER: Duration = Duration::from_secs(3600);
const TEMP_PREFIX: &str = ".tmp-";
/// Files occupy whole blocks.
const BLOCK_LEN_BYTES: u64 = 4096;
/// Part of the capacity that a process adds before it looks what the others added: 16 processes that start together
/// on a full cache exceed it by at most its own size, one alone never does.
const RECOUNT_SHARE: u64 = 16;

/// All cache directories, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct DiskCache {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    root: PathBuf,
    /// `None`: somebody else's, only read.
    local: Option<Local>,
}

#[derive(Debug)]
struct Local {
    capacity_bytes: u64,
    usage: Mutex<Usage>,
    /// A failure was logged, and nothing has succeeded since.
    failing: AtomicBool,
    /// One of this process' threads is making room.
    trimming: AtomicBool,
}

#[derive(Debug, Default)]
struct Usage {
    /// Occupied when last counted, plus what this process added. `None`: never counted.
    total_bytes: Option<u64>,
    added_since_bytes: u64,
}

impl DiskCache {
    /// Opens (creates, mode 0700) the cache directories.
    ///
    /// # Errors
    /// A writable directory that can't be created; others stay created. A read-only one may appear later.
    pub(crate) fn open(configs: &[CacheConfig]) -> Result<Self, ReplicaError> {
        let mut layers = Vec::new();
        for config in configs {
            layers.push(match config {
                CacheConfig::Local {
                    directory,
                    capacity_bytes,
                } => {
                    DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(directory)
                        .map_err(|cause| ReplicaError::cache(directory, cause))?;
                    Layer {
                        root: directory.clone(),
                        local: Some(Local {
                            capacity_bytes: *capacity_bytes,
                            usage: Mutex::default(),
                            failing: AtomicBool::new(false),
                            trimming: AtomicBool::new(false),
                        }),
                    }
                }
                CacheConfig::ReadOnly { directory } => Layer {
                    root: directory.clone(),
                    local: None,
                },
            });
        }
        Ok(Self { layers })
    }

    /// Is there no directory to look into?
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What `check` makes of the frame that is called `name` (64 hexadecimal digits). A frame that it refuses is
    /// removed, where it is ours. Blocks.
    pub(crate) fn lookup<T>(
        &self,
        name: &str,
        len_max_bytes: u64,
        check: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        for layer in &self.layers {
            let path = layer.path(name);
            let frame = match read_bounded(&path, len_max_bytes, layer.local.is_some()) {
                Ok(frame) => frame,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::debug!(path = %path.display(), %error, "cache file not readable");
                    }
                    continue;
                }
            };
            if let Some(value) = frame.as_deref().and_then(&check) {
                return Some(value);
            }
            tracing::warn!(path = %path.display(), "damaged cache file, fetching again");
            if layer.local.is_some() {
                // Another process may have removed or replaced it already: both are fine.
                let _ = std::fs::remove_file(&path);
            }
        }
        None
    }

    /// Keeps `frame` in the first writable directory. Blocks; failures are logged once until one succeeds.
    pub(crate) fn insert(&self, name: &str, frame: &[u8]) {
        let Some((layer, local)) = self
            .layers
            .iter()
            .find_map(|layer| Some((layer, layer.local.as_ref()?)))
        else {
            return;
        };
        match insert(&layer.root, local, &layer.path(name), frame) {
            Ok(()) => local.failing.store(false, Ordering::Relaxed),
            Err(error) => {
                if !local.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(directory = %layer.root.display(), %error, "cannot write to the cache directory");
                }
            }
        }
    }
}

impl Local {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `cost` bytes in; false if they don't fit, or if it is time to look what others have added.
    fn reserve(&self, root: &Path, cost: u64) -> io::Result<bool> {
        let mut usage = self.usage();
        let occupied = match usage.total_bytes {
            Some(occupied) => occupied,
            // The first look, for which all wait.
            None => trim(root, self.capacity_bytes, 0)?,
        };
        let total = occupied.saturating_add(cost);
        usage.total_bytes = Some(occupied);
        let fits = total <= self.capacity_bytes
            && usage.added_since_bytes <= self.capacity_bytes / RECOUNT_SHARE;
        if fits {
            usage.total_bytes = Some(total);
            usage.added_since_bytes = usage.added_since_bytes.saturating_add(cost);
        }
        Ok(fits)
    }
}

impl Layer {
    fn path(&self, name: &str) -> PathBuf {
        let fan_out = name.get(..2).unwrap_or("__");
        self.root.join(fan_out).join(name)
    }
}

/// The file's bytes; `None` when it is longer than anything that we would write. Never follows a link out of the
/// directory, never waits for a pipe that somebody put there.
fn read_bounded(path: &Path, len_max_bytes: u64, renew: bool) -> io::Result<Option<Vec<u8>>> {
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > len_max_bytes {
        return Ok(None);
    }
    let mut frame = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    (&file).take(len_max_bytes).read_to_end(&mut frame)?;
    if renew {
        let now = SystemTime::now();
        let age = meta
            .modified()
            .ok()
            .and_then(|m| now.duration_since(m).ok());
        if age.is_some_and(|age| age > RENEW_AFTER) {
            // Only the order of eviction depends on it.
            let _ = file.set_modified(now);
        }
    }
    Ok(Some(frame))
}

fn occupied_bytes(len_bytes: u64) -> u64 {
    len_bytes
        .checked_next_multiple_of(BLOCK_LEN_BYTES)
        .unwrap_or(u64::MAX)
}

fn insert(root: &Path, local: &Local, path: &Path, frame: &[u8]) -> io::Result<()> {
    let cost = occupied_bytes(frame.len() as u64);
    if cost > local.capacity_bytes || path.exists() {
        return Ok(());
    }
    if !local.reserve(root, cost)? {
        if local.trimming.swap(true, Ordering::AcqRel) {
            // Somebody is making room. What is not kept now can be fetched again; threads must not pile up here.
            return Ok(());
        }
        let trimmed = trim(root, local.capacity_bytes, cost);
        if let Ok(total) = trimmed {
            *local.usage() = Usage {
                total_bytes: Some(total.saturating_add(cost)),
                added_since_bytes: cost,
            };
        }
        local.trimming.store(false, Ordering::Release);
        trimmed?;
    }
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    match DirBuilder::new().mode(0o700).create(parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut temp = tempfile::Builder::new()
        .prefix(TEMP_PREFIX)
        .tempfile_in(parent)?;
    temp.write_all(frame)?;
    // Not synced: a file that a power cut damaged is noticed by its hash.
    temp.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Counts what is there and, when `needed` more bytes would not fit, removes what was used longest ago until an eighth
/// is free. Returns what is occupied then.
fn trim(root: &Path, capacity_bytes: u64, needed_bytes: u64) -> io::Result<u64> {
    let now = SystemTime::now();
    let mut files = Vec::new();
    let mut total: u64 = 0;
    for directory in std::fs::read_dir(root)? {
        let directory = directory?;
        let name = directory.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|n| n.len() == 2 && n.bytes().all(|b| b.is_ascii_hexdigit()));
        if !is_ours || !directory.file_type()?.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(directory.path())? {
            let entry = entry?;
            // Gone since: another process trims too.
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                let age = now.duration_since(modified).unwrap_or_default();
                if age > TEMP_STALE_AFTER {
                    let _ = std::fs::remove_file(entry.path());
                } else {
                    total = total.saturating_add(occupied_bytes(meta.size()));
                }
                continue;
            }
            let cost = occupied_bytes(meta.size());
            total = total.saturating_add(cost);
            files.push((modified, cost, entry.path()));
        }
    }
    if total.saturating_add(needed_bytes) > capacity_bytes {
        let goal =
            (capacity_bytes - capacity_bytes / 8).min(capacity_bytes.saturating_sub(needed_bytes));
        files.sort_unstable();
        for (_, cost, path) in files {
            if total <= goal {
                break;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total = total.saturating_sub(cost),
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: u32) -> String {
        blake3::hash(&i.to_le_bytes()).to_hex().to_string()
    }

    fn local(directory: &Path, capacity_bytes: u64) -> CacheConfig {
        CacheConfig::Local {
            directory: directory.to_owned(),
            capacity_bytes,
        }
    }

    fn occupied(root: &Path) -> u64 {
        let files = std::fs::read_dir(root)
            .expect("root")
            .flat_map(|d| std::fs::read_dir(d.expect("entry").path()).expect("directory"));
        files
            .map(|f| occupied_bytes(f.expect("entry").metadata().expect("metadata").len()))
            .sum()
    }

    #[test]
    fn the_bound_holds_at_every_moment_and_across_restarts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("cache");
        let capacity = 1 << 20;
        let mut kept = 0;
        for round in 0..3 {
            let cache = DiskCache::open(&[local(&root, capacity)]).expect("open");
            for i in 0..100 {
                cache.insert(&name(round * 1000 + i), &[i as u8; 30_000]);
                kept = occupied(&root);
                assert!(kept <= capacity, "{kept}");
            }
        }
        assert!(kept > capacity / 2, "nearly full, not empty: {kept}");
        assert_eq!(root.metadata().expect("metadata").mode() & 0o777, 0o700);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cache = DiskCache::open(&[local(dir.path(), 40 * 4096)]).expect("open");
        for i in 0..40 {
            cache.insert(&name(i), b"frame");
        }
        let old = SystemTime::now() - Duration::from_secs(5000);
        for i in 0..40 {
            let path = cache.layers[0].path(&name(i));
            let file = File::options().write(true).open(path).expect("there");
            file.set_modified(old + Duration::from_secs(u64::from(i)))
                .expect("utimens");
        }
        let get = |i| cache.lookup(&name(i), 100, |f| (f == b"frame").then_some(()));
        assert!(get(0).is_some(), "and is thereby renewed");
        cache.insert(&name(99), b"frame");
        assert!(get(0).is_some() && get(99).is_some() && get(39).is_some());
        assert!(get(1).is_none() && get(2).is_none());
    }

    #[test]
    fn a_damaged_file_is_removed_and_a_read_only_layer_is_used() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        let other = DiskCache::open(&[local(&theirs, 1 << 20)]).expect("open");
        other.insert(&name(1), b"good");
        let cache = DiskCache::open(&[
            local(&ours, 1 << 20),
            CacheConfig::ReadOnly { directory: theirs },
        ])
        .expect("open");
        cache.insert(&name(1), b"bad");
        let check = |frame: &[u8]| (frame == b"good").then(|| frame.to_vec());
        assert_eq!(cache.lookup(&name(1), 100, check), Some(b"good".to_vec()));
        assert!(!cache.layers[0].path(&name(1)).exists(), "removed");
        assert!(cache.layers[1].path(&name(1)).exists());
        assert_eq!(cache.lookup(&name(2), 100, check), None);
    }

    #[test]
    fn what_does_not_fit_or_cannot_be_written_is_not_kept_and_no_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cache = DiskCache::open(&[local(dir.path(), 8192)]).expect("open");
        cache.insert(&name(1), &[0; 100_000]);
        assert_eq!(occupied(dir.path()), 0);
        let gone = dir.path().join("gone");
        let cache = DiskCache::open(&[local(&gone, 8192)]).expect("open");
        std::fs::remove_dir(&gone).expect("rmdir");
        cache.insert(&name(1), b"frame");
        assert_eq!(cache.lookup(&name(1), 100, |_| Some(())), None);
    }
}
