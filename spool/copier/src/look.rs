//! The five conditions under which bytes read from a database file without a lock count (copier step 4); used by `catchup` and `pass`.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use nix::time::{ClockId, clock_gettime};
use verneuil_dbfile::{Header, Journal, LockBytes, journal_state, probe_locks, read_header};
use verneuil_spool::CopierLock;

use crate::error::{Blocked, CopyError};

/// What a database file looks like while nobody writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub epoch: u64,
    pub header: Header,
    pub len: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

impl Look {
    /// Looks at the file. `Err(Blocked)` if somebody is or may be in the middle of a change.
    ///
    /// The values are read before the locks: a writer that comes in between is seen by its lock, one that has come and gone by the next
    /// look's values.
    pub(crate) fn take(
        lock: &CopierLock,
        bytes: LockBytes,
        path: &Path,
        file: &File,
    ) -> Result<Result<Self, Blocked>, CopyError> {
        let failed = CopyError::database(path);
        let epoch = lock.epoch();
        fence(Ordering::SeqCst);
        let metadata = file.metadata().map_err(&failed)?;
        let header = read_header(file).map_err(&failed)?;
        let look = Self {
            epoch,
            header,
            len: metadata.len(),
            mtime_ns: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
            ctime_ns: metadata
                .ctime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.ctime_nsec()),
        };
        Ok(
            match obstacle(lock, epoch, bytes, path, file).map_err(&failed)? {
                Some(blocked) => Err(blocked),
                None if header.is_wal() => Err(Blocked::Wal),
                None => Ok(look),
            },
        )
    }

    /// Whether nothing was written between the two looks: same epoch, counter, length and modification time.
    pub(crate) fn same_state(&self, other: &Self) -> bool {
        (self.epoch, self.header, self.len, self.mtime_ns)
            == (other.epoch, other.header, other.len, other.mtime_ns)
    }

    /// Whether the next write is sure to change the modification time: the clock by which the kernel stamps files, which ticks every 1 to
    /// 10 ms, has moved on since. (A time in the future, after the clock stepped back, is as good as an old one.)
    pub(crate) fn is_settled(&self) -> bool {
        clock_gettime(ClockId::CLOCK_REALTIME_COARSE).is_ok_and(|now| {
            let now_ns = now
                .tv_sec()
                .saturating_mul(1_000_000_000)
                .saturating_add(now.tv_nsec());
            now_ns > self.mtime_ns || self.mtime_ns - now_ns > 1_000_000_000
        })
    }
}

/// What forbids reading the file now: a PENDING or EXCLUSIVE lock, or a hot journal.
fn obstacle(
    lock: &CopierLock,
    epoch: u64,
    bytes: LockBytes,
    path: &Path,
    file: &File,
) -> std::io::Result<Option<Blocked>> {
    let locks = probe_locks(file, bytes)?;
    if locks.pending_or_exclusive() {
        // A connection of ours that keeps EXCLUSIVE between its transactions writes under an odd epoch only, and its journal is its own. The kernel
        // names no process for locks of open files: that of a stock connection has one.
        let is_kept = locks.exclusive
            && locks.holder_pid.is_none()
            && epoch.is_multiple_of(2)
            && lock.exclusive_owner_lives();
        return Ok((!is_kept).then_some(Blocked::Writing));
    }
    // With RESERVED held the journal is a live transaction's, which has not touched the file: it needs EXCLUSIVE for that.
    if locks.reserved || journal_state(path)? != Journal::Live {
        return Ok(None);
    }
    // The owner may have finished between the two looks; a journal that is still live without RESERVED is hot.
    let again = probe_locks(file, bytes)?;
    if again.pending_or_exclusive() || again.reserved {
        return Ok(Some(Blocked::Writing));
    }
    Ok((journal_state(path)? == Journal::Live).then_some(Blocked::HotJournal))
}
