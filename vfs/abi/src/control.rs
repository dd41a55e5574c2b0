//! The file controls that Verneuil answers or listens to, decoded: [`FileControl`]; built by `file_callbacks` from
//! xFileControl's number and pointer.

use crate::{Api, Code, Result};
use std::ffi::{CStr, c_char, c_int};
use std::ptr::NonNull;

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
    /// `SQLITE_FCNTL_PERSIST_WAL`: negative asks, 0 and 1 set whether log and shared memory stay when the last connection
    /// closes; the answer goes in.
    PersistWal(&'a mut c_int),
    /// `SQLITE_FCNTL_MMAP_SIZE`: how many bytes of the file may be mapped; negative only asks; the old limit goes in.
    MmapSize(&'a mut i64),
    /// `SQLITE_FCNTL_EXTERNAL_READER`: 1 if somebody else is in a read transaction of WAL mode.
    ExternalReader(&'a mut c_int),
    /// `SQLITE_FCNTL_NULL_IO`: from now on, reads and writes fail.
    NullIo,
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
    /// `SQLITE_FCNTL_BEGIN_ATOMIC_WRITE`: the next writes shall reach the disk together; sent only to files that promise it.
    BeginAtomicWrite,
    /// `SQLITE_FCNTL_COMMIT_ATOMIC_WRITE`: now.
    CommitAtomicWrite,
    /// `SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE`: or not at all.
    RollbackAtomicWrite,
    /// `SQLITE_FCNTL_CKPT_START`: a checkpoint is about to write to the database file.
    CheckpointStart,
    /// `SQLITE_FCNTL_CKPT_DONE`: it has copied all that it will.
    CheckpointDone,
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
    name: &'a CStr,
    /// SQLite's own copy of the argument, for this statement only, from its allocator.
    argument: Option<NonNull<c_char>>,
    answer: StringSlot<'a>,
}

impl<'a> Pragma<'a> {
    /// # Safety
    /// `argument` is NUL-terminated, and nobody else uses it for `'a`.
    pub(crate) unsafe fn new(
        name: &'a CStr,
        argument: Option<NonNull<c_char>>,
        answer: StringSlot<'a>,
    ) -> Self {
        Pragma {
            name,
            argument,
            answer,
        }
    }

    /// Its name, in the statement's case.
    #[must_use]
    pub fn name(&self) -> &'a CStr {
        self.name
    }

    /// What is behind `=` or inside the parentheses.
    #[must_use]
    pub fn argument(&self) -> Option<&CStr> {
        // SAFETY: `new` was promised a NUL-terminated string that nobody else uses; the result borrows `self`, so that
        // `disable_argument` can't run while it lives.
        self.argument
            .map(|argument| unsafe { CStr::from_ptr(argument.as_ptr()) })
    }

    /// Makes the argument one that SQLite doesn't know, by writing `?` over its first byte; if the file control then answers
    /// `NOTFOUND`, SQLite goes on with it. `PRAGMA journal_mode=WAL` becomes `PRAGMA journal_mode=?AL`, which changes
    /// nothing and answers the mode in force, as every unknown mode does. False if there is nothing to overwrite.
    ///
    /// This is sound because of what SQLite passes here: the argument is a private, writable copy of the statement's token,
    /// made for this one call of the pragma code and freed at its end (`sqlite3.h` gives the array as `char**`, not
    /// `const`), the length stays, and no byte of any other thing is touched. The text that was prepared does not change: each
    /// preparation makes a new copy and asks again.
    pub fn disable_argument(&mut self) -> bool {
        let Some(argument) = self.argument else {
            return false;
        };
        // SAFETY: NUL-terminated, so that one byte is there; writable and ours alone, see above; `&mut self` shows that no
        // reference from `argument()` is alive. An empty string is left alone: its NUL is its end.
        unsafe {
            if argument.read() == 0 {
                return false;
            }
            argument.write(b'?'.cast_signed());
        }
        true
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
