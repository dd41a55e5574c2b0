//! What the self-check has counted: written down by `mod.rs` and `notes`, appended to a file for whoever sums it up over all processes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What is counted, in the order of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Databases,
    /// Write transactions that have ended.
    Transactions,
    /// Those that were compared with one target at least.
    Checked,
    /// Chunks that were compared with the bytes in a change log.
    Log,
    /// With the id in a manifest.
    Manifest,
    /// Chunks that would be read from the file: nothing to compare with.
    File,
    /// Published manifests that are a noted state.
    Manifests,
    /// Published manifests of states that were not noted.
    ManifestsUnknown,
    /// Transactions that waited for the catch-up.
    Waited,
    SkippedUnspooled,
    SkippedCopier,
    SkippedStore,
    SkippedManifest,
    SkippedSpool,
}

const NAMES: [&str; 14] = [
    "databases",
    "transactions",
    "checked",
    "log",
    "manifest",
    "file",
    "manifests",
    "manifests_unknown",
    "waited",
    "skipped_unspooled",
    "skipped_copier",
    "skipped_store",
    "skipped_manifest",
    "skipped_spool",
];

/// A line is due after so many transactions, for processes that are killed.
const TRANSACTIONS_PER_LINE: u64 = 1_000;
/// More of the chunks than this share from the file, and a transaction waits for the catch-up: one in twenty, for the goal is fewer than one in ten.
const FILE_SHARE: u64 = 20;

/// Where this process appends its lines, for the one that it writes at its end.
static REPORT: OnceLock<PathBuf> = OnceLock::new();

#[derive(Debug, Default)]
pub(crate) struct Totals {
    report: Option<PathBuf>,
    /// Since the last line.
    counts: [AtomicU64; NAMES.len()],
    /// Of the whole process: chunks compared, and those of them from the file.
    chunks: AtomicU64,
    from_file: AtomicU64,
}

impl Totals {
    pub(crate) fn new(report: Option<PathBuf>) -> Self {
        if let Some(path) = &report {
            // One per process: it comes from the environment.
            let _ = REPORT.set(path.clone());
        }
        Self {
            report,
            ..Self::default()
        }
    }

    pub(crate) fn add(&self, what: Count, more: u64) {
        self.counts[what as usize].fetch_add(more, Relaxed);
    }

    /// Counts what one transaction's comparison came to.
    pub(crate) fn add_chunks(&self, [log, manifest, file]: [u64; 3]) {
        self.add(Count::Log, log);
        self.add(Count::Manifest, manifest);
        self.add(Count::File, file);
        self.chunks.fetch_add(log + manifest + file, Relaxed);
        self.from_file.fetch_add(file, Relaxed);
    }

    /// Whether too many chunks come from the file, with these.
    pub(crate) fn proves_too_little(&self, [log, manifest, file]: [u64; 3]) -> bool {
        let all = self.chunks.load(Relaxed) + log + manifest + file;
        file > 0 && (self.from_file.load(Relaxed) + file) * FILE_SHARE > all
    }

    /// Writes a line if one is due.
    pub(crate) fn report_in_between(&self) {
        if self.counts[Count::Transactions as usize].load(Relaxed) >= TRANSACTIONS_PER_LINE {
            self.report();
        }
    }

    /// Appends what was counted since the last line, with one write.
    pub(crate) fn report(&self) {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.swap(0, Relaxed))
            .collect();
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        let mut line = format!("verneuil-self-check pid={}", std::process::id());
        for (name, count) in NAMES.iter().zip(counts) {
            // Into a string: can't fail.
            let _ = write!(line, " {name}={count}");
        }
        let Some(path) = &self.report else {
            tracing::info!(totals = line, "self-check");
            return;
        };
        if let Err(error) = append(path, line) {
            tracing::error!(path = %path.display(), %error, "cannot write the self-check's report");
        }
    }
}

/// For harnesses whose programs keep stderr and their ends to themselves.
pub(crate) fn report_mismatch(database: &Path, target: &str, what: &str) {
    if let Some(path) = REPORT.get() {
        let line = format!(
            "verneuil-self-check MISMATCH pid={} db={} target={target} {what}",
            std::process::id(),
            database.display()
        );
        // The process ends in any case.
        drop(append(path, line));
    }
}

fn append(path: &Path, mut line: String) -> io::Result<()> {
    line.push('\n');
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(line.as_bytes())
}
