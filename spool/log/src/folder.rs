//! The folder of one database in the spool: control page, logs, lock file, last error, and `database.json`. Opened by `database`, used by
//! `writer` and `drain`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use verneuil_config::TargetConfig;
use verneuil_dbfile::off_standard_streams;

use crate::chunks::chunk_count;
use crate::control::{Control, PageIdentity};
use crate::database::DatabaseInfo;
use crate::error::SpoolError;
use crate::spool::{
    Publish, Spool, create_aside, decode_path, encode_path, give_name, open_private, publish_file,
};

const CONTROL_FILE: &str = "control";
const RECORD_FILE: &str = "database.json";
const LOCK_FILE: &str = "copier.lock";
const LOG_PREFIX: &str = "log-";
/// Bytes of a database's name that its folder's name repeats, for whoever looks into the spool.
const NAME_LEN_MAX_BYTES: usize = 48;

/// What is recorded beside a database, so that its spool can be flushed without the application.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    path: String,
    hostname: String,
    targets: Vec<TargetConfig>,
    software_version: String,
}

/// The folder of one database, with its control page mapped.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    pub control: Control,
    /// Whose state it is.
    pub identity: PageIdentity,
    logs: Mutex<OpenLogs>,
}

/// The log of the current generation, open for appending; and the one before, so that it is not the committing thread which closes it when
/// the copier seals in the middle of an append.
#[derive(Debug, Default)]
struct OpenLogs {
    current: Option<OpenLog>,
    previous: Option<OpenLog>,
}

#[derive(Debug)]
struct OpenLog {
    generation: u32,
    file: Arc<File>,
    /// A writer had to open it itself, because the copier is in another process: nobody else will close the one before.
    is_writers: bool,
}

impl OpenLogs {
    fn current(&self, generation: u32) -> Option<Arc<File>> {
        self.current
            .as_ref()
            .filter(|log| log.generation == generation)
            .map(|log| log.file.clone())
    }

    /// Returns what is to be closed, for the caller to do so without the mutex.
    fn advance(&mut self, next: OpenLog) -> Option<OpenLog> {
        let last = self.current.replace(next);
        std::mem::replace(&mut self.previous, last)
    }
}

/// Name of the folder of the database at `path`.
pub(crate) fn folder_name(path: &Path) -> String {
    let hash = blake3::hash(path.as_os_str().as_bytes());
    let name = path
        .file_name()
        .map(|name| name.as_bytes())
        .unwrap_or_default();
    let plain = |byte: &u8| {
        if byte.is_ascii_alphanumeric() || b"._-".contains(byte) {
            char::from(*byte)
        } else {
            '_'
        }
    };
    let name: String = name.iter().take(NAME_LEN_MAX_BYTES).map(plain).collect();
    format!("{name}-{}", &hash.to_hex()[..32])
}

impl Folder {
    /// Opens the folder of the database at `path`, and makes what is missing or unusable: a new control page says that everything is to do.
    pub fn attach(spool: &Spool, path: &Path, info: &DatabaseInfo) -> Result<Self, SpoolError> {
        let (dir, identity) = spool.create_folder(path)?;
        write_record(&dir, path, info)?;
        let file_len = fs::metadata(path).map_or(0, |meta| meta.len());
        let control = match open_control(&dir, identity) {
            Ok(control) => control,
            Err(error) if error.is_not_found() => {
                build_control(&dir, identity, file_len, Publish::IfAbsent)?
            }
            Err(error @ SpoolError::Unusable { .. }) => {
                tracing::warn!(%error, "the control page is made anew: the whole database will be read once");
                build_control(&dir, identity, file_len, Publish::Replace)?
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            dir,
            control,
            identity,
            logs: Mutex::default(),
        })
    }

    /// Opens a folder that another process has made.
    pub fn open_existing(dir: &Path, identity: PageIdentity) -> Result<Self, SpoolError> {
        let control = open_control(dir, identity)?;
        Ok(Self {
            dir: dir.to_owned(),
            control,
            identity,
            logs: Mutex::default(),
        })
    }

    /// Whether the control page is still the one that others see, and intact as far as that shows (one system call).
    pub fn is_current(&self) -> bool {
        self.control.is_current(&self.identity)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log_path(&self, generation: u32) -> PathBuf {
        self.dir.join(format!("{LOG_PREFIX}{generation}"))
    }

    pub fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK_FILE)
    }

    /// The log of `generation`, for appending; kept open until the generation after the next.
    pub fn open_log(&self, generation: u32) -> Result<Arc<File>, SpoolError> {
        let mut logs = self.logs();
        if let Some(file) = logs.current(generation) {
            let old = match &logs.current {
                Some(log) if log.is_writers => logs.previous.take(),
                _ => None,
            };
            drop(logs);
            drop(old);
            return Ok(file);
        }
        let path = self.log_path(generation);
        let file = Arc::new(
            File::options()
                .write(true)
                .open(&path)
                .and_then(off_standard_streams)
                .map_err(SpoolError::io("open", &path))?,
        );
        let old = logs.advance(OpenLog {
            generation,
            file: file.clone(),
            is_writers: true,
        });
        drop(logs);
        drop(old);
        Ok(file)
    }

    /// Copier step 8: an empty log for a generation that is about to begin.
    pub fn prepare_log(&self, generation: u32) -> Result<Arc<File>, SpoolError> {
        open_private(&self.log_path(generation), true).map(Arc::new)
    }

    /// Lets the writers of this process find the log of `generation` open, which saves them a system call in the commit after a seal.
    pub fn hand_out_log(&self, generation: u32, file: Arc<File>) {
        let mut logs = self.logs();
        // A writer that was faster has opened it itself.
        let old = if logs.current(generation).is_some() {
            None
        } else {
            logs.advance(OpenLog {
                generation,
                file,
                is_writers: false,
            })
        };
        drop(logs);
        drop(old);
    }

    fn logs(&self) -> MutexGuard<'_, OpenLogs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn remove_log(&self, generation: u32) -> Result<(), SpoolError> {
        let path = self.log_path(generation);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SpoolError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Generations whose logs are there, in ascending order.
    pub fn log_generations(&self) -> Result<Vec<u32>, SpoolError> {
        log_generations(&self.dir)
    }
}

/// What `database.json` in `dir` says.
pub(crate) fn read_record(dir: &Path) -> Result<(PathBuf, DatabaseInfo), SpoolError> {
    let path = dir.join(RECORD_FILE);
    let text = fs::read(&path).map_err(SpoolError::io("read", &path))?;
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| SpoolError::unusable(&path, format!("cannot be read: {error}")))?;
    let database = decode_path(&record.path)
        .ok_or_else(|| SpoolError::unusable(&path, "names no database"))?;
    Ok((
        database,
        DatabaseInfo {
            hostname: record.hostname,
            targets: record.targets,
        },
    ))
}

fn write_record(dir: &Path, database: &Path, info: &DatabaseInfo) -> Result<(), SpoolError> {
    let path = dir.join(RECORD_FILE);
    let record = Record {
        path: encode_path(database),
        hostname: info.hostname.clone(),
        targets: info.targets.clone(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| SpoolError::unusable(&path, format!("cannot be written: {error}")))?;
    if fs::read(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    publish_file(&path, dir, &text, Publish::Replace)
}

fn open_control(dir: &Path, identity: PageIdentity) -> Result<Control, SpoolError> {
    let path = dir.join(CONTROL_FILE);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .and_then(off_standard_streams)
        .map_err(SpoolError::io("open", &path))?;
    Control::open(file, &path, &identity)
}

/// Recovery: a control page that is missing or unusable is built aside, with everything to do, and then linked (or renamed over the bad one:
/// whoever has that mapped sees that it has no name any more).
fn build_control(
    dir: &Path,
    identity: PageIdentity,
    file_len: u64,
    publish: Publish,
) -> Result<Control, SpoolError> {
    let path = dir.join(CONTROL_FILE);
    // Beyond every log that is there: their generations mean nothing to the new page.
    let generation = log_generations(dir)?
        .last()
        .map_or(1, |last| last.saturating_add(1));
    open_private(&dir.join(format!("{LOG_PREFIX}{generation}")), false)?;
    let (file, aside) = create_aside(dir)?;
    let built = Control::build(file, &aside, &identity, generation, chunk_count(file_len))
        .and_then(|control| give_name(&aside, &path, publish).map(|named| (control, named)));
    match built {
        Ok((control, true)) => Ok(control),
        Ok((_, false)) => open_control(dir, identity),
        Err(error) => {
            drop(fs::remove_file(&aside));
            Err(error)
        }
    }
}

fn log_generations(dir: &Path) -> Result<Vec<u32>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(SpoolError::io("read", dir))? {
        let name = entry.map_err(SpoolError::io("read", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(LOG_PREFIX));
        found.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn any_path_survives_the_record() {
        let path = PathBuf::from(OsStr::from_bytes(b"/a b/\xff%2F\n/db\"~.sqlite"));
        assert_eq!(decode_path(&encode_path(&path)), Some(path));
        assert_eq!(decode_path("/%f"), None);
        assert_eq!(crate::spool::to_hex(&[0, 255]), "00ff");
    }

    #[test]
    fn folder_names_tell_paths_apart() {
        let (a, b) = (
            folder_name(Path::new("/x/data.db")),
            folder_name(Path::new("/y/data.db")),
        );
        assert_ne!(a, b);
        assert!(a.starts_with("data.db-") && b.starts_with("data.db-"));
        let long = PathBuf::from(format!("/{}", "é".repeat(120)));
        assert!(folder_name(&long).len() < 100);
    }
}
