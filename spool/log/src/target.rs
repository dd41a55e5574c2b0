//! The record of one target in a database's folder: what it was sent last, and what it lacks. Kept by `ledger`, read by `progress`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::chunks::ChunkSet;
use crate::drain::Need;
use crate::error::SpoolError;
use crate::private;
use crate::spool::{Publish, publish_file};

const PREFIX: &str = "target-";
const SUFFIX: &str = ".json";
/// A set of chunks in more pieces than this is written down as "all": comparing everything costs less than such a record at every publication.
const RANGES_MAX: usize = 4_096;

/// A target of one database: a hash of the store and of the manifest's key in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u64);

/// What the spool remembers about one target of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRecord {
    /// Control page that generations and epochs are of.
    pub page_id: u64,
    /// The store, for people.
    pub name: String,
    /// Number of the last manifest that was published there; 0 for none.
    pub generation: u64,
    /// SQLite's change counter in that manifest.
    pub change_counter: Option<u32>,
    /// When it was published, in nanoseconds since the epoch.
    pub published_ns: Option<i64>,
    /// Generation of the log up to which the target holds every commit.
    pub covers: u32,
    /// Odd epoch whose leftovers were read in quiet mode and published.
    pub settled_epoch: u64,
    /// Chunks that may differ between that manifest and the database.
    pub lacks: Lacks,
    /// An object that its manifest refers to was found missing or damaged: the next one refers to nothing of it.
    #[serde(default)]
    pub is_distrusted: bool,
    /// Since when it lacks something, in nanoseconds since the epoch.
    pub behind_ns: Option<i64>,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// When it failed, in nanoseconds since the epoch.
    pub failed_ns: Option<i64>,
}

/// A set of chunks as the record holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lacks {
    /// Every chunk.
    All,
    /// First and last chunk of each piece, in ascending order.
    Ranges(Vec<(u32, u32)>),
}

impl Lacks {
    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }

    /// Number of chunks; `None` for all.
    pub fn chunk_count(&self) -> Option<u64> {
        match self {
            Self::All => None,
            Self::Ranges(ranges) => Some(
                ranges
                    .iter()
                    .map(|(first, last)| u64::from(last.saturating_sub(*first)) + 1)
                    .sum(),
            ),
        }
    }

    pub(crate) fn of(need: &Need) -> Self {
        let Need::Chunks(set) = need else {
            return Self::All;
        };
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for chunk in set.iter() {
            let pieces = ranges.len();
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(chunk) => *last = chunk,
                _ if pieces == RANGES_MAX => return Self::All,
                _ => ranges.push((chunk, chunk)),
            }
        }
        Self::Ranges(ranges)
    }

    pub(crate) fn to_need(&self, chunks_max: u64) -> Need {
        let Self::Ranges(ranges) = self else {
            return Need::All;
        };
        let mut set = ChunkSet::default();
        for (first, last) in ranges {
            // A damaged record: nothing it says counts.
            if first > last || u64::from(*last) >= chunks_max {
                return Need::All;
            }
            set.insert_range(*first, *last);
        }
        Need::Chunks(set)
    }
}

impl TargetRecord {
    /// Of a target that nothing is known about: it lacks everything.
    pub(crate) fn unknown(page_id: u64, name: &str) -> Self {
        Self {
            page_id,
            name: name.to_owned(),
            generation: 0,
            change_counter: None,
            published_ns: None,
            covers: 0,
            settled_epoch: 0,
            lacks: Lacks::All,
            is_distrusted: false,
            behind_ns: Some(now_ns()),
            error: None,
            failed_ns: None,
        }
    }

    /// The control page was made anew: what was sent remains known, what is lacking is not.
    pub(crate) fn forget_page(&mut self, page_id: u64) {
        self.page_id = page_id;
        (self.covers, self.settled_epoch) = (0, 0);
        self.lacks = Lacks::All;
    }

    pub(crate) fn write(&self, dir: &Path, target: TargetId) -> Result<(), SpoolError> {
        let path = path_of(dir, target);
        let text = serde_json::to_vec(self)
            .map_err(|error| SpoolError::unusable(&path, format!("cannot be written: {error}")))?;
        publish_file(&path, dir, &text, Publish::Replace)
    }
}

/// The records in `dir`. One that can't be read is that of a target about which nothing is known.
pub(crate) fn read_records(dir: &Path) -> Result<Vec<(TargetId, TargetRecord)>, SpoolError> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).map_err(SpoolError::io("read", dir))? {
        let entry = entry.map_err(SpoolError::io("read", dir))?;
        let name = entry.file_name();
        let target = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .and_then(|hash| u64::from_str_radix(hash, 16).ok());
        let Some(target) = target.map(TargetId) else {
            continue;
        };
        // The name that this program writes, and no other of the same number.
        if path_of(dir, target) != entry.path() {
            continue;
        }
        let read = private::read(&entry.path()).and_then(|text| {
            serde_json::from_slice(&text).map_err(|error| {
                SpoolError::unusable(&entry.path(), format!("cannot be read: {error}"))
            })
        });
        let record = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "what a target lacks is not known: the whole database is compared");
            TargetRecord::unknown(0, "")
        });
        records.push((target, record));
    }
    Ok(records)
}

fn path_of(dir: &Path, target: TargetId) -> PathBuf {
    dir.join(format!("{PREFIX}{:016x}{SUFFIX}", target.0))
}

/// Now, in nanoseconds since the epoch; for people, nothing depends on it.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_disk_and_a_damaged_one_lacks_everything() {
        let dir = tempfile::tempdir().unwrap();
        let mut set = ChunkSet::default();
        set.insert_range(3, 9);
        set.insert(4_096);
        let record = TargetRecord {
            lacks: Lacks::of(&Need::Chunks(set.clone())),
            ..TargetRecord::unknown(1, "somewhere")
        };
        assert_eq!(record.lacks.chunk_count(), Some(8));
        record.write(dir.path(), TargetId(7)).unwrap();
        let found = read_records(dir.path()).unwrap();
        assert_eq!(found, [(TargetId(7), record)]);
        assert_eq!(found[0].1.lacks.to_need(10_000), Need::Chunks(set));
        assert_eq!(found[0].1.lacks.to_need(4_096), Need::All);
        fs::write(path_of(dir.path(), TargetId(7)), b"{\"name\":").unwrap();
        assert_eq!(read_records(dir.path()).unwrap()[0].1.lacks, Lacks::All);
    }

    #[test]
    fn a_set_in_too_many_pieces_is_all() {
        let mut set = ChunkSet::default();
        (0..=RANGES_MAX as u32).for_each(|chunk| set.insert(2 * chunk));
        assert_eq!(Lacks::of(&Need::Chunks(set)), Lacks::All);
    }
}
