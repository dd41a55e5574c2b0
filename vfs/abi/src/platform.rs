//! The parts of a VFS that are the same for every one of ours: dynamic libraries, time, sleep, randomness; called by
//! `vfs_callbacks`.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The Julian day of 1970-01-01, in milliseconds.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

/// Milliseconds since the Julian epoch.
pub(crate) fn julian_now_ms() -> i64 {
    let since_1970_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX / 2),
    };
    UNIX_EPOCH_JULIAN_MS.saturating_add(since_1970_ms)
}

/// Sleeps and says how long, in microseconds.
pub(crate) fn sleep_us(microseconds: c_int) -> c_int {
    let microseconds = microseconds.max(0);
    std::thread::sleep(Duration::from_micros(u64::from(
        microseconds.unsigned_abs(),
    )));
    microseconds
}

/// Fills the buffer from the kernel's generator and says how much of it.
///
/// # Safety
/// `len` bytes from `buffer` on can be written.
pub(crate) unsafe fn randomness(buffer: *mut c_char, len: c_int) -> c_int {
    let len = usize::try_from(len).unwrap_or(0);
    let mut filled = 0;
    while filled < len {
        // SAFETY: `filled < len`, and the caller promises `len` bytes.
        let got = unsafe { libc::getrandom(buffer.add(filled).cast(), len - filled, 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {
            }
            Err(_) => break,
        }
    }
    c_int::try_from(filled).unwrap_or(c_int::MAX)
}

/// A number that nobody can guess, for the names of temporary files.
#[must_use]
pub fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: eight bytes of our own.
    unsafe { randomness(bytes.as_mut_ptr().cast(), 8) };
    u64::from_ne_bytes(bytes)
}

/// Where SQLite's lock bytes begin right now, as far as it can be seen. SQLite's own test programs move them while they run, and
/// show the variable; elsewhere it is hidden or stays what it is. None is the usual place.
#[must_use]
pub fn pending_byte() -> Option<u64> {
    // Looked for once: a program that has the variable has it from its start, and a forked child should not wait for the dynamic
    // linker's lock. Where it was found it is looked up again each time, because a library may go.
    static IS_ABSENT: AtomicBool = AtomicBool::new(false);
    if IS_ABSENT.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: a NUL-terminated name, looked up in what is loaded.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"sqlite3PendingByte".as_ptr()) };
    if symbol.is_null() {
        IS_ABSENT.store(true, Ordering::Relaxed);
        return None;
    }
    // SAFETY: a symbol of that name is SQLite's `int`, in an executable or a library that is loaded. Read as an atomic, because
    // the test program may move the bytes at any time.
    let value = unsafe { AtomicI32::from_ptr(symbol.cast()) }.load(Ordering::Relaxed);
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// # Safety
/// `path` is NULL or NUL-terminated. Runs the library's constructors, as loading one does.
pub(crate) unsafe fn dl_open(path: *const c_char) -> *mut c_void {
    // SAFETY: the caller's promise. RTLD_GLOBAL is what SQLite's own VFS uses: extensions may rely on one another.
    unsafe { libc::dlopen(path, libc::RTLD_NOW | libc::RTLD_GLOBAL) }
}

/// # Safety
/// `buffer` has room for `len` bytes.
pub(crate) unsafe fn dl_error(buffer: *mut c_char, len: c_int) {
    // SAFETY: returns NULL or a NUL-terminated string that lives until the next dl call of this thread.
    let message = unsafe { libc::dlerror() };
    let Some(room) = usize::try_from(len).ok().and_then(|len| len.checked_sub(1)) else {
        return;
    };
    if message.is_null() {
        return;
    }
    // SAFETY: not NULL, see above.
    let message = unsafe { std::ffi::CStr::from_ptr(message) }.to_bytes();
    let copied = message.len().min(room);
    // SAFETY: `copied + 1 <= len` bytes are written to a buffer of `len`; the two don't overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr().cast(), buffer, copied);
        buffer.add(copied).write(0);
    }
}

/// # Safety
/// `library` came from [`dl_open`] and is not closed; `symbol` is NUL-terminated.
pub(crate) unsafe fn dl_sym(library: *mut c_void, symbol: *const c_char) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { libc::dlsym(library, symbol) }
}

/// # Safety
/// `library` came from [`dl_open`] and is not used any more.
pub(crate) unsafe fn dl_close(library: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { libc::dlclose(library) };
}
