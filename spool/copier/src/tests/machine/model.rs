//! The reference: every state that was ever committed, by the hash of its content, and what a store and a spool may look like beside it; `run` asks after every step.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blake3::Hash;
use verneuil_config::TargetConfig;
use verneuil_format::{Manifest, manifest_key};

use super::super::world::bytes_of;
use super::content::hash_of;

/// P2: the spool of a database stays below this many times its size …
const SPOOL_TIMES: u64 = 4;
/// … and so much.
const SPOOL_MORE_BYTES: u64 = 16 << 20;
/// The unit of `st_blocks`.
const BLOCK_LEN_BYTES: u64 = 512;

/// What is known of one target.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) root: PathBuf,
    key: String,
    /// The manifest as it was last read.
    manifest: Option<Vec<u8>>,
    /// Which state it holds.
    pub(super) state: Option<usize>,
    generation: u64,
    /// Objects that its manifests may name are gone: until a manifest is written from nothing, it may lead nowhere.
    pub(super) is_torn: bool,
    /// The spool knows nothing of what was published: with the manifest gone, too, generations begin anew.
    is_forgotten: bool,
    /// What was published is gone, and nothing has been published since: nobody asks the store while nothing is pending.
    pub(super) is_lost: bool,
}

pub(super) struct Model {
    pub(super) path: PathBuf,
    /// Oldest first; neighbours differ.
    pub(super) states: Vec<Hash>,
    /// The file is gone.
    pub(super) is_missing: bool,
    pub(super) len_bytes: u64,
    pub(super) targets: Vec<Target>,
}

impl Target {
    pub(super) fn new(target: &TargetConfig, path: &Path) -> Self {
        let TargetConfig::Directory(directory) = target else {
            unreachable!("the worker's targets are directories");
        };
        Self {
            name: target.describe(),
            root: directory.path.clone(),
            key: manifest_key("here", path.as_os_str().as_bytes()),
            manifest: None,
            state: None,
            generation: 0,
            is_torn: false,
            is_forgotten: false,
            is_lost: false,
        }
    }

    pub(super) fn manifest_path(&self) -> PathBuf {
        self.root.join(&self.key)
    }

    /// P5 and P6, if there is a new manifest: it names only what is there, is a committed state, and none older than the last one.
    fn check(&mut self, states: &[Hash]) -> Result<bool, String> {
        let Ok(manifest) = std::fs::read(self.manifest_path()) else {
            self.manifest = None;
            return Ok(false);
        };
        if self.manifest.as_ref() == Some(&manifest) {
            return Ok(false);
        }
        let name = &self.name;
        let decoded = Manifest::decode(&manifest)
            .map_err(|error| format!("{name}: the manifest can't be read: {error}"))?;
        let generation = decoded.generation().0;
        // A copier that died after the manifest and before its record leaves the number to the store, which has lost it.
        let is_unknown = self.is_lost && (self.is_forgotten || generation == self.generation);
        if generation <= self.generation && !is_unknown {
            return Err(format!(
                "{name}: manifest {generation} was published after {}",
                self.generation
            ));
        }
        self.generation = generation;
        self.manifest = Some(manifest);
        (self.is_lost, self.is_forgotten) = (false, false);
        let bytes = match bytes_of(&self.root, &decoded) {
            Ok(bytes) => bytes,
            Err(_) if self.is_torn => {
                self.is_lost = true;
                return Ok(true);
            }
            Err(error) => return Err(format!("P6: {name}, manifest {generation}: {error}")),
        };
        let len_bytes = bytes.len();
        let hash = hash_of(bytes);
        let first = self.state.unwrap_or(0);
        match (first..states.len()).find(|at| states[*at] == hash) {
            Some(at) => self.state = Some(at),
            None => {
                let is_old = states.contains(&hash);
                return Err(format!(
                    "P5: {name}, manifest {generation}, {} bytes, is {}; {} states",
                    len_bytes,
                    if is_old {
                        "an older state"
                    } else {
                        "no committed state"
                    },
                    states.len(),
                ));
            }
        }
        Ok(true)
    }
}

impl Model {
    pub(super) fn new(path: PathBuf, targets: &[TargetConfig]) -> Self {
        Self {
            targets: targets.iter().map(|t| Target::new(t, &path)).collect(),
            path,
            states: Vec::new(),
            is_missing: true,
            len_bytes: 0,
        }
    }

    /// Whether the journal is one that a transaction uses, or that one left behind: the file may be in the middle of something.
    pub(super) fn is_journal_live(&self) -> bool {
        let mut name = self.path.clone().into_os_string();
        name.push("-journal");
        let mut first = [0];
        std::fs::File::open(name)
            .and_then(|mut file| file.read_exact(&mut first))
            .is_ok()
            && first != [0]
    }

    /// Notes what is committed now. Nobody is in the middle of a call, so the file is what was committed last, unless a journal says otherwise.
    pub(super) fn observe(&mut self) -> bool {
        if self.is_journal_live() {
            return false;
        }
        let Ok(bytes) = std::fs::read(&self.path) else {
            self.is_missing = true;
            return false;
        };
        self.is_missing = false;
        self.len_bytes = bytes.len() as u64;
        let hash = hash_of(bytes);
        if self.states.last() == Some(&hash) {
            return false;
        }
        self.states.push(hash);
        true
    }

    /// The spool, or its folder, is gone.
    pub(super) fn forget_published(&mut self) {
        let targets = self.targets.iter_mut();
        targets.for_each(|target| target.is_forgotten = true);
    }

    /// P5 and P6 for each target; how many manifests were new.
    pub(super) fn check_targets(&mut self) -> Result<u64, String> {
        let mut news = 0;
        for target in &mut self.targets {
            news += u64::from(target.check(&self.states)?);
        }
        Ok(news)
    }

    /// P8: a target of which a flush has said that it has everything.
    pub(super) fn check_complete(&self, target: usize) -> Result<(), String> {
        let target = &self.targets[target];
        let is_there = target.is_lost
            || self.is_missing
            || target
                .state
                .is_some_and(|at| self.states.get(at) == self.states.last());
        if is_there {
            return Ok(());
        }
        Err(format!(
            "P8: {} is said to have everything; it holds state {:?} of {}",
            target.name,
            target.state,
            self.states.len()
        ))
    }

    /// P2, with the logs that have no name any more. Returns how large the spool is.
    pub(super) fn check_spool(&self, spool: &Path) -> Result<u64, String> {
        let used = used_bytes(spool) + nameless_bytes(spool);
        let bound = SPOOL_TIMES * self.len_bytes + SPOOL_MORE_BYTES;
        if used > bound {
            return Err(format!(
                "P2: the spool of {} bytes takes {used}",
                self.len_bytes
            ));
        }
        Ok(used)
    }
}

fn used_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => used_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * BLOCK_LEN_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Logs that this process, the copier, holds open without a name.
fn nameless_bytes(spool: &Path) -> u64 {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut seen = BTreeSet::new();
    links
        .filter_map(|link| {
            let name = std::fs::read_link(link.path()).ok()?;
            let is_ours = name.starts_with(spool) && name.to_str()?.ends_with(" (deleted)");
            let meta = std::fs::metadata(link.path()).ok()?;
            (is_ours && seen.insert(meta.ino())).then(|| meta.blocks() * BLOCK_LEN_BYTES)
        })
        .sum()
}
