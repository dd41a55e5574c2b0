//! The file controls that Verneuil answers or listens to, decoded: [`FileControl`]; built by `file_callbacks` from
//! xFileControl's number and pointer.

use crate::{Api, Code, Result};
use std::ffi::{CStr, c_char, c_int};

/// One call of xFileControl.
#[non_exhaustive]
pub enum FileControl<'a> {
    /// `SQLITE_FCNTL_LOCKSTATE`: reports the lock level.
    LockState(&'a mut c_int),
    /// `SQLITE_FCNTL_LAST_ERRNO`: reports the errno of the last failure.
    LastErrno(&'a mut c_int),
    /// `SQLITE_FCNTL_CHUNK_SIZE`: grow and shrink in multiples of so many bytes.
    ChunkSize(c_int),
    /// `SQLITE_FCNTL_SIZE_HINT`: the file will soon have so many bytes.
    SizeHint(i64),
    /// `SQLITE_FCNTL_POWERSAFE_OVERWRITE`: negative asks, 0 and 1 set; the answer goes in.
    PowersafeOverwrite(&'a mut c_int),
    /// `SQLITE_FCNTL_VFSNAME`: reports the name of the VFS.
    VfsName(StringSlot<'a>),
    /// `SQLITE_FCNTL_TEMPFILENAME`: reports a name that a temporary file could have.
    TempFilename(StringSlot<'a>),
    /// `SQLITE_FCNTL_HAS_MOVED`: 1 if the file is no longer behind its name.
    HasMoved(&'a mut c_int),
    /// `SQLITE_FCNTL_PRAGMA`: a PRAGMA that SQLite itself has not looked at yet.
    Pragma(Pragma<'a>),
    /// `SQLITE_FCNTL_OVERWRITE`: the transaction will replace the whole database.
    Overwrite,
    /// `SQLITE_FCNTL_SYNC`: the database file is about to be synced.
    Sync,
    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: the commit is complete, the locks are still held.
    CommitPhaseTwo,
    /// Anything else, by its number.
    Other(c_int),
}

/// A place for a string that the host will free.
pub struct StringSlot<'a> {
    slot: &'a mut *mut c_char,
    api: Api,
}

impl<'a> StringSlot<'a> {
    pub(crate) fn new(slot: &'a mut *mut c_char, api: Api) -> Self {
        StringSlot { slot, api }
    }

    /// Puts a copy of the text, made by the host's allocator, into the place.
    ///
    /// # Errors
    /// `SQLITE_NOMEM`; the place holds NULL then.
    pub fn set(&mut self, text: &str) -> Result<()> {
        *self.slot = self.api.allocate_string(text);
        if self.slot.is_null() {
            Err(Code::NOMEM)
        } else {
            Ok(())
        }
    }
}

/// A PRAGMA statement: `PRAGMA name` or `PRAGMA name=argument`.
pub struct Pragma<'a> {
    /// Its name, in the statement's case.
    pub name: &'a CStr,
    /// What is behind `=` or inside the parentheses.
    pub argument: Option<&'a CStr>,
    answer: StringSlot<'a>,
}

impl<'a> Pragma<'a> {
    pub(crate) fn new(name: &'a CStr, argument: Option<&'a CStr>, answer: StringSlot<'a>) -> Self {
        Pragma {
            name,
            argument,
            answer,
        }
    }

    /// Is it the pragma of that name? SQL knows no case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.to_bytes().eq_ignore_ascii_case(name.as_bytes())
    }

    /// Answers with one row of one column.
    ///
    /// # Errors
    /// `SQLITE_NOMEM`.
    pub fn answer(mut self, text: &str) -> Result<()> {
        self.answer.set(text)
    }

    /// Makes the statement fail with a message: the value is what the file control returns.
    #[must_use]
    pub fn fail(mut self, message: &str) -> Code {
        match self.answer.set(message) {
            Ok(()) => Code::ERROR,
            Err(code) => code,
        }
    }
}
