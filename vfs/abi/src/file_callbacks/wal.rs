//! Shared memory of WAL mode (`iVersion` 2) and memory maps (3); put into the tables by `mod`.

use super::{Handle, call, call_and_choose};
use crate::Code;
use crate::code::{SQLITE_OK, to_raw};
use crate::file::File;
use crate::shm::{Mapped, ShmLock, ShmSlots};
use crate::sys::sqlite3_file;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{Ordering, fence};

/// Notes whether SQLite uses the shared memory of the file: then it must find an xShmMap.
///
/// # Safety
/// As for [`call`].
unsafe fn set_uses_shm<F: File>(place: *mut sqlite3_file, uses_shm: bool) {
    // SAFETY: the caller's promise.
    unsafe { &mut *place.cast::<Handle<F>>() }.uses_shm = uses_shm;
}

pub(super) unsafe extern "C" fn x_shm_map<F: File>(
    place: *mut sqlite3_file,
    region: c_int,
    region_len: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { store(out, None) };
    let (Ok(region), Ok(region_len)) = (usize::try_from(region), usize::try_from(region_len))
    else {
        return Code::IOERR_SHMMAP.raw();
    };
    // SAFETY: an open file, and a place for the answer. Noted before the call: a failed one may have opened something.
    unsafe {
        set_uses_shm::<F>(place, true);
        call::<F, _>(
            place,
            "xShmMap",
            Code::IOERR_SHMMAP.raw(),
            |file, _| match file.shm_map(region, region_len, extend != 0) {
                Ok(found) => {
                    store(out, found.memory);
                    if found.is_read_only {
                        Code::READONLY.raw()
                    } else {
                        SQLITE_OK
                    }
                }
                Err(code) => code.raw(),
            },
        )
    }
}

pub(super) unsafe extern "C" fn x_shm_lock<F: File>(
    place: *mut sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let (Some(slots), Some(how)) = (ShmSlots::new(first, count), ShmLock::from_raw(flags)) else {
        return Code::MISUSE.raw();
    };
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xShmLock", Code::IOERR_SHMLOCK.raw(), |file, _| {
            to_raw(file.shm_lock(slots, how))
        })
    }
}

pub(super) unsafe extern "C" fn x_shm_barrier<F: File>(place: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
    // SAFETY: an open file.
    unsafe { call::<F, _>(place, "xShmBarrier", (), |file, _| file.shm_barrier()) }
}

pub(super) unsafe extern "C" fn x_shm_unmap<F: File>(
    place: *mut sqlite3_file,
    delete: c_int,
) -> c_int {
    // SAFETY: an open file. SQLite calls xShmMap no more until it has looked again whether there is one.
    unsafe {
        set_uses_shm::<F>(place, false);
        call_and_choose::<F, _>(place, "xShmUnmap", Code::IOERR.raw(), |file, _| {
            to_raw(file.shm_unmap(delete != 0))
        })
    }
}

pub(super) unsafe extern "C" fn x_fetch<F: File>(
    place: *mut sqlite3_file,
    offset: i64,
    len: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes a place for the answer. NULL makes it use xRead.
    unsafe { store(out, None) };
    let (Ok(offset), Ok(len)) = (u64::try_from(offset), usize::try_from(len)) else {
        return Code::IOERR.raw();
    };
    // SAFETY: an open file, and a place for the answer.
    unsafe {
        call::<F, _>(
            place,
            "xFetch",
            Code::IOERR_MMAP.raw(),
            |file, _| match file.fetch(offset, len) {
                Ok(memory) => {
                    store(out, memory);
                    SQLITE_OK
                }
                Err(code) => code.raw(),
            },
        )
    }
}

pub(super) unsafe extern "C" fn x_unfetch<F: File>(
    place: *mut sqlite3_file,
    offset: i64,
    memory: *mut c_void,
) -> c_int {
    let offset = match u64::try_from(offset) {
        Ok(offset) if !memory.is_null() => Some(offset),
        _ => None,
    };
    // SAFETY: an open file.
    unsafe {
        call::<F, _>(place, "xUnfetch", Code::IOERR_MMAP.raw(), |file, _| {
            to_raw(file.unfetch(offset))
        })
    }
}

/// # Safety
/// `out` is NULL or can be written.
unsafe fn store(out: *mut *mut c_void, memory: Option<Mapped>) {
    if !out.is_null() {
        // SAFETY: the caller's promise.
        unsafe {
            out.write(memory.map_or(ptr::null_mut(), |memory| memory.as_ptr().cast()));
        }
    }
}
