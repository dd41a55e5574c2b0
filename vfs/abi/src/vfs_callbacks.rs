//! `sqlite3_vfs` for any [`Vfs`]: one `extern "C"` function per method, each decoding C's arguments and calling the
//! trait under [`guard`]; `register` puts the table and its [`AppData`] together.

use crate::code::{SQLITE_OK, SQLITE_OK_SYMLINK, to_raw};
use crate::file_callbacks::Handle;
use crate::open::{Filename, OpenFlags, OpenRequest, path_of};
use crate::panics::guard;
use crate::sys::{consts as c, sqlite3_file, sqlite3_vfs};
use crate::vfs::{Access, MAX_PATH_LEN_BYTES, Vfs};
use crate::{Api, Code, platform};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};

/// What `pAppData` points to: one per registration, that is, per VFS and SQLite library.
pub(crate) struct AppData<V> {
    pub(crate) api: Api,
    pub(crate) vfs: V,
    pub(crate) name: CString,
}

/// The C table for a VFS; `pNext` is SQLite's, `zName` points into `app_data`.
pub(crate) fn table<V: Vfs>(app_data: &'static AppData<V>) -> sqlite3_vfs {
    sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(size_of::<Handle<V::File>>()).unwrap_or(c_int::MAX),
        mxPathname: MAX_PATH_LEN_BYTES,
        pNext: ptr::null_mut(),
        zName: app_data.name.as_ptr(),
        pAppData: ptr::from_ref(app_data).cast_mut().cast(),
        xOpen: Some(x_open::<V>),
        xDelete: Some(x_delete::<V>),
        xAccess: Some(x_access::<V>),
        xFullPathname: Some(x_full_pathname::<V>),
        xDlOpen: Some(x_dl_open),
        xDlError: Some(x_dl_error),
        xDlSym: Some(x_dl_sym),
        xDlClose: Some(x_dl_close),
        xRandomness: Some(x_randomness),
        xSleep: Some(x_sleep),
        xCurrentTime: Some(x_current_time),
        xGetLastError: Some(x_get_last_error),
        xCurrentTimeInt64: Some(x_current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}

/// Calls a method of the VFS.
///
/// # Safety
/// `vfs` is a table that [`table`] made for `V`.
unsafe fn call<V: Vfs, T>(
    vfs: *mut sqlite3_vfs,
    callback: &'static str,
    otherwise: T,
    body: impl FnOnce(&V, Api) -> T,
) -> T {
    // SAFETY: `table` stored a reference that lives for the rest of the process, and nobody changes it.
    let app_data = unsafe { &*(*vfs).pAppData.cast::<AppData<V>>() };
    guard(Some(app_data.api), callback, otherwise, || {
        body(&app_data.vfs, app_data.api)
    })
}

unsafe extern "C" fn x_open<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    place: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes szOsFile bytes. A NULL here is how SQLite knows that there is nothing to close.
    unsafe { (*place).pMethods = ptr::null() };
    let flags = OpenFlags(flags);
    // SAFETY: `vfs` is ours; `name` is NULL or NUL-terminated and outlives the file, and carries URI parameters when it
    // names a main database; `place` has room for the handle.
    unsafe {
        call::<V, _>(vfs, "xOpen", Code::CANTOPEN.raw(), |vfs, api| {
            let parameters = flags.contains(OpenFlags::MAIN_DB).then_some(api);
            let name = NonNull::new(name.cast_mut()).map(|name| Filename::new(name, parameters));
            match vfs.open(OpenRequest { name, flags, api }) {
                Ok(opened) => {
                    if !flags_out.is_null() {
                        flags_out.write(opened.flags.0);
                    }
                    Handle::fill(place, api, opened.file);
                    SQLITE_OK
                }
                Err(code) => code.raw(),
            }
        })
    }
}

unsafe extern "C" fn x_delete<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: `vfs` is ours; `name` is NUL-terminated.
    unsafe {
        let path = path_of(CStr::from_ptr(name));
        // Bit 0 only, as `unix` reads it.
        call::<V, _>(vfs, "xDelete", Code::IOERR_DELETE.raw(), |vfs, api| {
            let result = vfs.delete(path, sync_directory & 1 != 0);
            if let Err(code) = result
                && code != Code::IOERR_DELETE_NOENT
            {
                api.log(code, &format!("delete {}: {code}", path.display()));
            }
            to_raw(result)
        })
    }
}

unsafe extern "C" fn x_access<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    let access = match flags {
        c::SQLITE_ACCESS_EXISTS => Access::Exists,
        c::SQLITE_ACCESS_READWRITE => Access::ReadWrite,
        c::SQLITE_ACCESS_READ => Access::Read,
        _ => return Code::MISUSE.raw(),
    };
    // SAFETY: `vfs` is ours; `name` is NUL-terminated; `result` is a place for the answer.
    unsafe {
        let path = path_of(CStr::from_ptr(name));
        call::<V, _>(vfs, "xAccess", Code::IOERR_ACCESS.raw(), |vfs, _| match vfs
            .access(path, access)
        {
            Ok(yes) => {
                result.write(c_int::from(yes));
                SQLITE_OK
            }
            Err(code) => code.raw(),
        })
    }
}

unsafe extern "C" fn x_full_pathname<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: `vfs` is ours; `name` is NUL-terminated; `out` has `room` bytes.
    unsafe {
        let path = path_of(CStr::from_ptr(name));
        call::<V, _>(
            vfs,
            "xFullPathname",
            Code::CANTOPEN_FULLPATH.raw(),
            |vfs, api| match vfs.full_pathname(path) {
                Ok(full) => {
                    let bytes = full.path.as_os_str().as_bytes();
                    if usize::try_from(room).is_ok_and(|room| bytes.len() < room) {
                        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
                        out.add(bytes.len()).write(0);
                        if full.had_symlink {
                            SQLITE_OK_SYMLINK
                        } else {
                            SQLITE_OK
                        }
                    } else {
                        let length = bytes.len();
                        api.log(
                            Code::CANTOPEN_FULLPATH,
                            &format!(
                                "the path is {length} bytes long, {MAX_PATH_LEN_BYTES} are allowed: {}",
                                full.path.display()
                            ),
                        );
                        Code::CANTOPEN_FULLPATH.raw()
                    }
                }
                Err(code) => {
                    api.log(
                        code,
                        &format!(
                            "no absolute path of at most {MAX_PATH_LEN_BYTES} bytes can be made of {}",
                            path.display()
                        ),
                    );
                    code.raw()
                }
            },
        )
    }
}

unsafe extern "C" fn x_dl_open(_: *mut sqlite3_vfs, name: *const c_char) -> *mut c_void {
    // SAFETY: SQLite passes a NUL-terminated name.
    unsafe { platform::dl_open(name) }
}

unsafe extern "C" fn x_dl_error(_: *mut sqlite3_vfs, room: c_int, out: *mut c_char) {
    // SAFETY: SQLite passes `room` bytes.
    unsafe { platform::dl_error(out, room) }
}

unsafe extern "C" fn x_dl_sym(
    _: *mut sqlite3_vfs,
    library: *mut c_void,
    symbol: *const c_char,
) -> Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)> {
    // SAFETY: a library that xDlOpen gave and a NUL-terminated name. The result is a function's address, or NULL, which
    // is None; SQLite casts it to the type that the symbol has.
    unsafe { std::mem::transmute(platform::dl_sym(library, symbol)) }
}

unsafe extern "C" fn x_dl_close(_: *mut sqlite3_vfs, library: *mut c_void) {
    // SAFETY: a library that xDlOpen gave.
    unsafe { platform::dl_close(library) }
}

unsafe extern "C" fn x_randomness(_: *mut sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite passes `len` bytes.
    guard(None, "xRandomness", 0, || unsafe {
        platform::randomness(out, len)
    })
}

unsafe extern "C" fn x_sleep(_: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    guard(None, "xSleep", 0, || platform::sleep_us(microseconds))
}

unsafe extern "C" fn x_current_time(_: *mut sqlite3_vfs, days: *mut f64) -> c_int {
    let now_ms = guard(None, "xCurrentTime", 0, platform::julian_now_ms);
    #[allow(clippy::cast_precision_loss)] // 2e14 is far below 2^53
    // SAFETY: SQLite passes a place for the answer.
    unsafe {
        days.write(now_ms as f64 / 86_400_000.0);
    }
    SQLITE_OK
}

unsafe extern "C" fn x_current_time_int64(_: *mut sqlite3_vfs, out_ms: *mut i64) -> c_int {
    let now_ms = guard(None, "xCurrentTimeInt64", 0, platform::julian_now_ms);
    // SAFETY: SQLite passes a place for the answer.
    unsafe { out_ms.write(now_ms) };
    SQLITE_OK
}

unsafe extern "C" fn x_get_last_error(
    _: *mut sqlite3_vfs,
    _room: c_int,
    _out: *mut c_char,
) -> c_int {
    // As `unix`: the thread's errno, for sqlite3_system_errno(); there is no text.
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
