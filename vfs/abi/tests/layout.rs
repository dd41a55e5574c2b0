//! Our C types against those of the SQLite headers that `libsqlite3-sys` was generated from, and our prefix of the
//! function table against the real table of the linked library.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests, too

mod common;

use libsqlite3_sys as ffi;
use std::mem::{align_of, offset_of, size_of};
use verneuil_abi::sys::{self, consts};
use verneuil_abi::{Api, ApiError, Code};

macro_rules! same_layout {
    ($type:ident: $($field:ident)*) => {
        assert_eq!(size_of::<sys::$type>(), size_of::<ffi::$type>(), stringify!($type));
        assert_eq!(align_of::<sys::$type>(), align_of::<ffi::$type>(), stringify!($type));
        $(assert_eq!(
            offset_of!(sys::$type, $field),
            offset_of!(ffi::$type, $field),
            "{}.{}", stringify!($type), stringify!($field)
        );)*
    };
}

#[test]
fn structures_have_sqlites_layout() {
    same_layout!(sqlite3_file: pMethods);
    same_layout!(sqlite3_io_methods:
        iVersion xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl
        xSectorSize xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch);
    same_layout!(sqlite3_vfs:
        iVersion szOsFile mxPathname pNext zName pAppData xOpen xDelete xAccess xFullPathname xDlOpen xDlError xDlSym
        xDlClose xRandomness xSleep xCurrentTime xGetLastError xCurrentTimeInt64 xSetSystemCall xGetSystemCall
        xNextSystemCall);
}

#[test]
fn constants_have_sqlites_values() {
    macro_rules! same_value {
        ($($name:ident)*) => {$(assert_eq!(consts::$name, ffi::$name, stringify!($name));)*};
    }
    same_value! {
        SQLITE_OPEN_READONLY SQLITE_OPEN_READWRITE SQLITE_OPEN_CREATE SQLITE_OPEN_DELETEONCLOSE SQLITE_OPEN_EXCLUSIVE
        SQLITE_OPEN_URI SQLITE_OPEN_MEMORY SQLITE_OPEN_MAIN_DB SQLITE_OPEN_TEMP_DB SQLITE_OPEN_TRANSIENT_DB
        SQLITE_OPEN_MAIN_JOURNAL SQLITE_OPEN_TEMP_JOURNAL SQLITE_OPEN_SUBJOURNAL SQLITE_OPEN_SUPER_JOURNAL
        SQLITE_OPEN_WAL SQLITE_OPEN_NOFOLLOW
        SQLITE_ACCESS_EXISTS SQLITE_ACCESS_READWRITE SQLITE_ACCESS_READ
        SQLITE_LOCK_NONE SQLITE_LOCK_SHARED SQLITE_LOCK_RESERVED SQLITE_LOCK_PENDING SQLITE_LOCK_EXCLUSIVE
        SQLITE_SYNC_NORMAL SQLITE_SYNC_FULL SQLITE_SYNC_DATAONLY
        SQLITE_IOCAP_POWERSAFE_OVERWRITE SQLITE_IOCAP_SUBPAGE_READ
        SQLITE_FCNTL_LOCKSTATE SQLITE_FCNTL_LAST_ERRNO SQLITE_FCNTL_SIZE_HINT SQLITE_FCNTL_CHUNK_SIZE
        SQLITE_FCNTL_OVERWRITE SQLITE_FCNTL_VFSNAME SQLITE_FCNTL_POWERSAFE_OVERWRITE SQLITE_FCNTL_PRAGMA
        SQLITE_FCNTL_TEMPFILENAME SQLITE_FCNTL_HAS_MOVED SQLITE_FCNTL_SYNC SQLITE_FCNTL_COMMIT_PHASETWO
        SQLITE_FCNTL_PERSIST_WAL SQLITE_FCNTL_MMAP_SIZE SQLITE_FCNTL_BEGIN_ATOMIC_WRITE
        SQLITE_FCNTL_COMMIT_ATOMIC_WRITE SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE SQLITE_FCNTL_CKPT_DONE
        SQLITE_FCNTL_CKPT_START SQLITE_FCNTL_EXTERNAL_READER SQLITE_FCNTL_NULL_IO
        SQLITE_SHM_UNLOCK SQLITE_SHM_LOCK SQLITE_SHM_SHARED SQLITE_SHM_EXCLUSIVE
    }
    macro_rules! same_code {
        ($($ours:ident $theirs:ident)*) => {
            let pairs = [$((Code::$ours, ffi::$theirs)),*];
            for (ours, theirs) in pairs {
                assert_eq!(ours.raw(), theirs, "{ours}");
            }
            assert_eq!(pairs.len(), Code::ALL.len(), "every code is compared");
        };
    }
    same_code! {
        ERROR SQLITE_ERROR INTERNAL SQLITE_INTERNAL PERM SQLITE_PERM BUSY SQLITE_BUSY NOMEM SQLITE_NOMEM
        READONLY SQLITE_READONLY IOERR SQLITE_IOERR NOTFOUND SQLITE_NOTFOUND FULL SQLITE_FULL
        CANTOPEN SQLITE_CANTOPEN MISUSE SQLITE_MISUSE NOTICE SQLITE_NOTICE WARNING SQLITE_WARNING
        READONLY_DIRECTORY SQLITE_READONLY_DIRECTORY IOERR_READ SQLITE_IOERR_READ
        IOERR_SHORT_READ SQLITE_IOERR_SHORT_READ IOERR_WRITE SQLITE_IOERR_WRITE IOERR_FSYNC SQLITE_IOERR_FSYNC
        IOERR_DIR_FSYNC SQLITE_IOERR_DIR_FSYNC IOERR_TRUNCATE SQLITE_IOERR_TRUNCATE IOERR_FSTAT SQLITE_IOERR_FSTAT
        IOERR_UNLOCK SQLITE_IOERR_UNLOCK IOERR_RDLOCK SQLITE_IOERR_RDLOCK IOERR_DELETE SQLITE_IOERR_DELETE
        IOERR_NOMEM SQLITE_IOERR_NOMEM IOERR_ACCESS SQLITE_IOERR_ACCESS
        IOERR_CHECKRESERVEDLOCK SQLITE_IOERR_CHECKRESERVEDLOCK IOERR_LOCK SQLITE_IOERR_LOCK
        IOERR_CLOSE SQLITE_IOERR_CLOSE IOERR_DELETE_NOENT SQLITE_IOERR_DELETE_NOENT
        IOERR_GETTEMPPATH SQLITE_IOERR_GETTEMPPATH IOERR_CORRUPTFS SQLITE_IOERR_CORRUPTFS
        CANTOPEN_FULLPATH SQLITE_CANTOPEN_FULLPATH READONLY_CANTINIT SQLITE_READONLY_CANTINIT
        IOERR_SHMOPEN SQLITE_IOERR_SHMOPEN IOERR_SHMSIZE SQLITE_IOERR_SHMSIZE IOERR_SHMLOCK SQLITE_IOERR_SHMLOCK
        IOERR_SHMMAP SQLITE_IOERR_SHMMAP IOERR_MMAP SQLITE_IOERR_MMAP
    }
    assert_eq!(
        i32::from(verneuil_abi::ShmSlots::COUNT),
        ffi::SQLITE_SHM_NLOCK
    );
    assert_eq!(
        verneuil_abi::code::SQLITE_OK_LOAD_PERMANENTLY,
        ffi::SQLITE_OK_LOAD_PERMANENTLY
    );
    assert_eq!(
        verneuil_abi::code::SQLITE_OK_SYMLINK,
        ffi::SQLITE_OK_SYMLINK
    );
}

/// Each field of our prefix holds the address of the function that it is named after: no offset is wrong.
#[test]
fn the_function_table_holds_what_its_fields_are_called() {
    // SAFETY: the linked library's table, newer than 3.31, is longer than our prefix.
    let table = unsafe { &*common::table() };
    macro_rules! same_function {
        ($($field:ident $function:ident)*) => {$(
            assert_eq!(table.$field.unwrap() as usize, ffi::$function as *const () as usize, stringify!($field));
        )*};
    }
    same_function! {
        free sqlite3_free
        malloc sqlite3_malloc
        libversion_number sqlite3_libversion_number
        vfs_find sqlite3_vfs_find
        vfs_register sqlite3_vfs_register
        log sqlite3_log
        uri_boolean sqlite3_uri_boolean
        uri_parameter sqlite3_uri_parameter
        filename_database sqlite3_filename_database
    }
}

#[test]
fn a_missing_table_is_an_error() {
    // SAFETY: NULL is allowed.
    let error = unsafe { Api::new(std::ptr::null()) }.unwrap_err();
    assert_eq!(error, ApiError::NoTable);
}

#[test]
fn an_old_library_is_refused_by_its_version() {
    unsafe extern "C" fn old() -> i32 {
        3_030_001
    }
    // SAFETY: zeros are no functions and NULL slots.
    let mut table: sys::sqlite3_api_routines = unsafe { std::mem::zeroed() };
    table.libversion_number = Some(old);
    // SAFETY: a table of our own; it is refused, and not kept.
    let error = unsafe { Api::new(&raw const table) }.unwrap_err();
    assert_eq!(
        error,
        ApiError::TooOld {
            version_number: 3_030_001
        }
    );
    assert!(error.to_string().contains("3.30.1"));
}
