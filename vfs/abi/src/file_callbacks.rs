//! `sqlite3_io_methods` for any [`File`]: one `extern "C"` function per method, each decoding C's arguments, calling the
//! trait under [`guard`], and encoding the result. `vfs_callbacks` makes the [`Handle`] that they find.

use crate::code::{SQLITE_OK, to_raw};
use crate::control::{FileControl, Pragma, StringSlot};
use crate::file::{File, LockLevel, SyncFlags};
use crate::panics::guard;
use crate::sys::{consts as c, sqlite3_file, sqlite3_io_methods};
use crate::{Api, Code};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::{ptr, slice};

/// What stands in the `szOsFile` bytes that SQLite allocates for an open file.
#[repr(C)]
pub(crate) struct Handle<F> {
    /// `pMethods` is NULL exactly while `file` holds nothing.
    base: sqlite3_file,
    api: Api,
    file: MaybeUninit<F>,
}

impl<F: File> Handle<F> {
    const METHODS: &'static sqlite3_io_methods = &sqlite3_io_methods {
        iVersion: 1,
        xClose: Some(x_close::<F>),
        xRead: Some(x_read::<F>),
        xWrite: Some(x_write::<F>),
        xTruncate: Some(x_truncate::<F>),
        xSync: Some(x_sync::<F>),
        xFileSize: Some(x_file_size::<F>),
        xLock: Some(x_lock::<F>),
        xUnlock: Some(x_unlock::<F>),
        xCheckReservedLock: Some(x_check_reserved_lock::<F>),
        xFileControl: Some(x_file_control::<F>),
        xSectorSize: Some(x_sector_size::<F>),
        xDeviceCharacteristics: Some(x_device_characteristics::<F>),
        xShmMap: None,
        xShmLock: None,
        xShmBarrier: None,
        xShmUnmap: None,
        xFetch: None,
        xUnfetch: None,
    };

    /// Puts an open file in place.
    ///
    /// # Safety
    /// `place` has room for a `Handle<F>`, aligned to 8 bytes, and no file is open in it.
    pub(crate) unsafe fn fill(place: *mut sqlite3_file, api: Api, file: F) {
        const {
            assert!(
                align_of::<Handle<F>>() <= 8,
                "SQLite aligns files to 8 bytes"
            );
        }
        let handle = Handle {
            base: sqlite3_file {
                pMethods: Self::METHODS,
            },
            api,
            file: MaybeUninit::new(file),
        };
        // SAFETY: the caller promises room and alignment; nothing is overwritten that would need a destructor.
        unsafe { place.cast::<Handle<F>>().write(handle) }
    }
}

/// Calls a method of the open file.
///
/// # Safety
/// `place` holds a filled `Handle<F>`, and no other call is under way on it.
unsafe fn call<F: File, T>(
    place: *mut sqlite3_file,
    callback: &'static str,
    otherwise: T,
    body: impl FnOnce(&mut F, Api) -> T,
) -> T {
    // SAFETY: the caller's promise; SQLite calls a file from one thread at a time, under the connection's mutex.
    let handle = unsafe { &mut *place.cast::<Handle<F>>() };
    let api = handle.api;
    // SAFETY: methods are reached through `pMethods` only, which is set exactly while `file` is filled.
    let file = unsafe { handle.file.assume_init_mut() };
    guard(Some(api), callback, otherwise, || body(file, api))
}

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

unsafe extern "C" fn x_close<F: File>(place: *mut sqlite3_file) -> c_int {
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

unsafe extern "C" fn x_read<F: File>(
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
        call::<F, _>(place, "xRead", Code::IOERR_READ.raw(), |file, _| {
            to_raw(file.read(buffer, offset))
        })
    }
}

unsafe extern "C" fn x_write<F: File>(
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
        call::<F, _>(place, "xWrite", Code::IOERR_WRITE.raw(), |file, _| {
            to_raw(file.write(bytes, offset))
        })
    }
}

unsafe extern "C" fn x_truncate<F: File>(place: *mut sqlite3_file, len: i64) -> c_int {
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

unsafe extern "C" fn x_sync<F: File>(place: *mut sqlite3_file, flags: c_int) -> c_int {
    let flags = SyncFlags::from_raw(flags);
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xSync", Code::IOERR_FSYNC.raw(), |file, _| {
            to_raw(file.sync(flags))
        })
    }
}

unsafe extern "C" fn x_file_size<F: File>(place: *mut sqlite3_file, size: *mut i64) -> c_int {
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

unsafe extern "C" fn x_lock<F: File>(place: *mut sqlite3_file, level: c_int) -> c_int {
    let Some(level) = LockLevel::from_raw(level) else {
        return Code::MISUSE.raw();
    };
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xLock", Code::IOERR_LOCK.raw(), |file, _| {
            to_raw(file.lock(level))
        })
    }
}

unsafe extern "C" fn x_unlock<F: File>(place: *mut sqlite3_file, level: c_int) -> c_int {
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

unsafe extern "C" fn x_check_reserved_lock<F: File>(
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

unsafe extern "C" fn x_sector_size<F: File>(place: *mut sqlite3_file) -> c_int {
    // SAFETY: an open file. 0 makes SQLite use its default.
    unsafe { call::<F, _>(place, "xSectorSize", 0, |file, _| file.sector_size()) }
}

unsafe extern "C" fn x_device_characteristics<F: File>(place: *mut sqlite3_file) -> c_int {
    // SAFETY: an open file. 0 promises nothing.
    unsafe {
        call::<F, _>(place, "xDeviceCharacteristics", 0, |file, _| {
            file.device_characteristics().0
        })
    }
}

unsafe extern "C" fn x_file_control<F: File>(
    place: *mut sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: an open file, and the argument that `sqlite3.h` says goes with `op`.
    unsafe {
        call::<F, _>(
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

/// Stores the answer behind a pointer.
///
/// # Safety
/// `place` is NULL or can be written.
unsafe fn answer<T>(place: *mut T, result: crate::Result<T>) -> c_int {
    match result {
        Ok(value) => {
            if !place.is_null() {
                // SAFETY: the caller's promise.
                unsafe { place.write(value) }
            }
            SQLITE_OK
        }
        Err(code) => code.raw(),
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
            c::SQLITE_FCNTL_HAS_MOVED => FileControl::HasMoved(int_of(argument)?),
            c::SQLITE_FCNTL_PRAGMA => FileControl::Pragma(pragma_of(argument, api)?),
            c::SQLITE_FCNTL_OVERWRITE => FileControl::Overwrite,
            c::SQLITE_FCNTL_SYNC => FileControl::Sync,
            c::SQLITE_FCNTL_COMMIT_PHASETWO => FileControl::CommitPhaseTwo,
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
/// `argument` is NULL or the array of four `char*` that goes with `SQLITE_FCNTL_PRAGMA`: answer, name, argument.
unsafe fn pragma_of<'a>(argument: *mut c_void, api: Api) -> crate::Result<Pragma<'a>> {
    let array = argument.cast::<*mut c_char>();
    // SAFETY: the array has three entries at least; names are NUL-terminated; the first entry is for the answer.
    unsafe {
        let slot = array.as_mut().ok_or(Code::MISUSE)?;
        let (name, value) = (array.add(1).read(), array.add(2).read());
        if name.is_null() {
            return Err(Code::NOTFOUND);
        }
        let value = (!value.is_null()).then(|| CStr::from_ptr(value));
        Ok(Pragma::new(
            CStr::from_ptr(name),
            value,
            StringSlot::new(slot, api),
        ))
    }
}
