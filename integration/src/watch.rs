//! Keeps every manifest that a store ever held under one key: the tests restore all of them afterwards.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use verneuil_format::Manifest;

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// In the order of publication.
    versions: Vec<Vec<u8>>,
    /// How many times a new version appeared.
    publications: usize,
    /// Something was certainly lost.
    lost: Option<String>,
}

/// Watches one key of a directory store from now on.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the manifest `file`; its folder is made if nothing has been published there yet, and is followed wherever it is moved.
    ///
    /// # Errors
    /// When the folder can't be made or watched.
    pub fn start(file: &Path) -> Result<Self> {
        let folder = file.parent().context("a manifest has a folder")?;
        std::fs::create_dir_all(folder)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(
            folder,
            AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE,
        )?;
        let folder = File::open(folder)?;
        let name = file
            .file_name()
            .context("a manifest has a name")?
            .to_owned();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || follow(&inotify, &folder, &name, &seen, &stop))
        };
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the watch and gives every version, oldest first.
    ///
    /// # Errors
    /// When a version may have been missed: the test then proves nothing, and says so.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| anyhow!("the watcher of the store panicked"))?;
        }
        let mut seen = self
            .seen
            .lock()
            .map_err(|_| anyhow!("the watcher of the store panicked"))?;
        if let Some(lost) = &seen.lost {
            anyhow::bail!("the watcher of the store lost something: {lost}");
        }
        ensure!(
            seen.versions.len() == seen.publications,
            "the watcher of the store kept {} of {} published versions: this machine is too slow for the interval between them",
            seen.versions.len(),
            seen.publications
        );
        Ok(std::mem::take(&mut seen.versions))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn follow(inotify: &Inotify, folder: &File, name: &OsStr, seen: &Mutex<Seen>, stop: &AtomicBool) {
    // By its descriptor: the store may be taken away (`fault.rs`) between a publication and the look at it.
    let file = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    loop {
        // Looked at before the events, so that those that precede the stop are all taken.
        let last_round = stop.load(Ordering::SeqCst);
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        // An error is seen again by the read below.
        let _ = poll(&mut fds, PollTimeout::from(20_u8));
        match inotify.read_events() {
            Ok(events) => {
                for event in events {
                    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                        note(seen, |seen| {
                            seen.lost = Some("the event queue overflowed".to_owned())
                        });
                    }
                    if event.name.as_deref() == Some(name) {
                        keep(&file, seen);
                    }
                }
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(error) => note(seen, |seen| seen.lost = Some(error.to_string())),
        }
        if last_round {
            return;
        }
    }
}

fn keep(file: &Path, seen: &Mutex<Seen>) {
    let bytes = std::fs::read(file);
    note(seen, |seen| {
        seen.publications += 1;
        match bytes {
            Ok(bytes) if seen.versions.last() == Some(&bytes) => {}
            Ok(bytes) => seen.versions.push(bytes),
            Err(error) => seen.lost = Some(error.to_string()),
        }
    });
}

fn note(seen: &Mutex<Seen>, change: impl FnOnce(&mut Seen)) {
    if let Ok(mut seen) = seen.lock() {
        change(&mut seen);
    }
}

/// Writes each version to a file of its own, named by its generation, and checks that generations only grow.
///
/// # Errors
/// When a version can't be decoded, or generations do not grow.
pub fn save_all(versions: &[Vec<u8>], folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let mut files = BTreeMap::new();
    let mut last = None;
    for bytes in versions {
        let generation = Manifest::decode(bytes)
            .context("a published manifest")?
            .generation()
            .0;
        ensure!(
            last < Some(generation),
            "generation {generation} was published after {last:?}"
        );
        last = Some(generation);
        let file = folder.join(format!("{generation:08}.manifest"));
        std::fs::write(&file, bytes)?;
        files.insert(generation, file);
    }
    Ok(files)
}
