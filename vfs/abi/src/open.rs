//! What xOpen is asked and what it answers: [`OpenRequest`], [`OpenFlags`], [`Filename`], [`Opened`]; built by
//! `vfs_callbacks`, read by implementations of [`crate::Vfs`].

use crate::Api;
use crate::sys::consts as c;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

/// The `SQLITE_OPEN_…` bits of one open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags(pub c_int);

impl OpenFlags {
    /// For reading only.
    pub const READ_ONLY: OpenFlags = OpenFlags(c::SQLITE_OPEN_READONLY);
    /// For reading and writing.
    pub const READ_WRITE: OpenFlags = OpenFlags(c::SQLITE_OPEN_READWRITE);
    /// Created when absent.
    pub const CREATE: OpenFlags = OpenFlags(c::SQLITE_OPEN_CREATE);
    /// Gone when closed.
    pub const DELETE_ON_CLOSE: OpenFlags = OpenFlags(c::SQLITE_OPEN_DELETEONCLOSE);
    /// Must not exist.
    pub const EXCLUSIVE: OpenFlags = OpenFlags(c::SQLITE_OPEN_EXCLUSIVE);
    /// The name carries URI parameters.
    pub const URI: OpenFlags = OpenFlags(c::SQLITE_OPEN_URI);
    /// Lives in memory.
    pub const MEMORY: OpenFlags = OpenFlags(c::SQLITE_OPEN_MEMORY);
    /// A main database.
    pub const MAIN_DB: OpenFlags = OpenFlags(c::SQLITE_OPEN_MAIN_DB);
    /// Its journal.
    pub const MAIN_JOURNAL: OpenFlags = OpenFlags(c::SQLITE_OPEN_MAIN_JOURNAL);
    /// A super-journal.
    pub const SUPER_JOURNAL: OpenFlags = OpenFlags(c::SQLITE_OPEN_SUPER_JOURNAL);
    /// A write-ahead log.
    pub const WAL: OpenFlags = OpenFlags(c::SQLITE_OPEN_WAL);

    /// Are all bits of `other` set?
    #[must_use]
    pub const fn contains(self, other: OpenFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any bit of `other` set?
    #[must_use]
    pub const fn intersects(self, other: OpenFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: OpenFlags) -> OpenFlags {
        OpenFlags(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub const fn without(self, other: OpenFlags) -> OpenFlags {
        OpenFlags(self.0 & !other.0)
    }
}

/// A file name as SQLite passes it: a path, with URI parameters behind its NUL when it names a main database.
///
/// The pointer is kept as it came, because the parameters are found through it.
#[derive(Clone, Copy)]
pub struct Filename<'a> {
    name: NonNull<c_char>,
    /// Only a main database's name is known to have parameters behind its NUL.
    uri_parameters: Option<Api>,
    alive: PhantomData<&'a CStr>,
}

impl<'a> Filename<'a> {
    /// # Safety
    /// `name` is NUL-terminated and lives for `'a`; with `uri_parameters`, it is a name that the library behind it
    /// passed to xOpen for a main database.
    pub(crate) unsafe fn new(name: NonNull<c_char>, uri_parameters: Option<Api>) -> Self {
        Filename {
            name,
            uri_parameters,
            alive: PhantomData,
        }
    }

    /// The path as a C string.
    #[must_use]
    pub fn as_cstr(&self) -> &'a CStr {
        // SAFETY: `new` was promised a NUL-terminated string that lives for 'a.
        unsafe { CStr::from_ptr(self.name.as_ptr()) }
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &'a Path {
        path_of(self.as_cstr())
    }

    /// The value of a URI parameter; none on anything but a main database.
    #[must_use]
    pub fn uri_parameter(&self, key: &CStr) -> Option<&'a CStr> {
        // SAFETY: `new` was promised that this name may be asked for parameters when there is an Api.
        unsafe { self.uri_parameters?.uri_parameter(self.name, key) }
    }

    /// A URI parameter read as a truth value, as `sqlite3_uri_boolean` does.
    #[must_use]
    pub fn uri_boolean(&self, key: &CStr, default: bool) -> bool {
        match self.uri_parameters {
            // SAFETY: as in `uri_parameter`.
            Some(api) => unsafe { api.uri_boolean(self.name, key, default) },
            None => default,
        }
    }
}

/// The path that a C string names.
#[must_use]
pub fn path_of(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

/// The arguments of xOpen.
#[derive(Clone, Copy)]
pub struct OpenRequest<'a> {
    /// The file; none asks for a temporary file that the VFS names.
    pub name: Option<Filename<'a>>,
    /// How to open it.
    pub flags: OpenFlags,
    /// The library that asks.
    pub api: Api,
}

/// The answer to xOpen.
pub struct Opened<F> {
    /// The open file.
    pub file: F,
    /// How it was opened: what was asked, except that a file that can't be written may come back read-only.
    pub flags: OpenFlags,
}
