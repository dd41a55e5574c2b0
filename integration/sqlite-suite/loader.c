/*
** Makes a VFS of Verneuil's extension the default one of a SQLite test program, before its first connection: linked to it, and
** named in SQLITE_EXTRA_INIT (programs.mk). One build serves every VFS. hookvfs.c gives it testfixture's hooks.
**
**   SUITE_EXTENSION  the extension to load; unset or empty: the program stays as SQLite built it
**   SUITE_VFS        the VFS that becomes the default
**   SUITE_MIXED      a file in which processes are counted: every second one stays with stock `unix`
*/
#include "sqlite3.h"
#include "suite.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static int refuse(const char *what, const char *name, const char *why){
  fprintf(stderr, "sqlite-suite loader: %s '%s': %s\n", what, name, why);
  /* Not an error that a program may survive with the wrong VFS. */
  abort();
}

static int load(const char *extension){
  sqlite3 *db = 0;
  char *error = 0;
  int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE|SQLITE_OPEN_CREATE|SQLITE_OPEN_MEMORY, "unix");
  if( rc==SQLITE_OK ) rc = sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int*)0);
  if( rc==SQLITE_OK ) rc = sqlite3_load_extension(db, extension, 0, &error);
  if( rc!=SQLITE_OK ) return refuse("can't load the extension", extension, error ? error : sqlite3_errstr(rc));
  sqlite3_close(db);
  return SQLITE_OK;
}

/* Is this the second, fourth, … process that asks? */
static int stays_stock(const char *counter){
  static int answer = -1;
  int file;
  if( counter==0 || counter[0]==0 ) return 0;
  if( answer>=0 ) return answer;
  file = open(counter, O_RDWR|O_CREAT|O_CLOEXEC, 0644);
  if( file<0 || flock(file, LOCK_EX)!=0 ) return refuse("can't count processes in", counter, "SUITE_MIXED");
  answer = (int)(lseek(file, 0, SEEK_END) % 2);
  if( write(file, "+", 1)!=1 ) return refuse("can't count processes in", counter, "SUITE_MIXED");
  close(file);
  return answer;
}

/* Comes again after every sqlite3_shutdown() and sqlite3_initialize(), which makes `unix` the default one first. */
int suite_init(const char *unused){
  const char *extension = getenv("SUITE_EXTENSION");
  const char *name = getenv("SUITE_VFS");
  sqlite3_vfs *vfs;
  (void)unused;
  if( extension==0 || extension[0]==0 ) return SQLITE_OK;
  if( stays_stock(getenv("SUITE_MIXED")) ) return SQLITE_OK;
  if( name==0 ) return refuse("no VFS is named in SUITE_VFS for", extension, "set it");
  /* It stays registered; and tests that let allocations fail come here, too. */
  vfs = sqlite3_vfs_find(name);
  if( vfs==0 ){
    load(extension);
    vfs = sqlite3_vfs_find(name);
  }
  if( vfs==0 ) return refuse("there is no VFS", name, "the extension did not register it");
  if( sqlite3_vfs_register(vfs, 1)!=SQLITE_OK ) return refuse("can't make it the default VFS", name, "sqlite3_vfs_register");
#ifdef SUITE_HOOKS
  if( suite_hooks_install()!=SQLITE_OK ) return refuse("can't put the test hooks on", name, "sqlite3_vfs_register");
#endif
  return SQLITE_OK;
}
