/*
** Gives a foreign VFS the test hooks that SQLite has in os_unix.c only: simulated I/O errors, a full disk, counters of
** syncs and open files, a clock that tests set, and randomness that repeats. A VFS on top of the one that is the default
** when suite_hooks_install() is called (by loader.c). Without it ioerr.test passes in 66 cases that prove nothing.
**
** Each hook stands where os_unix.c 3.46.1 has it, so that a test which counts system calls finds the same number.
*/
#include "sqlite3.h"
#include "suite.h"
#include <stdlib.h>
#include <string.h>

/* testfixture's variables; tests set and read them from Tcl. */
extern int sqlite3_io_error_pending, sqlite3_io_error_persist, sqlite3_io_error_hit, sqlite3_io_error_hardhit;
extern int sqlite3_io_error_benign, sqlite3_diskfull_pending, sqlite3_diskfull;
extern int sqlite3_open_file_count, sqlite3_sync_count, sqlite3_fullsync_count, sqlite3_current_time;

/* An open file; the file of the VFS below follows it in memory. */
typedef struct HookedFile {
  sqlite3_file base;
  sqlite3_file *below;
  int syncs_directory; /* the next sync makes the name of a new journal durable, too */
} HookedFile;

static sqlite3_vfs *below_vfs;

static void note_error(void){
  sqlite3_io_error_hit++;
  if( !sqlite3_io_error_benign ) sqlite3_io_error_hardhit++;
}

/* Shall this call fail? Counts down to the call that the test has chosen. */
static int io_error_is_due(void){
  if( !(sqlite3_io_error_persist && sqlite3_io_error_hit) && sqlite3_io_error_pending--!=1 ) return 0;
  note_error();
  return 1;
}

static int disk_is_full(void){
  if( sqlite3_diskfull_pending==0 ) return 0;
  if( sqlite3_diskfull_pending>1 ){
    sqlite3_diskfull_pending--;
    return 0;
  }
  note_error();
  sqlite3_diskfull = 1;
  sqlite3_io_error_hit = 1;
  return 1;
}

/*
** SUITE_NO_SYNC=1: syncs are counted and not done, as in a stock testfixture (SQLITE_NO_SYNC). For databases on a disk, where they
** take most of the time; in memory they cost nothing and are done.
*/
static int syncs(void){
  static int known = -1;
  if( known<0 ){
    const char *off = getenv("SUITE_NO_SYNC");
    known = off==0 || off[0]!='1';
  }
  return known;
}

static sqlite3_file *below(sqlite3_file *file){ return ((HookedFile*)file)->below; }

/*
** The VFS below shows a table without xShmMap while a file can't use WAL mode, and may change its mind with each call; SQLite
** has to see the same here. Two tables per version of the methods below.
*/
static const sqlite3_io_methods *methods_for(const sqlite3_io_methods *below);
static int after(sqlite3_file *file, int rc){
  if( below(file)->pMethods ) file->pMethods = methods_for(below(file)->pMethods);
  return rc;
}

static int hook_close(sqlite3_file *file){
  int rc = below(file)->pMethods->xClose(below(file));
  file->pMethods = 0;
  sqlite3_open_file_count--;
  return rc;
}
static int hook_read(sqlite3_file *file, void *buffer, int n, sqlite3_int64 at){
  if( io_error_is_due() ) return SQLITE_IOERR_READ;
  return after(file, below(file)->pMethods->xRead(below(file), buffer, n, at));
}
static int hook_write(sqlite3_file *file, const void *buffer, int n, sqlite3_int64 at){
  if( io_error_is_due() ) return SQLITE_IOERR_WRITE;
  if( disk_is_full() ) return SQLITE_FULL;
  return after(file, below(file)->pMethods->xWrite(below(file), buffer, n, at));
}
static int hook_truncate(sqlite3_file *file, sqlite3_int64 size){
  if( io_error_is_due() ) return SQLITE_IOERR_TRUNCATE;
  return after(file, below(file)->pMethods->xTruncate(below(file), size));
}
static int hook_sync(sqlite3_file *file, int flags){
  HookedFile *hooked = (HookedFile*)file;
  int rc;
  if( disk_is_full() ) return SQLITE_FULL;
  if( (flags & 0x0F)==SQLITE_SYNC_FULL ) sqlite3_fullsync_count++;
  sqlite3_sync_count++;
  rc = syncs() ? below(file)->pMethods->xSync(below(file), flags) : SQLITE_OK;
  if( io_error_is_due() ) return SQLITE_IOERR_FSYNC;
  if( hooked->syncs_directory ){
    hooked->syncs_directory = 0;
    sqlite3_sync_count++;
  }
  return after(file, rc);
}
static int hook_file_size(sqlite3_file *file, sqlite3_int64 *size){
  if( io_error_is_due() ) return SQLITE_IOERR_FSTAT;
  return after(file, below(file)->pMethods->xFileSize(below(file), size));
}
static int hook_lock(sqlite3_file *file, int lock){
  return after(file, below(file)->pMethods->xLock(below(file), lock));
}
static int hook_unlock(sqlite3_file *file, int lock){
  return after(file, below(file)->pMethods->xUnlock(below(file), lock));
}
static int hook_check_reserved_lock(sqlite3_file *file, int *held){
  if( io_error_is_due() ) return SQLITE_IOERR_CHECKRESERVEDLOCK;
  return after(file, below(file)->pMethods->xCheckReservedLock(below(file), held));
}
static int hook_file_control(sqlite3_file *file, int op, void *argument){
  return after(file, below(file)->pMethods->xFileControl(below(file), op, argument));
}
static int hook_sector_size(sqlite3_file *file){
  return below(file)->pMethods->xSectorSize(below(file));
}
static int hook_device_characteristics(sqlite3_file *file){
  return below(file)->pMethods->xDeviceCharacteristics(below(file));
}
static int hook_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **place){
  return after(file, below(file)->pMethods->xShmMap(below(file), region, size, extend, place));
}
static int hook_shm_lock(sqlite3_file *file, int offset, int n, int flags){
  return after(file, below(file)->pMethods->xShmLock(below(file), offset, n, flags));
}
static void hook_shm_barrier(sqlite3_file *file){
  below(file)->pMethods->xShmBarrier(below(file));
}
static int hook_shm_unmap(sqlite3_file *file, int delete){
  return after(file, below(file)->pMethods->xShmUnmap(below(file), delete));
}
static int hook_fetch(sqlite3_file *file, sqlite3_int64 at, int n, void **place){
  return below(file)->pMethods->xFetch(below(file), at, n, place);
}
static int hook_unfetch(sqlite3_file *file, sqlite3_int64 at, void *place){
  return below(file)->pMethods->xUnfetch(below(file), at, place);
}

#define METHODS(VERSION, SHM_MAP) {                                                                                   \
  VERSION, hook_close, hook_read, hook_write, hook_truncate, hook_sync, hook_file_size, hook_lock, hook_unlock,        \
  hook_check_reserved_lock, hook_file_control, hook_sector_size, hook_device_characteristics, SHM_MAP, hook_shm_lock,  \
  hook_shm_barrier, hook_shm_unmap, hook_fetch, hook_unfetch }
static const sqlite3_io_methods with_shm[] = {
  METHODS(1, hook_shm_map), METHODS(2, hook_shm_map), METHODS(3, hook_shm_map) };
static const sqlite3_io_methods without_shm[] = { METHODS(1, 0), METHODS(2, 0), METHODS(3, 0) };

static const sqlite3_io_methods *methods_for(const sqlite3_io_methods *below){
  int version = below->iVersion<1 ? 1 : below->iVersion>3 ? 3 : below->iVersion;
  return version>=2 && below->xShmMap==0 ? &without_shm[version-1] : &with_shm[version-1];
}

static int hook_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *out_flags){
  HookedFile *hooked = (HookedFile*)file;
  int rc;
  (void)vfs;
  hooked->base.pMethods = 0;
  hooked->below = (sqlite3_file*)&hooked[1];
  hooked->below->pMethods = 0;
  /* os_unix.c fails while it looks for the name of a temporary file. */
  if( name==0 && io_error_is_due() ) return SQLITE_IOERR;
  /* The name goes on as it is: the parameters of a URI follow it in memory. */
  rc = below_vfs->xOpen(below_vfs, name, hooked->below, flags, out_flags);
  if( hooked->below->pMethods==0 ) return rc;
  hooked->syncs_directory = (flags & SQLITE_OPEN_CREATE)!=0
      && (flags & (SQLITE_OPEN_SUPER_JOURNAL|SQLITE_OPEN_MAIN_JOURNAL|SQLITE_OPEN_WAL))!=0;
  hooked->base.pMethods = methods_for(hooked->below->pMethods);
  sqlite3_open_file_count++;
  return rc;
}
static int hook_delete(sqlite3_vfs *vfs, const char *name, int sync_directory){
  int rc;
  (void)vfs;
  if( io_error_is_due() ) return SQLITE_IOERR_DELETE;
  rc = below_vfs->xDelete(below_vfs, name, syncs() ? sync_directory : 0);
  if( rc==SQLITE_OK && (sync_directory & 1)!=0 ) sqlite3_sync_count++;
  return rc;
}
static int hook_access(sqlite3_vfs *vfs, const char *name, int flags, int *out){
  (void)vfs;
  if( io_error_is_due() ) return SQLITE_IOERR_ACCESS;
  return below_vfs->xAccess(below_vfs, name, flags, out);
}
static int hook_full_pathname(sqlite3_vfs *vfs, const char *name, int n, char *out){
  (void)vfs;
  return below_vfs->xFullPathname(below_vfs, name, n, out);
}
static void *hook_dl_open(sqlite3_vfs *vfs, const char *name){
  (void)vfs;
  return below_vfs->xDlOpen(below_vfs, name);
}
static void hook_dl_error(sqlite3_vfs *vfs, int n, char *message){
  (void)vfs;
  below_vfs->xDlError(below_vfs, n, message);
}
static void (*hook_dl_sym(sqlite3_vfs *vfs, void *library, const char *name))(void){
  (void)vfs;
  return below_vfs->xDlSym(below_vfs, library, name);
}
static void hook_dl_close(sqlite3_vfs *vfs, void *library){
  (void)vfs;
  below_vfs->xDlClose(below_vfs, library);
}
static int hook_randomness(sqlite3_vfs *vfs, int n, char *out){
  (void)vfs;
  memset(out, 0, n);
  return n;
}
static int hook_sleep(sqlite3_vfs *vfs, int microseconds){
  (void)vfs;
  return below_vfs->xSleep(below_vfs, microseconds);
}
static int hook_current_time(sqlite3_vfs *vfs, double *day){
  (void)vfs;
  if( sqlite3_current_time ){
    *day = 2440587.5 + sqlite3_current_time/86400.0;
    return SQLITE_OK;
  }
  return below_vfs->xCurrentTime(below_vfs, day);
}
static int hook_current_time_64(sqlite3_vfs *vfs, sqlite3_int64 *milliseconds){
  (void)vfs;
  if( sqlite3_current_time ){
    *milliseconds = 1000*(sqlite3_int64)sqlite3_current_time + 24405875*(sqlite3_int64)8640000;
    return SQLITE_OK;
  }
  return below_vfs->xCurrentTimeInt64(below_vfs, milliseconds);
}
static int hook_last_error(sqlite3_vfs *vfs, int n, char *message){
  (void)vfs;
  return below_vfs->xGetLastError ? below_vfs->xGetLastError(below_vfs, n, message) : 0;
}

/* Version 2: no table of system calls; the files that need one are excluded (exclusions.txt). */
static sqlite3_vfs hooks = {
  2, 0, 0, 0, "suite-hooks", 0, hook_open, hook_delete, hook_access, hook_full_pathname, hook_dl_open, hook_dl_error,
  hook_dl_sym, hook_dl_close, hook_randomness, hook_sleep, hook_current_time, hook_last_error, hook_current_time_64, 0, 0, 0 };

int suite_hooks_install(void){
  sqlite3_vfs *now = sqlite3_vfs_find(0);
  /* The methods' tables are three; a newer version has calls that they lack. */
  if( now==0 ) return SQLITE_ERROR;
  if( now!=&hooks ) below_vfs = now;
  if( below_vfs->iVersion<2 ) hooks.xCurrentTimeInt64 = 0, hooks.iVersion = 1;
  hooks.szOsFile = (int)sizeof(HookedFile) + below_vfs->szOsFile;
  hooks.mxPathname = below_vfs->mxPathname;
  return sqlite3_vfs_register(&hooks, 1);
}
