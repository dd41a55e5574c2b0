//! The methods that every file needs (`iVersion` 1), xFileControl excepted; put into the tables by `mod`.

use super::{Handle, answer, call, call_and_choose};
use crate::Code;
use crate::code::to_raw;
use crate::file::{File, LockLevel, SyncFlags};
use crate::panics::guard;
use crate::sys::sqlite3_file;
use std::ffi::{c_int, c_void};
use std::{ptr, slice};

/// The buffer of a read.
///
/// # Safety
/// `len` bytes from `buffer` on are the callee's alone for `'a`.
unsafe fn bytes_mut<'a>(buffer: *mut c_void, len: c_int) -> &'a mut [u8] {
    match usize::try_from(len) {
        // SAFETY: the caller's promise; memory that came from C holds some bytes or other.
        Ok(len) if !buffer.is_null() => unsafe { slice::from_raw_parts_mut(buffer.cast(), len) },
        _ => &mut [],
    }
}

pub(super) unsafe extern "C" fn x_close<F: File>(place: *mut sqlite3_file) -> c_int {
    let handle = place.cast::<Handle<F>>();
    // SAFETY: SQLite closes an open file once. The file moves out, and the NULL says so before anything can panic.
    let (api, file) = unsafe {
        let file = ptr::addr_of!((*handle).file).read().assume_init();
        (*handle).base.pMethods = ptr::null();
        ((*handle).api, file)
    };
    guard(Some(api), "xClose", Code::IOERR_CLOSE.raw(), || {
        to_raw(file.close())
    })
}

pub(super) unsafe extern "C" fn x_read<F: File>(
    place: *mut sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let Ok(offset) = u64::try_from(offset) else {
        return Code::IOERR_READ.raw();
    };
    // SAFETY: SQLite passes an open file and a buffer of `len` bytes.
    unsafe {
        let buffer = bytes_mut(buffer, len);
        call_and_choose::<F, _>(place, "xRead", Code::IOERR_READ.raw(), |file, _| {
            to_raw(file.read(buffer, offset))
        })
    }
}

pub(super) unsafe extern "C" fn x_write<F: File>(
    place: *mut sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let Ok(offset) = u64::try_from(offset) else {
        return Code::IOERR_WRITE.raw();
    };
    let bytes = match usize::try_from(len) {
        // SAFETY: SQLite passes `len` bytes that stay as they are during the call.
        Ok(len) if !bytes.is_null() => unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) },
        _ => &[],
    };
    // SAFETY: an open file.
    unsafe {
        call_and_choose::<F, _>(place, "xWrite", Code::IOERR_WRITE.raw(), |file, _| {
            to_raw(file.write(bytes, offset))
        })
    }
}

pub(super) unsafe extern "C" fn x_truncate<F: File>(place: *mut sqlite3_file, len: i64) -> c_int {
    let Ok(len) = u64::try_from(len) else {
        return Code::IOERR_TRUNCATE.raw();
    };
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xTruncate", Code::IOERR_TRUNCATE.raw(), |file, _| {
            to_raw(file.truncate(len))
        })
    }
}

pub(super) unsafe extern "C" fn x_sync<F: File>(place: *mut sqlite3_file, flags: c_int) -> c_int {
    let flags = SyncFlags::from_raw(flags);
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xSync", Code::IOERR_FSYNC.raw(), |file, _| {
            to_raw(file.sync(flags))
        })
    }
}

pub(super) unsafe extern "C" fn x_file_size<F: File>(
    place: *mut sqlite3_file,
    size: *mut i64,
) -> c_int {
    // SAFETY: an open file, and a place for the answer.
    unsafe {
        call::<F, _>(place, "xFileSize", Code::IOERR_FSTAT.raw(), |file, _| {
            answer(
                size,
                file.size()
                    .map(|len| i64::try_from(len).unwrap_or(i64::MAX)),
            )
        })
    }
}

pub(super) unsafe extern "C" fn x_lock<F: File>(place: *mut sqlite3_file, level: c_int) -> c_int {
    let Some(level) = LockLevel::from_raw(level) else {
        return Code::MISUSE.raw();
    };
    // SAFETY: an open file.
    unsafe {
        call_and_choose::<F, _>(place, "xLock", Code::IOERR_LOCK.raw(), |file, _| {
            to_raw(file.lock(level))
        })
    }
}

pub(super) unsafe extern "C" fn x_unlock<F: File>(place: *mut sqlite3_file, level: c_int) -> c_int {
    let Some(level @ (LockLevel::None | LockLevel::Shared)) = LockLevel::from_raw(level) else {
        return Code::MISUSE.raw();
    };
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xUnlock", Code::IOERR_UNLOCK.raw(), |file, _| {
            to_raw(file.unlock(level))
        })
    }
}

pub(super) unsafe extern "C" fn x_check_reserved_lock<F: File>(
    place: *mut sqlite3_file,
    held: *mut c_int,
) -> c_int {
    // SAFETY: an open file, and a place for the answer.
    unsafe {
        call::<F, _>(
            place,
            "xCheckReservedLock",
            Code::IOERR_CHECKRESERVEDLOCK.raw(),
            |file, _| answer(held, file.check_reserved_lock().map(c_int::from)),
        )
    }
}

pub(super) unsafe extern "C" fn x_sector_size<F: File>(place: *mut sqlite3_file) -> c_int {
    // SAFETY: an open file. 0 makes SQLite use its default.
    unsafe { call::<F, _>(place, "xSectorSize", 0, |file, _| file.sector_size()) }
}

pub(super) unsafe extern "C" fn x_device_characteristics<F: File>(
    place: *mut sqlite3_file,
) -> c_int {
    // SAFETY: an open file. 0 promises nothing.
    unsafe {
        call::<F, _>(place, "xDeviceCharacteristics", 0, |file, _| {
            file.device_characteristics().0
        })
    }
}
