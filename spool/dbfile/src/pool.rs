//! The process-wide pool of descriptors that can't be closed yet, because closing them would drop somebody's POSIX locks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use crate::locks::probe_any_lock;

/// Which file a descriptor refers to, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl FileId {
    /// Identity of the file that `metadata` describes.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        }
    }
}

/// Descriptors that wait until no lock is left on their file. Bounded by the number of connections that were open at one time,
/// because a later [`open`] of the same file takes its descriptor from here.
static WAITING: LazyLock<Mutex<HashMap<FileId, Vec<File>>>> = LazyLock::new(Mutex::default);

fn waiting() -> MutexGuard<'static, HashMap<FileId, Vec<File>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor of a database file. Dropping it closes the descriptor only if nobody holds a lock on the file; otherwise the descriptor
/// waits in a pool of the process, to be taken by the next [`open`] of that file or closed by a later one.
///
/// Whoever takes locks through it must release them before dropping it.
#[derive(Debug)]
pub struct Pooled {
    /// `None` only while dropping.
    file: Option<File>,
    id: FileId,
}

impl Pooled {
    /// Which file this is.
    pub fn id(&self) -> FileId {
        self.id
    }
}

impl Deref for Pooled {
    type Target = File;

    fn deref(&self) -> &File {
        match &self.file {
            Some(file) => file,
            None => unreachable!("the file is taken in drop only"),
        }
    }
}

impl AsFd for Pooled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.deref().as_fd()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let mut pool = waiting();
        pool.entry(self.id).or_default().push(file);
        close_unlocked(&mut pool, self.id);
    }
}

/// Closes what waits for `id`, unless somebody holds a lock on it (or nobody can tell).
fn close_unlocked(pool: &mut HashMap<FileId, Vec<File>>, id: FileId) {
    let Some(files) = pool.get(&id) else { return };
    // All of them see the same locks but their own, and these were released before they came here. That leaves a race with a stock
    // connection of this process that takes a lock between this look and the close: documented, the kernel has no remedy.
    let locked = files
        .first()
        .is_some_and(|file| probe_any_lock(file).unwrap_or(true));
    if !locked {
        pool.remove(&id);
    }
}

/// Opens the database file at `path`, close-on-exec, never as one of the descriptors 0 to 2. A descriptor that waits for the same file with
/// the same access mode is taken instead of a new one.
///
/// # Errors
/// What `open(2)` says; nothing has changed then, except that `O_CREAT` may have created the file.
pub fn open(path: &Path, flags: OFlag, mode: u32) -> io::Result<Pooled> {
    if let Some(pooled) = take_waiting(path, flags) {
        return Ok(pooled);
    }
    let flags = flags | OFlag::O_CLOEXEC;
    let file = loop {
        match nix::fcntl::open(path, flags, Mode::from_bits_truncate(mode)) {
            Ok(fd) => break File::from(fd),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
    };
    adopt(off_standard_streams(file)?)
}

/// Puts an open file under the pool's care.
///
/// # Errors
/// When `fstat` fails; the file is closed then.
pub fn adopt(file: File) -> io::Result<Pooled> {
    let id = FileId::of(&file.metadata()?);
    Ok(Pooled {
        file: Some(file),
        id,
    })
}

/// How many descriptors wait in the pool (for `status` and tests).
pub fn waiting_count() -> usize {
    waiting().values().map(Vec::len).sum()
}

fn take_waiting(path: &Path, flags: OFlag) -> Option<Pooled> {
    if flags.contains(OFlag::O_EXCL) {
        return None;
    }
    let mut pool = waiting();
    // Nothing waits in almost every process: no system call then.
    if pool.is_empty() {
        return None;
    }
    let id = FileId::of(&fs::metadata(path).ok()?);
    let files = pool.get_mut(&id)?;
    let at = files
        .iter()
        .position(|file| access_mode(file) == Some(flags & OFlag::O_ACCMODE))?;
    let file = files.swap_remove(at);
    if files.is_empty() {
        pool.remove(&id);
    } else {
        close_unlocked(&mut pool, id);
    }
    Some(Pooled {
        file: Some(file),
        id,
    })
}

fn access_mode(file: &File) -> Option<OFlag> {
    let flags = fcntl(file, FcntlArg::F_GETFL).ok()?;
    Some(OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE)
}

/// A database on descriptor 0, 1 or 2 would be overwritten by the next stray `printf`: moves it up and leaves /dev/null in its place.
fn off_standard_streams(file: File) -> io::Result<File> {
    let low = file.as_raw_fd();
    if low > 2 {
        return Ok(file);
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // Duplicates are made at descriptor 3 or above.
    let high = file.try_clone()?;
    match low {
        0 => nix::unistd::dup2_stdin(&null)?,
        1 => nix::unistd::dup2_stdout(&null)?,
        _ => nix::unistd::dup2_stderr(&null)?,
    }
    // The number now belongs to /dev/null, for good.
    let _ = file.into_raw_fd();
    Ok(high)
}
