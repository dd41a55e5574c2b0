//! Settings of a mount and the named limits of the file system; read everywhere in this crate.

use std::time::Duration;

/// What the command line decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often a file that is being read is compared with the store.
    pub refresh_interval: Duration,
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits that are withheld from 0444 (databases) and 0555 (directories).
    pub umask: u16,
}

impl Options {
    /// Permission bits withheld by default: files 0440, directories 0550.
    pub const DEFAULT_UMASK: u16 = 0o007;
    /// Default of [`Options::refresh_interval`].
    pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_millis(250);

    /// Permission bits of a database.
    pub fn file_perm(&self) -> u16 {
        0o444 & !self.umask
    }

    /// Permission bits of a directory.
    pub fn dir_perm(&self) -> u16 {
        0o555 & !self.umask
    }
}

/// How long the kernel may keep what this daemon invalidates itself.
pub const LONG_TTL: Duration = Duration::from_secs(3_600);

/// How long the kernel may keep what nothing watches: the size of an unopened database, the absence of a name. Asking
/// again costs a request, but only while somebody asks; watching would cost requests for ever.
pub const SHORT_TTL: Duration = Duration::from_secs(1);

/// How old a listing may be when a directory is read or a name is looked up.
pub const LISTING_MAX_AGE: Duration = Duration::from_secs(1);

/// How much of a file sqlite's open may read without a lock: 100 bytes of header, and what the kernel reads ahead for them
/// (128 KiB at most). Who reads beyond, and has never locked, is no sqlite that is about to lock.
pub const OPEN_READ_BYTES: u64 = 128 * 1024;

/// The slowest refresh, for an open file that nobody reads.
pub const QUIET_REFRESH_MAX: Duration = Duration::from_secs(30);

/// How long a file is refreshed after its last handle was closed, for readers that reopen it all the time.
pub const LINGER: Duration = Duration::from_secs(2);

/// How long a lock request may wait for other readers to finish, so that the file can advance. A reader that waits for
/// a lock can't be killed, so no reply is held long.
pub const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// After readers did not drain, how long locks are granted on the old snapshot before the next try: at first briefly,
/// since most transactions are short, then twice as long each time, so that one long transaction does not slow down all
/// others by [`DRAIN_WAIT`] each.
pub const DRAIN_PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest such pause: with it, waiting costs a reader 4 % of its time.
pub const DRAIN_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long the first lock request after a quiet time waits for a look at the store.
pub const FRESH_WAIT: Duration = Duration::from_millis(100);

/// How long opening a file waits for a look at the store when an older snapshot is at hand.
pub const OPEN_CHECK_WAIT: Duration = Duration::from_secs(2);

/// How long a newer snapshot waits for readers before new openers get an inode of their own.
pub const RETIRE_AFTER: Duration = Duration::from_secs(1);

/// How long a handle that has never locked keeps its snapshot.
pub const PIN_MAX: Duration = Duration::from_secs(600);

/// Above this number of changed ranges the kernel is told to drop the whole file: each costs a system call.
pub const INVALIDATIONS_MAX: usize = 1_024;

/// Reads that wait for the store at the same time, over all files: each may hold a megabyte.
pub const READS_IN_FLIGHT_MAX: usize = 64;

/// Refreshes at the same time, over all files.
pub const REFRESHES_IN_FLIGHT_MAX: usize = 16;

/// Byte-range locks on one inode; sqlite holds one or two per process.
pub const LOCKS_PER_INODE_MAX: usize = 65_536;

/// Pieces that are fetched before an advance because they changed and the old content was in memory, so that the next
/// transaction of a warm reader does not pay for them one by one.
pub const PREFETCHES_MAX: usize = 32;

/// Changed pieces that are looked at for this.
pub const PREFETCH_LOOKS_MAX: usize = 4_096;

/// Length of such a piece: one chunk.
pub const PREFETCH_LEN_BYTES: usize = 65_536;

/// Time that all of it may take; it is an optimisation only.
pub const PREFETCH_WAIT: Duration = Duration::from_millis(200);
