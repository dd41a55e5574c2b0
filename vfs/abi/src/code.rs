//! SQLite's result codes as a type: what [`crate::Vfs`] and [`crate::File`] fail with, and what the callbacks return.

use std::ffi::c_int;
use std::fmt;

/// What a VFS method fails with: an extended result code of SQLite, never `SQLITE_OK`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(c_int);

/// The result of a VFS method.
pub type Result<T> = std::result::Result<T, Code>;

/// `SQLITE_OK`, as the callbacks return it.
pub const SQLITE_OK: c_int = 0;
/// `SQLITE_OK_LOAD_PERMANENTLY`: the extension stays in memory when its connection is closed.
pub const SQLITE_OK_LOAD_PERMANENTLY: c_int = 1 << 8;
/// `SQLITE_OK_SYMLINK`: the path is fine, and there was a symbolic link in it.
pub const SQLITE_OK_SYMLINK: c_int = 2 << 8;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($value);)*

            /// The name that `sqlite3.h` gives to this code, without its `SQLITE_`.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Code::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// Every code that has a name here.
            pub const ALL: &'static [(&'static str, Code)] = &[$((stringify!($name), Code::$name),)*];
        }
    };
}

codes! {
    /// A generic failure.
    ERROR = 1;
    /// A bug on this side of the interface.
    INTERNAL = 2;
    /// The operating system refuses for lack of rights.
    PERM = 3;
    /// Somebody holds a lock that is in the way.
    BUSY = 5;
    /// The host's allocator failed.
    NOMEM = 7;
    /// The file can't be written.
    READONLY = 8;
    /// A generic failure of the disk.
    IOERR = 10;
    /// Unknown file control, or unknown pragma.
    NOTFOUND = 12;
    /// The disk is full.
    FULL = 13;
    /// The file can't be opened.
    CANTOPEN = 14;
    /// SQLite called in an order that it promises not to.
    MISUSE = 21;
    /// A message for `sqlite3_log` that reports something unusual.
    NOTICE = 27;
    /// A message for `sqlite3_log` that reports something that may become a problem.
    WARNING = 28;
    /// The shared memory must be initialised, and can only be read.
    READONLY_CANTINIT = 8 | (5 << 8);
    /// The directory of the journal can't be written.
    READONLY_DIRECTORY = 8 | (6 << 8);
    /// A read failed.
    IOERR_READ = 10 | (1 << 8);
    /// A read ended before the buffer was full; the rest is zeros.
    IOERR_SHORT_READ = 10 | (2 << 8);
    /// A write failed.
    IOERR_WRITE = 10 | (3 << 8);
    /// A fsync failed.
    IOERR_FSYNC = 10 | (4 << 8);
    /// A fsync of a directory failed.
    IOERR_DIR_FSYNC = 10 | (5 << 8);
    /// A truncation failed.
    IOERR_TRUNCATE = 10 | (6 << 8);
    /// A stat failed.
    IOERR_FSTAT = 10 | (7 << 8);
    /// A lock could not be released.
    IOERR_UNLOCK = 10 | (8 << 8);
    /// A lock could not be lowered to a read lock.
    IOERR_RDLOCK = 10 | (9 << 8);
    /// An unlink failed.
    IOERR_DELETE = 10 | (10 << 8);
    /// The host's allocator failed inside the VFS.
    IOERR_NOMEM = 10 | (12 << 8);
    /// A look at a file's rights failed.
    IOERR_ACCESS = 10 | (13 << 8);
    /// A look for somebody's RESERVED lock failed.
    IOERR_CHECKRESERVEDLOCK = 10 | (14 << 8);
    /// A lock failed, and not because somebody holds one.
    IOERR_LOCK = 10 | (15 << 8);
    /// A file could not be closed.
    IOERR_CLOSE = 10 | (16 << 8);
    /// The file of the shared memory could not be made ready.
    IOERR_SHMOPEN = 10 | (18 << 8);
    /// The file of the shared memory could not be made long enough.
    IOERR_SHMSIZE = 10 | (19 << 8);
    /// A lock on the shared memory failed, and not because somebody holds one.
    IOERR_SHMLOCK = 10 | (20 << 8);
    /// The shared memory could not be mapped.
    IOERR_SHMMAP = 10 | (21 << 8);
    /// The file that should be deleted does not exist.
    IOERR_DELETE_NOENT = 10 | (23 << 8);
    /// No directory for temporary files can be used.
    IOERR_GETTEMPPATH = 10 | (25 << 8);
    /// A memory map failed.
    IOERR_MMAP = 10 | (24 << 8);
    /// The file system is damaged.
    IOERR_CORRUPTFS = 10 | (33 << 8);
    /// The path can't be made absolute.
    CANTOPEN_FULLPATH = 14 | (3 << 8);
}

impl Code {
    /// The number that SQLite knows this code by.
    #[must_use]
    pub const fn raw(self) -> c_int {
        self.0
    }
}

/// What a callback returns for a result.
pub(crate) fn to_raw(result: Result<()>) -> c_int {
    match result {
        Ok(()) => SQLITE_OK,
        Err(code) => code.raw(),
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SQLITE_{name}"),
            None => write!(f, "SQLite code {}", self.0),
        }
    }
}

impl std::error::Error for Code {}
