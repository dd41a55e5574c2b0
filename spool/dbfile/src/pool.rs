//! The process-wide pool of descriptors that can't be closed yet, because closing them would drop somebody's POSIX locks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::{Bound, Deref};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use crate::fork::{ForkLocal, generation};
use crate::inherited;
use crate::locks::probe_any_lock;
use crate::streams::off_standard_streams;

/// Which file a descriptor refers to, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
/// because a later [`open`] of the same file takes its descriptor from here. A forked child begins with none; its parent's stay open in it
/// until it ends.
static WAITING: ForkLocal<Mutex<Waiting>> = ForkLocal::new(Mutex::default);

#[derive(Debug, Default)]
struct Waiting {
    files: BTreeMap<FileId, Vec<Descriptor>>,
    /// The file that the sweep looked at last.
    swept: Option<FileId>,
}

/// Whenever a descriptor comes to the pool, so many other files are looked at, too: more than came, so that those go away that nobody opens
/// again (a `-shm` file that was unlinked, say).
const FILES_PER_SWEEP: usize = 2;

/// An open descriptor, and the process that opened it.
#[derive(Debug)]
struct Descriptor {
    file: File,
    /// Of [`generation`]. An inherited descriptor is never used again: its locks were, or are, its parent's.
    generation: u64,
}

impl Descriptor {
    fn new(file: File) -> Self {
        let generation = generation();
        inherited::note(file.as_raw_fd());
        Self { file, generation }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        inherited::forget(self.file.as_raw_fd());
    }
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor of a database file. Dropping it closes the descriptor only if nobody holds a lock on the file; otherwise the descriptor
/// waits in a pool of the process, to be taken by the next [`open`] of that file or closed by a later one.
///
/// Whoever takes locks through it must release them before dropping it.
#[derive(Debug)]
pub struct Pooled {
    /// `None` only while dropping.
    descriptor: Option<Descriptor>,
    id: FileId,
}

impl Pooled {
    /// Whether this process only inherited the descriptor: what was locked through it was locked by its parent, and a lock or unlock
    /// may still be one of its parent's.
    pub fn is_inherited(&self) -> bool {
        self.descriptor
            .as_ref()
            .is_some_and(|descriptor| descriptor.generation != generation())
    }

    /// Which file this is.
    pub fn id(&self) -> FileId {
        self.id
    }
}

impl Deref for Pooled {
    type Target = File;

    fn deref(&self) -> &File {
        match &self.descriptor {
            Some(descriptor) => &descriptor.file,
            None => unreachable!("the descriptor is taken in drop only"),
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
        let Some(descriptor) = self.descriptor.take() else {
            return;
        };
        let mut pool = waiting();
        pool.files.entry(self.id).or_default().push(descriptor);
        close_unlocked(&mut pool, self.id);
        sweep(&mut pool);
    }
}

/// Closes what waits for `id`, unless somebody holds a lock on it (or nobody can tell).
fn close_unlocked(pool: &mut Waiting, id: FileId) {
    let Some(files) = pool.files.get(&id) else {
        return;
    };
    // All of them see the same locks but their own, and these were released before they came here. That leaves a race with a stock
    // connection of this process that takes a lock between this look and the close: documented, the kernel has no remedy.
    let locked = files
        .first()
        .is_some_and(|descriptor| probe_any_lock(&descriptor.file).unwrap_or(true));
    if !locked {
        pool.files.remove(&id);
    }
}

/// Looks at the next few files, round and round.
fn sweep(pool: &mut Waiting) {
    for _ in 0..FILES_PER_SWEEP {
        let behind = match pool.swept {
            Some(id) => (Bound::Excluded(id), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        pool.swept = pool.files.range(behind).next().map(|(id, _)| *id);
        if let Some(id) = pool.swept {
            close_unlocked(pool, id);
        }
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

/// Opens the file of a descriptor once more, with the same access: another open file, with locks of its own. For memory maps, which
/// keep the open file alive that they were made through, and its locks with it, in forked children too.
///
/// # Errors
/// When `/proc/self/fd` can't be used; nothing has changed.
pub fn open_again(file: &File) -> io::Result<Pooled> {
    let access = access_mode(file).unwrap_or(OFlag::O_RDONLY);
    let id = FileId::of(&file.metadata()?);
    if let Some(pooled) = take_of(&mut waiting(), id, access) {
        return Ok(pooled);
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path.as_str(), flags, Mode::empty())?;
    adopt(off_standard_streams(File::from(fd))?)
}

/// Puts an open file under the pool's care.
///
/// # Errors
/// When `fstat` fails; the file is closed then.
pub fn adopt(file: File) -> io::Result<Pooled> {
    let id = FileId::of(&file.metadata()?);
    Ok(Pooled {
        descriptor: Some(Descriptor::new(file)),
        id,
    })
}

/// How many descriptors wait in the pool (for `status` and tests).
pub fn waiting_count() -> usize {
    waiting().files.values().map(Vec::len).sum()
}

fn take_waiting(path: &Path, flags: OFlag) -> Option<Pooled> {
    if flags.contains(OFlag::O_EXCL) {
        return None;
    }
    let mut pool = waiting();
    // Nothing waits in almost every process: no system call then.
    if pool.files.is_empty() {
        return None;
    }
    let metadata = if flags.contains(OFlag::O_NOFOLLOW) {
        fs::symlink_metadata(path)
    } else {
        fs::metadata(path)
    };
    take_of(
        &mut pool,
        FileId::of(&metadata.ok()?),
        flags & OFlag::O_ACCMODE,
    )
}

/// Takes a descriptor of that file, with that access, which this process opened itself.
fn take_of(pool: &mut Waiting, id: FileId, access: OFlag) -> Option<Pooled> {
    let files = pool.files.get_mut(&id)?;
    let here = generation();
    let at = files.iter().position(|descriptor| {
        descriptor.generation == here && access_mode(&descriptor.file) == Some(access)
    })?;
    let descriptor = files.swap_remove(at);
    if files.is_empty() {
        pool.files.remove(&id);
    } else {
        close_unlocked(pool, id);
    }
    Some(Pooled {
        descriptor: Some(descriptor),
        id,
    })
}

fn access_mode(file: &File) -> Option<OFlag> {
    let flags = fcntl(file, FcntlArg::F_GETFL).ok()?;
    Some(OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE)
}
