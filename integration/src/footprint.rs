//! How much room a spool takes, sampled while others work; the tests of `tests/write_side/store_away.rs` bound it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// Pause between two samples.
const PERIOD: Duration = Duration::from_millis(100);

/// The unit of `st_blocks`.
const BLOCK_LEN_BYTES: u64 = 512;

/// One look at a spool and a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// What `du` says of the spool.
    pub spool_bytes: u64,
    /// The part of it that is change logs.
    pub log_bytes: u64,
    /// Length of the database at that time.
    pub database_bytes: u64,
}

/// What `du` says of a folder: blocks in use. What goes away meanwhile counts as nothing.
#[must_use]
pub fn used_bytes(folder: &Path) -> u64 {
    sum(folder, &|_| true)
}

/// The same, of the change logs below `folder` only.
#[must_use]
pub fn log_bytes(folder: &Path) -> u64 {
    sum(folder, &|name| name.starts_with("log-"))
}

fn sum(folder: &Path, counts: &impl Fn(&str) -> bool) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            bytes += sum(&entry.path(), counts);
        }
        if counts(&entry.file_name().to_string_lossy()) {
            bytes += meta.blocks() * BLOCK_LEN_BYTES;
        }
    }
    bytes
}

/// Samples until it is asked for what it saw.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Sample>>>,
}

impl Sampler {
    /// Begins to look at `spool` and `database` every 100 ms.
    #[must_use]
    pub fn start(spool: PathBuf, database: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                samples.push(Sample {
                    // The length first: a database that grows meanwhile must not excuse anything.
                    database_bytes: std::fs::metadata(&database).map_or(0, |meta| meta.len()),
                    spool_bytes: used_bytes(&spool),
                    log_bytes: log_bytes(&spool),
                });
                std::thread::sleep(PERIOD);
            }
            samples
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// All samples, in their order.
    ///
    /// # Errors
    /// When the sampling thread panicked.
    pub fn finish(mut self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the sampler panicked")),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
