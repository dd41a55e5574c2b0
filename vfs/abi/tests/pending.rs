//! SQLite's variable for the place of the lock bytes, found in a library that shows it, as its test programs do.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

use std::ffi::c_int;

/// Whether there is one is looked up once per process, so that this file has one test. The linker keeps a symbol of this
/// executable out of sight of `dlsym`, so that a small library must be made; without a C compiler there is nothing to test with.
#[test]
fn the_variable_is_read_each_time_when_there_is_one() {
    let dir = std::env::temp_dir().join(format!("verneuil-pending-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let (source, library) = (dir.join("pending.c"), dir.join("libpending.so"));
    std::fs::write(&source, "int sqlite3PendingByte = 0x40000000;").unwrap();
    let made = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    let path = std::ffi::CString::new(library.to_str().unwrap()).unwrap();
    let loaded = if made.is_ok_and(|status| status.success()) {
        // SAFETY: a library without constructors.
        unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }
    } else {
        std::ptr::null_mut()
    };
    std::fs::remove_dir_all(&dir).unwrap();
    if loaded.is_null() {
        eprintln!("skipped: no C compiler");
        return;
    }
    // SAFETY: the variable of that library, an int.
    let variable = unsafe { libc::dlsym(loaded, c"sqlite3PendingByte".as_ptr()) }.cast::<c_int>();
    for (value, expected) in [
        (0x4000_0000, Some(0x4000_0000)),
        (0x10000, Some(0x10000)),
        (0, None),
        (-1, None),
    ] {
        // SAFETY: nobody else uses it.
        unsafe { variable.write(value) };
        assert_eq!(verneuil_abi::pending_byte(), expected);
    }
}
