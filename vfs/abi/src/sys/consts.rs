//! Constants of `sqlite3.h` that `open`, `control` and `file` decode; result codes are
//! in `code`.

use std::ffi::c_int;

/// The file is opened for reading only.
pub const SQLITE_OPEN_READONLY: c_int = 0x0000_0001;
/// The file is opened for reading and writing.
pub const SQLITE_OPEN_READWRITE: c_int = 0x0000_0002;
/// The file is created when it does not exist.
pub const SQLITE_OPEN_CREATE: c_int = 0x0000_0004;
/// The file disappears when it is closed.
pub const SQLITE_OPEN_DELETEONCLOSE: c_int = 0x0000_0008;
/// The file must not exist before.
pub const SQLITE_OPEN_EXCLUSIVE: c_int = 0x0000_0010;
/// The name came with URI parameters.
pub const SQLITE_OPEN_URI: c_int = 0x0000_0040;
/// A database that lives in memory.
pub const SQLITE_OPEN_MEMORY: c_int = 0x0000_0080;
/// A main database file.
pub const SQLITE_OPEN_MAIN_DB: c_int = 0x0000_0100;
/// The file behind temporary tables.
pub const SQLITE_OPEN_TEMP_DB: c_int = 0x0000_0200;
/// A transient file of one statement.
pub const SQLITE_OPEN_TRANSIENT_DB: c_int = 0x0000_0400;
/// The rollback journal of a main database.
pub const SQLITE_OPEN_MAIN_JOURNAL: c_int = 0x0000_0800;
/// The rollback journal of a temporary database.
pub const SQLITE_OPEN_TEMP_JOURNAL: c_int = 0x0000_1000;
/// A statement journal.
pub const SQLITE_OPEN_SUBJOURNAL: c_int = 0x0000_2000;
/// The journal that ties several databases' transactions together.
pub const SQLITE_OPEN_SUPER_JOURNAL: c_int = 0x0000_4000;
/// A write-ahead log.
pub const SQLITE_OPEN_WAL: c_int = 0x0008_0000;
/// Symbolic links are refused.
pub const SQLITE_OPEN_NOFOLLOW: c_int = 0x0100_0000;

/// Does the file exist?
pub const SQLITE_ACCESS_EXISTS: c_int = 0;
/// Can it be read and written?
pub const SQLITE_ACCESS_READWRITE: c_int = 1;
/// Can it be read?
pub const SQLITE_ACCESS_READ: c_int = 2;

/// No lock.
pub const SQLITE_LOCK_NONE: c_int = 0;
/// May read.
pub const SQLITE_LOCK_SHARED: c_int = 1;
/// May read, and will write later.
pub const SQLITE_LOCK_RESERVED: c_int = 2;
/// Waits for readers to leave.
pub const SQLITE_LOCK_PENDING: c_int = 3;
/// Alone with the file.
pub const SQLITE_LOCK_EXCLUSIVE: c_int = 4;

/// An ordinary fsync.
pub const SQLITE_SYNC_NORMAL: c_int = 0x02;
/// A fsync that also empties the drive's cache, where that is another call.
pub const SQLITE_SYNC_FULL: c_int = 0x03;
/// Metadata need not be written.
pub const SQLITE_SYNC_DATAONLY: c_int = 0x10;

/// A write never damages bytes outside of it, even when power fails.
pub const SQLITE_IOCAP_POWERSAFE_OVERWRITE: c_int = 0x0000_1000;
/// Reads smaller than a page are welcome.
pub const SQLITE_IOCAP_SUBPAGE_READ: c_int = 0x0000_8000;

/// Reports the lock level.
pub const SQLITE_FCNTL_LOCKSTATE: c_int = 1;
/// Reports the errno of the last failure.
pub const SQLITE_FCNTL_LAST_ERRNO: c_int = 4;
/// Announces the size that the file will have.
pub const SQLITE_FCNTL_SIZE_HINT: c_int = 5;
/// Makes the file grow and shrink in multiples of a size.
pub const SQLITE_FCNTL_CHUNK_SIZE: c_int = 6;
/// A transaction will overwrite the whole database (VACUUM).
pub const SQLITE_FCNTL_OVERWRITE: c_int = 11;
/// Reports the names of the VFS stack.
pub const SQLITE_FCNTL_VFSNAME: c_int = 12;
/// Reads or sets the power-safe-overwrite property.
pub const SQLITE_FCNTL_POWERSAFE_OVERWRITE: c_int = 13;
/// A PRAGMA statement.
pub const SQLITE_FCNTL_PRAGMA: c_int = 14;
/// Reports a name for a temporary file.
pub const SQLITE_FCNTL_TEMPFILENAME: c_int = 16;
/// Has the file been renamed or unlinked?
pub const SQLITE_FCNTL_HAS_MOVED: c_int = 20;
/// Sent before the database file is synced.
pub const SQLITE_FCNTL_SYNC: c_int = 21;
/// Sent after a commit is complete, before locks are released.
pub const SQLITE_FCNTL_COMMIT_PHASETWO: c_int = 22;
/// Reads or sets whether log and shared memory stay when the last connection closes.
pub const SQLITE_FCNTL_PERSIST_WAL: c_int = 10;
/// Reads or sets how much of the file may be mapped.
pub const SQLITE_FCNTL_MMAP_SIZE: c_int = 18;
/// Starts a batch of writes that reach the disk together.
pub const SQLITE_FCNTL_BEGIN_ATOMIC_WRITE: c_int = 31;
/// Ends it.
pub const SQLITE_FCNTL_COMMIT_ATOMIC_WRITE: c_int = 32;
/// Gives it up.
pub const SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE: c_int = 33;
/// Sent when a checkpoint is complete, before the database file is truncated or synced.
pub const SQLITE_FCNTL_CKPT_DONE: c_int = 37;
/// Sent before a checkpoint writes to the database file.
pub const SQLITE_FCNTL_CKPT_START: c_int = 39;
/// Is somebody else in a read transaction of WAL mode?
pub const SQLITE_FCNTL_EXTERNAL_READER: c_int = 40;
/// Makes all further reads and writes fail.
pub const SQLITE_FCNTL_NULL_IO: c_int = 43;

/// Releases.
pub const SQLITE_SHM_UNLOCK: c_int = 1;
/// Takes.
pub const SQLITE_SHM_LOCK: c_int = 2;
/// A lock that others may share.
pub const SQLITE_SHM_SHARED: c_int = 4;
/// A lock that nobody may share.
pub const SQLITE_SHM_EXCLUSIVE: c_int = 8;
