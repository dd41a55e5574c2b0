//! What the modules of this binary share: programs under limits and umasks, trees as they are, and a look at who opens a file.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use verneuil_format::{Identity, Manifest};
use verneuil_integration::mount::Mount;
use verneuil_integration::paths;
use verneuil_integration::process::{self, COMMAND_LIMIT, Finished};
use verneuil_integration::setup::{HOST, Setup};

/// Memory that a program may use on whatever a store gives it, beside what it is told to keep.
pub const MEMORY_MAX_BYTES: u64 = 256 << 20;

/// The longest file that a restore may make here: a file system may take one of 281 TB.
pub const RESTORED_MAX_BYTES: u64 = 16 << 30;

/// The longest list of chunks that is written out here: there may be billions.
pub const DECODED_MAX_BYTES: u64 = 32 << 20;

/// `path` as an argument.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A program under another umask.
pub fn under_umask(umask: &str, program: &Path) -> Command {
    let mut command = process::tied("sh");
    command
        .args(["-c", r#"umask "$0" && exec "$@""#, umask])
        .arg(program);
    command
}

/// `verneuilctl` with this setup's configuration, which is ended when it asks for more than [`MEMORY_MAX_BYTES`]; a file that gets
/// too long is an error to it, as on a file system that has no such files.
pub fn limited_ctl(setup: &Setup, file_max_bytes: u64, arguments: &[&str]) -> Result<Finished> {
    let mut command = process::tied("sh");
    command.args(["-c", r#"trap "" XFSZ && exec prlimit "$@""#, "sh"]);
    command.arg(format!("--data={MEMORY_MAX_BYTES}"));
    command.arg(format!("--fsize={file_max_bytes}"));
    command.arg(paths::verneuilctl()?).args(arguments);
    command.envs(setup.env());
    process::run(&mut command, COMMAND_LIMIT)
}

/// Fails if a mount has ever needed more than [`MEMORY_MAX_BYTES`].
pub fn memory_is_bounded(mount: &Mount) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.pid()))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    ensure!(kib * 1024 <= MEMORY_MAX_BYTES, "the mount needed {kib} KiB");
    eprintln!("the mount needed {kib} KiB at most");
    Ok(())
}

/// Whose manifests are made here.
pub fn identity(host: &str, path: &[u8]) -> Identity {
    Identity {
        software_version: "hostile".to_owned(),
        host: host.to_owned(),
        path: path.to_vec(),
        instance: [7; 16],
    }
}

/// An empty database's manifest.
pub fn manifest_of(host: &str, path: &[u8]) -> Result<Vec<u8>> {
    Ok(Manifest::empty(identity(host, path)).encode()?)
}

/// The key under which the tests put a manifest that is what it says.
pub const DATABASE: &str = "/srv/app.db";

/// Puts an object into a directory store.
pub fn put(setup: &Setup, key: &str, bytes: &[u8]) -> Result<()> {
    let file = setup.path("store").join(key);
    let folder = file.parent().context("a key has a folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(&file, bytes).with_context(|| format!("{}", file.display()))
}

/// The key of [`DATABASE`].
pub fn database_key() -> String {
    verneuil_format::manifest_key(HOST, DATABASE.as_bytes())
}

/// Everything below `root`, with kind and mode; links are not followed. What a copier removes meanwhile is left out.
pub fn tree(root: &Path) -> Result<BTreeMap<PathBuf, u32>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
            let path = entry?.path();
            let meta = match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                meta => meta.with_context(|| format!("{}", path.display()))?,
            };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, meta.mode());
        }
    }
    Ok(found)
}

/// No output may hold what a terminal obeys.
pub fn is_plain(finished: &Finished) -> Result<()> {
    for text in [&finished.text(), &finished.stderr] {
        let obeyed = text.lines().find(|line| line.contains(char::is_control));
        ensure!(obeyed.is_none(), "control characters in {obeyed:?}");
    }
    Ok(())
}

/// A file and a folder that nobody has any business with.
pub struct Canary {
    pub file: PathBuf,
    pub folder: PathBuf,
    inotify: Inotify,
}

/// What is in the file.
const CONTENT: &[u8] = b"nobody reads this, nobody writes this";

impl Canary {
    /// Makes both in `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        let (file, inside) = (folder.join("canary"), folder.join("canaries"));
        std::fs::create_dir(&inside)?;
        std::fs::write(&file, CONTENT)?;
        std::fs::write(inside.join("canary"), CONTENT)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let any = AddWatchFlags::IN_ALL_EVENTS;
        inotify.add_watch(&file, any)?;
        inotify.add_watch(&inside, any)?;
        Ok(Self {
            file,
            folder: inside,
            inotify,
        })
    }

    /// Fails if anybody has opened, read, changed or replaced either since the last look.
    pub fn is_untouched(&self) -> Result<()> {
        match self.inotify.read_events() {
            Err(nix::errno::Errno::EAGAIN) => {}
            Ok(events) => anyhow::bail!("somebody was at the canary: {events:?}"),
            Err(error) => return Err(error.into()),
        }
        ensure!(
            std::fs::read(&self.file)? == CONTENT,
            "the canary has changed"
        );
        ensure!(
            tree(&self.folder)?.len() == 1,
            "the folder of canaries has changed"
        );
        // Those were our own looks.
        match self.inotify.read_events() {
            Err(error) if error != nix::errno::Errno::EAGAIN => Err(error.into()),
            _ => Ok(()),
        }
    }
}
