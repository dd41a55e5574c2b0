//! Which table of methods a file shows, seen by a real SQLite: WAL mode is offered or not as the file says at that moment.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod common;

use libsqlite3_sys as ffi;
use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use verneuil_abi::{
    Access, Code, DeviceCharacteristics, File, FileControl, FullPathname, LockLevel, Mapped,
    OpenRequest, Opened, Result, ShmLock, ShmRegion, ShmSlots, SyncFlags, Vfs, register,
};

static OFFERS_WAL: AtomicBool = AtomicBool::new(true);
static DISABLES_JOURNAL_MODE: AtomicBool = AtomicBool::new(false);
static SHM_CALLS: AtomicU32 = AtomicU32::new(0);

/// The statics are one per process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    OFFERS_WAL.store(true, Ordering::SeqCst);
    DISABLES_JOURNAL_MODE.store(false, Ordering::SeqCst);
    guard
}

/// Files in memory, for one connection.
struct MemoryVfs;

#[derive(Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    shm: Vec<Box<[u64; 4096]>>,
    pages: Vec<Box<[u8]>>,
}

impl Vfs for MemoryVfs {
    type File = MemoryFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<MemoryFile>> {
        Ok(Opened {
            file: MemoryFile::default(),
            flags: request.flags,
        })
    }

    fn delete(&self, _: &Path, _: bool) -> Result<()> {
        Ok(())
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

impl File for MemoryFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let offset = (offset as usize).min(self.bytes.len());
        let have = (self.bytes.len() - offset).min(buffer.len());
        buffer[..have].copy_from_slice(&self.bytes[offset..offset + have]);
        buffer[have..].fill(0);
        if have < buffer.len() {
            Err(Code::IOERR_SHORT_READ)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.bytes.resize(len as usize, 0);
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
        if let FileControl::Pragma(mut pragma) = control
            && pragma.is("journal_mode")
            && DISABLES_JOURNAL_MODE.load(Ordering::SeqCst)
        {
            let before = pragma.argument().map(CStr::to_owned);
            assert_eq!(
                pragma.disable_argument(),
                before.as_ref().is_some_and(|text| !text.is_empty())
            );
            let expected = before.map(|text| {
                let mut bytes = text.into_bytes();
                if let Some(first) = bytes.first_mut() {
                    *first = b'?';
                }
                bytes
            });
            assert_eq!(
                pragma.argument().map(|text| text.to_bytes().to_vec()),
                expected
            );
        }
        Err(Code::NOTFOUND)
    }

    fn sector_size(&mut self) -> c_int {
        4096
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        DeviceCharacteristics(0)
    }

    fn offers_wal(&self) -> bool {
        OFFERS_WAL.load(Ordering::SeqCst)
    }

    fn shm_map(&mut self, region: usize, region_len: usize, _: bool) -> Result<ShmRegion> {
        SHM_CALLS.fetch_add(1, Ordering::SeqCst);
        assert_eq!(region_len, 32_768);
        while self.shm.len() <= region {
            self.shm.push(Box::new([0; 4096]));
        }
        let memory = NonNull::from(self.shm[region].as_mut()).cast();
        Ok(ShmRegion {
            // SAFETY: 32 KiB on the heap that stay until shm_unmap.
            memory: Some(unsafe { Mapped::new(memory) }),
            is_read_only: false,
        })
    }

    fn shm_lock(&mut self, _: ShmSlots, _: ShmLock) -> Result<()> {
        SHM_CALLS.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn shm_unmap(&mut self, _: bool) -> Result<()> {
        SHM_CALLS.fetch_add(1, Ordering::SeqCst);
        self.shm.clear();
        Ok(())
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        let Some(page) = self.bytes.get(offset as usize..offset as usize + len) else {
            return Ok(None);
        };
        self.pages.push(page.into());
        let memory = self.pages.last_mut().map(|page| page.as_mut_ptr());
        // SAFETY: a copy on the heap that stays until all is taken back.
        Ok(memory
            .and_then(NonNull::new)
            .map(|memory| unsafe { Mapped::new(memory) }))
    }

    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        if offset.is_none() {
            self.pages.clear();
        }
        Ok(())
    }
}

struct Db(*mut ffi::sqlite3);

impl Db {
    fn open() -> Db {
        register(common::api(), c"memory", false, || MemoryVfs).unwrap();
        let mut db = ptr::null_mut();
        let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        // SAFETY: NUL-terminated names and a place for the result.
        let code = unsafe {
            ffi::sqlite3_open_v2(c"x.db".as_ptr(), &raw mut db, flags, c"memory".as_ptr())
        };
        assert_eq!(code, 0);
        Db(db)
    }

    /// The last value of the first column, or the error.
    fn run(&self, sql: &str) -> std::result::Result<String, String> {
        unsafe extern "C" fn first_column(
            out: *mut std::ffi::c_void,
            _: c_int,
            values: *mut *mut std::ffi::c_char,
            _: *mut *mut std::ffi::c_char,
        ) -> c_int {
            // SAFETY: `out` is the String below; there is one column at least, and none of them is NULL.
            unsafe {
                *out.cast::<String>() = CStr::from_ptr(*values).to_string_lossy().into_owned();
            };
            0
        }
        let sql = CString::new(sql).unwrap();
        let mut out = String::new();
        // SAFETY: an open connection, NUL-terminated SQL, and a callback that gets `out`.
        unsafe {
            let code = ffi::sqlite3_exec(
                self.0,
                sql.as_ptr(),
                Some(first_column),
                (&raw mut out).cast(),
                ptr::null_mut(),
            );
            if code == 0 {
                Ok(out)
            } else {
                Err(CStr::from_ptr(ffi::sqlite3_errmsg(self.0))
                    .to_string_lossy()
                    .into_owned())
            }
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        // SAFETY: an open connection.
        unsafe { ffi::sqlite3_close(self.0) };
    }
}

fn ok(text: &str) -> std::result::Result<String, String> {
    Ok(text.to_owned())
}

#[test]
fn a_file_that_offers_no_wal_keeps_its_journal_mode_and_sees_no_shared_memory() {
    let _alone = alone();
    OFFERS_WAL.store(false, Ordering::SeqCst);
    let db = Db::open();
    let calls = SHM_CALLS.load(Ordering::SeqCst);
    assert_eq!(
        db.run("CREATE TABLE t(x); PRAGMA journal_mode=WAL"),
        ok("delete")
    );
    assert_eq!(db.run("INSERT INTO t VALUES(1); SELECT x FROM t"), ok("1"));
    assert_eq!(SHM_CALLS.load(Ordering::SeqCst), calls);

    // The answer may change at any time, and counts from the next call on.
    OFFERS_WAL.store(true, Ordering::SeqCst);
    assert_eq!(db.run("PRAGMA journal_mode=WAL"), ok("wal"));
    assert_eq!(
        db.run("INSERT INTO t VALUES(2); SELECT x FROM t WHERE x=2"),
        ok("2")
    );
    assert!(SHM_CALLS.load(Ordering::SeqCst) > calls);
}

#[test]
fn the_full_table_stays_while_shared_memory_is_in_use() {
    let _alone = alone();
    let db = Db::open();
    assert_eq!(
        db.run(
            "CREATE TABLE t(x); PRAGMA journal_mode=WAL; INSERT INTO t VALUES(1); SELECT x FROM t"
        ),
        ok("1")
    );
    OFFERS_WAL.store(false, Ordering::SeqCst);
    // More than 4,096 frames: SQLite maps another region, through a table that would lack xShmMap.
    let calls = SHM_CALLS.load(Ordering::SeqCst);
    assert_eq!(
        db.run(
            "PRAGMA wal_autocheckpoint=0; PRAGMA page_size; PRAGMA cache_size=10;
             INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
             SELECT zeroblob(4000) FROM n; SELECT count(*) FROM t"
        ),
        ok("5001")
    );
    assert!(SHM_CALLS.load(Ordering::SeqCst) > calls);
    // Once WAL mode is left, it is offered no more.
    assert_eq!(db.run("PRAGMA journal_mode=DELETE"), ok("delete"));
    assert_eq!(db.run("PRAGMA journal_mode=WAL"), ok("delete"));
    assert_eq!(db.run("SELECT count(*) FROM t"), ok("5001"));
}

#[test]
fn a_disabled_argument_makes_a_pragma_a_query() {
    let _alone = alone();
    DISABLES_JOURNAL_MODE.store(true, Ordering::SeqCst);
    let db = Db::open();
    for argument in ["=WAL", "='wal'", "(Wal)", "=w", "=PERSIST", "=''", ""] {
        let sql = format!("PRAGMA journal_mode{argument}");
        assert_eq!(db.run(&sql), ok("delete"), "{sql}");
    }
    // Also where it would not need shared memory.
    assert_eq!(
        db.run("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL"),
        ok("delete")
    );
    DISABLES_JOURNAL_MODE.store(false, Ordering::SeqCst);
    assert_eq!(db.run("PRAGMA journal_mode=WAL"), ok("wal"));
}

#[test]
fn pages_are_read_through_what_fetch_lends() {
    let _alone = alone();
    let db = Db::open();
    assert_eq!(
        db.run(
            "PRAGMA mmap_size=1000000; CREATE TABLE t(x); INSERT INTO t VALUES('a'); PRAGMA shrink_memory;
             SELECT x FROM t"
        ),
        ok("a")
    );
}
