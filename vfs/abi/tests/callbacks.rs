//! A VFS written against the safe traits, used by a real SQLite library.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod common;

use libsqlite3_sys as ffi;
use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use verneuil_abi::{
    Access, Code, DeviceCharacteristics, File, FileControl, FullPathname, LockLevel, OpenRequest,
    Opened, Result, ShmLock, ShmRegion, ShmSlots, SyncFlags, Vfs, register,
};

/// A database in memory that panics where it is told to.
struct PanickyVfs {
    in_open: bool,
}

struct PanickyFile {
    bytes: Vec<u8>,
}

static PANIC_IN_READ: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicBool = AtomicBool::new(false);

impl Vfs for PanickyVfs {
    type File = PanickyFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<PanickyFile>> {
        assert!(!self.in_open, "told to");
        let name = request.name.expect("no temporary files in this test");
        assert_eq!(name.as_cstr(), c"/nowhere/x.db");
        assert_eq!(name.uri_parameter(c"color"), Some(c"red"));
        assert!(name.uri_boolean(c"fast", false));
        assert!(!name.uri_boolean(c"absent", false));
        Ok(Opened {
            file: PanickyFile { bytes: Vec::new() },
            flags: request.flags,
        })
    }

    fn delete(&self, _: &Path, _: bool) -> Result<()> {
        Err(Code::IOERR_DELETE_NOENT)
    }

    fn access(&self, _: &Path, _: Access) -> Result<bool> {
        Ok(false)
    }

    fn full_pathname(&self, path: &Path) -> Result<FullPathname> {
        Ok(FullPathname {
            path: Path::new("/nowhere").join(path),
            had_symlink: false,
        })
    }
}

impl File for PanickyFile {
    fn read(&mut self, buffer: &mut [u8], _: u64) -> Result<()> {
        assert!(!PANIC_IN_READ.load(Ordering::SeqCst), "told to");
        buffer.fill(0);
        Err(Code::IOERR_SHORT_READ)
    }

    fn write(&mut self, _: &[u8], _: u64) -> Result<()> {
        Err(Code::IOERR_WRITE)
    }

    fn truncate(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn sync(&mut self, _: SyncFlags) -> Result<()> {
        Ok(())
    }

    fn size(&mut self) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn lock(&mut self, _: LockLevel) -> Result<()> {
        Ok(())
    }

    fn unlock(&mut self, _: LockLevel) -> Result<()> {
        Ok(())
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        match control {
            FileControl::Pragma(pragma) if pragma.is("shout") => match pragma.argument() {
                Some(text) => {
                    let text = text.to_string_lossy().to_uppercase();
                    pragma.answer(&text)
                }
                None => Err(pragma.fail("shout needs something to shout")),
            },
            _ => Err(Code::NOTFOUND),
        }
    }

    fn offers_wal(&self) -> bool {
        false
    }

    fn shm_map(&mut self, _: usize, _: usize, _: bool) -> Result<ShmRegion> {
        Err(Code::IOERR_SHMMAP)
    }

    fn shm_lock(&mut self, _: ShmSlots, _: ShmLock) -> Result<()> {
        Err(Code::IOERR_SHMLOCK)
    }

    fn shm_unmap(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    fn sector_size(&mut self) -> c_int {
        4096
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        DeviceCharacteristics(0)
    }
}

impl Drop for PanickyFile {
    fn drop(&mut self) {
        DROPPED.store(true, Ordering::SeqCst);
    }
}

fn open(uri: &CStr) -> (*mut ffi::sqlite3, c_int) {
    let mut db = ptr::null_mut();
    let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_URI;
    // SAFETY: a NUL-terminated name and a place for the result.
    let code = unsafe { ffi::sqlite3_open_v2(uri.as_ptr(), &raw mut db, flags, ptr::null()) };
    (db, code)
}

fn exec(db: *mut ffi::sqlite3, sql: &str) -> (c_int, String) {
    unsafe extern "C" fn first_column(
        out: *mut std::ffi::c_void,
        _: c_int,
        values: *mut *mut std::ffi::c_char,
        _: *mut *mut std::ffi::c_char,
    ) -> c_int {
        // SAFETY: `out` is the String below; there is one column at least.
        unsafe { *out.cast::<String>() = CStr::from_ptr(*values).to_string_lossy().into_owned() };
        0
    }
    let sql = CString::new(sql).unwrap();
    let mut out = String::new();
    // SAFETY: an open connection, NUL-terminated SQL, and a callback that gets `out`.
    unsafe {
        let code = ffi::sqlite3_exec(
            db,
            sql.as_ptr(),
            Some(first_column),
            (&raw mut out).cast(),
            ptr::null_mut(),
        );
        if code != 0 {
            out = CStr::from_ptr(ffi::sqlite3_errmsg(db))
                .to_string_lossy()
                .into_owned();
        }
        (code, out)
    }
}

#[test]
fn panics_become_codes_and_pragmas_answer_through_the_hosts_allocator() {
    let api = common::api();
    assert!(register(api, c"panicky", false, || PanickyVfs { in_open: false }).unwrap());
    assert!(register(api, c"panicky-open", false, || PanickyVfs { in_open: true }).unwrap());

    let (db, code) = open(c"file:x.db?vfs=panicky-open");
    assert_eq!(code, ffi::SQLITE_CANTOPEN, "a panic in xOpen");
    // SAFETY: sqlite3_open_v2 gives a connection to close even when it fails.
    unsafe { ffi::sqlite3_close(db) };

    let (db, code) = open(c"file:x.db?vfs=panicky&color=red&fast=1");
    assert_eq!(code, 0);
    assert_eq!(exec(db, "PRAGMA Shout=hello"), (0, "HELLO".into()));
    assert_eq!(
        exec(db, "PRAGMA shout"),
        (1, "shout needs something to shout".into())
    );
    assert_eq!(
        exec(db, "SELECT count(*) FROM sqlite_master"),
        (0, "0".into())
    );
    assert_eq!(
        exec(db, "CREATE TABLE t(x)").0 & 0xff,
        ffi::SQLITE_CANTOPEN,
        "the journal's name has no parameters"
    );

    PANIC_IN_READ.store(true, Ordering::SeqCst);
    assert_eq!(
        exec(db, "SELECT count(*) FROM sqlite_master").0 & 0xff,
        ffi::SQLITE_IOERR,
        "a panic in xRead"
    );
    // SAFETY: an open connection.
    assert_eq!(unsafe { ffi::sqlite3_close(db) }, 0);
    assert!(DROPPED.load(Ordering::SeqCst), "closing drops the file");
}

#[test]
fn a_second_registration_keeps_the_first_and_another_ones_name_is_left_alone() {
    let api = common::api();
    assert!(register(api, c"twice", false, || PanickyVfs { in_open: false }).unwrap());
    assert!(
        !register(api, c"twice", false, || -> PanickyVfs {
            panic!("must not be made again")
        })
        .unwrap()
    );
    let error = register(api, c"unix", false, || PanickyVfs { in_open: false }).unwrap_err();
    assert!(error.to_string().contains("\"unix\""), "{error}");
}
