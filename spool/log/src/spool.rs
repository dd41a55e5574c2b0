//! The spool directory: root, instance id, one folder per boot, one per database in it (`folder`). Used by `database` and by `flush SPOOL`.
//!
//! Nothing here is ever synced to disk: state of another boot is ignored, so what a crash of the machine leaves behind is never read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use verneuil_config::SpoolConfig;
use verneuil_dbfile::fork::ForkLocal;

use crate::control::PageIdentity;
use crate::error::SpoolError;
use crate::folder::{Folder, folder_name};
use crate::private::{self, PRIVATE_DIR};

const INSTANCE_FILE: &str = "instance";
/// Files that have no name of their own yet.
const ASIDE_PREFIX: &str = "new-";
/// A file without a name of its own that is older than this is a dead process': it takes microseconds to make one.
const ASIDE_AGE_MAX: Duration = Duration::from_secs(60);
const BOOT_PREFIX: &str = "boot-";

/// The ids of the spools that this process has used, by root: a handful.
static INSTANCES: ForkLocal<Mutex<HashMap<PathBuf, [u8; 16]>>> = ForkLocal::new(Mutex::default);

/// A spool directory. Cheap to make and to clone: nothing on disk is touched before a database is opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spool {
    root: PathBuf,
    permissions: u32,
    boot_id: Option<[u8; 16]>,
}

/// What is in a spool of this boot.
#[derive(Debug, Default)]
pub struct SpoolContents {
    /// The folder of this boot, if there is one yet: it holds those of the databases.
    pub boot: Option<PathBuf>,
    /// Folders of the databases of this boot.
    pub folders: Vec<PathBuf>,
    /// Folders of other boots: their state is ignored.
    pub other_boots: Vec<PathBuf>,
}

impl Spool {
    /// The spool that the configuration describes. Touches no file.
    pub fn new(config: &SpoolConfig) -> Self {
        Self {
            root: config.dir.clone(),
            permissions: config.permissions,
            boot_id: None,
        }
    }

    /// The existing spool at `root`. Touches no file.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            permissions: PRIVATE_DIR,
            boot_id: None,
        }
    }

    /// The same spool as a machine with another boot id would see it.
    #[must_use]
    pub fn with_boot_id(self, boot_id: [u8; 16]) -> Self {
        Self {
            boot_id: Some(boot_id),
            ..self
        }
    }

    /// The spool's root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it has been used before. Creates nothing.
    ///
    /// # Errors
    /// When it can't become one: the directory that it would be in is missing, or it is somebody else's.
    pub fn is_there(&self) -> Result<bool, SpoolError> {
        if self.root.exists() {
            check_owned_directory(&self.root)?;
            return Ok(self.root.join(INSTANCE_FILE).exists());
        }
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        fs::metadata(parent)
            .map(|_| false)
            .map_err(SpoolError::io("open the directory of the spool", parent))
    }

    /// What is there. Creates nothing.
    ///
    /// # Errors
    /// When the directory is missing, is no spool, or can't be read.
    pub fn contents(&self) -> Result<SpoolContents, SpoolError> {
        check_owned_directory(&self.root)?;
        let entries = fs::read_dir(&self.root).map_err(SpoolError::io("read", &self.root))?;
        let current = self.boot_dir()?;
        let mut contents = SpoolContents::default();
        if !self.root.join(INSTANCE_FILE).exists() {
            return Err(SpoolError::unusable(
                &self.root,
                "is not a spool: no database has been replicated through it (check the path)",
            ));
        }
        for entry in entries {
            let path = entry.map_err(SpoolError::io("read", &self.root))?.path();
            if path != current
                && path
                    .file_name()
                    .is_some_and(|name| name.as_bytes().starts_with(BOOT_PREFIX.as_bytes()))
            {
                contents.other_boots.push(path);
            }
        }
        match private::check_folder(&current)
            .and_then(|()| fs::read_dir(&current).map_err(SpoolError::io("read", &current)))
        {
            Ok(entries) => {
                contents.boot = Some(current.clone());
                for entry in entries {
                    contents
                        .folders
                        .push(entry.map_err(SpoolError::io("read", &current))?.path());
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        contents.folders.sort();
        Ok(contents)
    }

    /// Removes the folders of other boots, and what dead processes left, as far as it can.
    pub fn remove_other_boots(&self) {
        remove_asides(&self.root);
        for folder in self
            .contents()
            .map(|contents| contents.other_boots)
            .unwrap_or_default()
        {
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove what another boot left in the spool");
            }
        }
    }

    /// The folder of the database at `path`; created, with its parents, unless it is there.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<(PathBuf, PageIdentity), SpoolError> {
        private::create_folder(&self.root, self.permissions, true)?;
        check_owned_directory(&self.root)?;
        let instance_id = self.instance_id()?;
        let folder = self.folder_of(path)?;
        for directory in [&self.boot_dir()?, &folder] {
            private::create_folder(directory, PRIVATE_DIR, false)?;
            private::check_folder(directory)?;
        }
        Ok((
            folder,
            PageIdentity {
                page_id: random_u64()?,
                boot_id: self.this_boot()?,
                instance_id,
            },
        ))
    }

    /// The folder of the database at `path`, whether or not it is there.
    pub(crate) fn folder_of(&self, path: &Path) -> Result<PathBuf, SpoolError> {
        Ok(self.boot_dir()?.join(folder_name(path)))
    }

    /// Opens the folder of a database that somebody has created.
    pub(crate) fn open_folder(&self, folder: &Path) -> Result<Folder, SpoolError> {
        for directory in [&self.boot_dir()?, folder] {
            private::check_folder(directory)?;
        }
        let instance_id = self.existing_instance_id()?;
        Folder::open_existing(
            folder,
            PageIdentity {
                page_id: random_u64()?,
                boot_id: self.this_boot()?,
                instance_id,
            },
        )
    }

    fn boot_dir(&self) -> Result<PathBuf, SpoolError> {
        Ok(self
            .root
            .join(format!("{BOOT_PREFIX}{}", to_hex(&self.this_boot()?))))
    }

    fn this_boot(&self) -> Result<[u8; 16], SpoolError> {
        if let Some(id) = self.boot_id {
            return Ok(id);
        }
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = fs::read_to_string(path).map_err(SpoolError::io("read", path))?;
        from_hex(&text.replace('-', ""))
            .ok_or_else(|| SpoolError::unusable(path, "holds no boot id"))
    }

    /// The id that tells writers of one name in the store apart; made when the spool is, and kept over reboots.
    ///
    /// A spool that was deleted while this process used it comes back with its old id: with a new one, this host would take its own manifests
    /// for those of another source.
    fn instance_id(&self) -> Result<[u8; 16], SpoolError> {
        let remembered = || {
            INSTANCES
                .get()
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let id = match self.read_instance_id() {
            Err(error) if error.is_not_found() => {
                let known = remembered().get(&self.root).copied();
                self.make_instance_id(known)?
            }
            Ok(None) => {
                let known = remembered().get(&self.root).copied();
                self.replace_instance_id(known)?
            }
            Ok(Some(id)) => id,
            Err(error) => return Err(error),
        };
        remembered().insert(self.root.clone(), id);
        Ok(id)
    }

    fn make_instance_id(&self, known: Option<[u8; 16]>) -> Result<[u8; 16], SpoolError> {
        let id = known.map_or_else(random_bytes, Ok)?;
        let path = self.root.join(INSTANCE_FILE);
        // Linked and not renamed: of two processes that start at once, the first one's stays.
        publish_file(&path, &self.root, to_hex(&id).as_bytes(), Publish::IfAbsent)?;
        self.existing_instance_id()
    }

    /// The file holds no id: a power loss leaves it empty, for nothing in the spool is synced. Whatever refers to the id that it held is of
    /// another boot, or finds out that it is another spool's.
    fn replace_instance_id(&self, known: Option<[u8; 16]>) -> Result<[u8; 16], SpoolError> {
        let lock = File::open(&self.root).map_err(SpoolError::io("open", &self.root))?;
        // One at a time, or each of two would go on with its own. Nobody waits in here; whoever comes too early tries again later.
        lock.try_lock().map_err(|error| {
            SpoolError::io("lock", &self.root)(match error {
                TryLockError::WouldBlock => io::Error::from(ErrorKind::WouldBlock),
                TryLockError::Error(error) => error,
            })
        })?;
        if let Some(id) = self.read_instance_id()? {
            return Ok(id);
        }
        tracing::warn!(spool = %self.root.display(), "the spool has lost its instance id and gets a new one");
        let id = known.map_or_else(random_bytes, Ok)?;
        let path = self.root.join(INSTANCE_FILE);
        publish_file(&path, &self.root, to_hex(&id).as_bytes(), Publish::Replace)?;
        Ok(id)
    }

    /// None: there is a file, and no id in it.
    fn read_instance_id(&self) -> Result<Option<[u8; 16]>, SpoolError> {
        let text = private::read(&self.root.join(INSTANCE_FILE))?;
        Ok(from_hex(&String::from_utf8_lossy(&text)))
    }

    fn existing_instance_id(&self) -> Result<[u8; 16], SpoolError> {
        self.read_instance_id()?.ok_or_else(|| {
            SpoolError::unusable(
                &self.root.join(INSTANCE_FILE),
                "holds no instance id; the next connection with the verneuil VFS gives it one",
            )
        })
    }
}

/// Whether [`publish_file`] replaces what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publish {
    IfAbsent,
    Replace,
}

/// Writes a small private file aside in `dir`, then gives it its name, so that nobody ever sees half of it.
pub(crate) fn publish_file(
    path: &Path,
    dir: &Path,
    content: &[u8],
    publish: Publish,
) -> Result<(), SpoolError> {
    let (mut file, aside) = create_aside(dir)?;
    let written = file
        .write_all(content)
        .map_err(SpoolError::io("write", &aside));
    written
        .and_then(|()| give_name(&aside, path, publish))
        .map(|_| ())
        .inspect_err(|_| drop(fs::remove_file(&aside)))
}

/// Gives the file `aside` its name. `false` when there was one and it stays. `aside` is gone afterwards, unless there was an error.
pub(crate) fn give_name(aside: &Path, path: &Path, publish: Publish) -> Result<bool, SpoolError> {
    if publish == Publish::Replace {
        return fs::rename(aside, path)
            .map(|()| true)
            .map_err(SpoolError::io("rename to", path));
    }
    let linked = fs::hard_link(aside, path);
    fs::remove_file(aside).map_err(SpoolError::io("remove", aside))?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(SpoolError::io("link to", path)(error)),
    }
}

/// A new private file with a name of its own.
pub(crate) fn create_aside(dir: &Path) -> Result<(File, PathBuf), SpoolError> {
    let path = dir.join(format!("{ASIDE_PREFIX}{}", to_hex(&random_bytes()?)));
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = private::create(&path, options)?;
    Ok((file, path))
}

/// Removes what processes that were killed have left aside in `dir`, as far as it can.
pub(crate) fn remove_asides(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let is_aside = entry
            .file_name()
            .as_bytes()
            .starts_with(ASIDE_PREFIX.as_bytes());
        let is_old = || {
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            Some(age > ASIDE_AGE_MAX)
        };
        if is_aside && is_old() == Some(true) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Opens or creates a private file of the spool.
pub(crate) fn open_private(path: &Path, truncate: bool) -> Result<File, SpoolError> {
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate);
    private::create(path, &mut options)
}

/// Refuses a root of somebody else's.
fn check_owned_directory(path: &Path) -> Result<(), SpoolError> {
    let meta = fs::metadata(path).map_err(SpoolError::io("open the spool", path))?;
    if !meta.is_dir() {
        return Err(SpoolError::unusable(
            path,
            "is not a directory, and can't be a spool",
        ));
    }
    private::check_owner(path, meta.uid())
}

fn random_u64() -> Result<u64, SpoolError> {
    let [a, b, c, d, e, f, g, h, ..] = random_bytes()?;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

fn random_bytes() -> Result<[u8; 16], SpoolError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = |bytes: &mut [u8]| -> io::Result<()> { File::open(path)?.read_exact(bytes) };
    read(&mut bytes).map_err(SpoolError::io("read", path))?;
    Ok(bytes)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let text = text.trim();
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (k, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * k..2 * k + 2], 16).ok()?;
    }
    Some(id)
}

/// Percent-encodes a path, so that any bytes fit into JSON.
pub(crate) fn encode_path(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(byte);
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| {
            if plain(byte) {
                char::from(*byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Reverses [`encode_path`].
pub(crate) fn decode_path(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}
