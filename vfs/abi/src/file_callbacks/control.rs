//! xFileControl: gives the pointer of each control the type that goes with its number; put into the tables by `mod`.

use super::call_and_choose;
use crate::code::to_raw;
use crate::control::{FileControl, Pragma, StringSlot};
use crate::file::File;
use crate::sys::{consts as c, sqlite3_file};
use crate::{Api, Code};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

pub(super) unsafe extern "C" fn x_file_control<F: File>(
    place: *mut sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: an open file, and the argument that `sqlite3.h` says goes with `op`.
    unsafe {
        call_and_choose::<F, _>(
            place,
            "xFileControl",
            Code::IOERR.raw(),
            |file, api| match decode(op, argument, api) {
                Ok(control) => to_raw(file.file_control(control)),
                Err(code) => code.raw(),
            },
        )
    }
}

/// Gives a file control's pointer the type that goes with its number.
///
/// # Safety
/// `argument` is what `sqlite3.h` documents for `op`, and stays valid for `'a`.
unsafe fn decode<'a>(op: c_int, argument: *mut c_void, api: Api) -> crate::Result<FileControl<'a>> {
    // SAFETY: in each arm the type is the documented one; `int_of` and `slot_of` check for NULL.
    unsafe {
        Ok(match op {
            c::SQLITE_FCNTL_LOCKSTATE => FileControl::LockState(int_of(argument)?),
            c::SQLITE_FCNTL_LAST_ERRNO => FileControl::LastErrno(int_of(argument)?),
            c::SQLITE_FCNTL_CHUNK_SIZE => FileControl::ChunkSize(*int_of(argument)?),
            c::SQLITE_FCNTL_SIZE_HINT => {
                FileControl::SizeHint(*argument.cast::<i64>().as_ref().ok_or(Code::MISUSE)?)
            }
            c::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
                FileControl::PowersafeOverwrite(int_of(argument)?)
            }
            c::SQLITE_FCNTL_VFSNAME => {
                FileControl::VfsName(StringSlot::new(slot_of(argument)?, api))
            }
            c::SQLITE_FCNTL_TEMPFILENAME => {
                FileControl::TempFilename(StringSlot::new(slot_of(argument)?, api))
            }
            c::SQLITE_FCNTL_PERSIST_WAL => FileControl::PersistWal(int_of(argument)?),
            c::SQLITE_FCNTL_MMAP_SIZE => {
                FileControl::MmapSize(argument.cast::<i64>().as_mut().ok_or(Code::MISUSE)?)
            }
            c::SQLITE_FCNTL_EXTERNAL_READER => FileControl::ExternalReader(int_of(argument)?),
            c::SQLITE_FCNTL_NULL_IO => FileControl::NullIo,
            c::SQLITE_FCNTL_HAS_MOVED => FileControl::HasMoved(int_of(argument)?),
            c::SQLITE_FCNTL_PRAGMA => FileControl::Pragma(pragma_of(argument, api)?),
            c::SQLITE_FCNTL_OVERWRITE => FileControl::Overwrite,
            c::SQLITE_FCNTL_SYNC => FileControl::Sync,
            c::SQLITE_FCNTL_COMMIT_PHASETWO => FileControl::CommitPhaseTwo,
            c::SQLITE_FCNTL_BEGIN_ATOMIC_WRITE => FileControl::BeginAtomicWrite,
            c::SQLITE_FCNTL_COMMIT_ATOMIC_WRITE => FileControl::CommitAtomicWrite,
            c::SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE => FileControl::RollbackAtomicWrite,
            c::SQLITE_FCNTL_CKPT_START => FileControl::CheckpointStart,
            c::SQLITE_FCNTL_CKPT_DONE => FileControl::CheckpointDone,
            other => FileControl::Other(other),
        })
    }
}

/// # Safety
/// `argument` is NULL or an `int` that is the callee's alone for `'a`.
unsafe fn int_of<'a>(argument: *mut c_void) -> crate::Result<&'a mut c_int> {
    // SAFETY: the caller's promise.
    unsafe { argument.cast::<c_int>().as_mut() }.ok_or(Code::MISUSE)
}

/// # Safety
/// `argument` is NULL or a `char*` that is the callee's alone for `'a`.
unsafe fn slot_of<'a>(argument: *mut c_void) -> crate::Result<&'a mut *mut c_char> {
    // SAFETY: the caller's promise.
    unsafe { argument.cast::<*mut c_char>().as_mut() }.ok_or(Code::MISUSE)
}

/// # Safety
/// `argument` is NULL or the array of `char*` that goes with `SQLITE_FCNTL_PRAGMA`: answer, name, and an argument that
/// is NULL or the callee's alone for `'a`.
unsafe fn pragma_of<'a>(argument: *mut c_void, api: Api) -> crate::Result<Pragma<'a>> {
    let array = argument.cast::<*mut c_char>();
    // SAFETY: the array has three entries at least; names are NUL-terminated; the first entry is for the answer.
    unsafe {
        let slot = array.as_mut().ok_or(Code::MISUSE)?;
        let (name, value) = (array.add(1).read(), array.add(2).read());
        if name.is_null() {
            return Err(Code::NOTFOUND);
        }
        // The argument stays a pointer: it is SQLite's own copy, and may be changed.
        Ok(Pragma::new(
            CStr::from_ptr(name),
            NonNull::new(value),
            StringSlot::new(slot, api),
        ))
    }
}
