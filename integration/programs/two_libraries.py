"""Two SQLite libraries in one process, both with the extension, on one database: for several_processes.rs. The second one is a copy of the first one's
file, which the dynamic linker takes for another library."""
import ctypes
import ctypes.util
import os
import shutil
import sqlite3
import sys

extension, database, scratch, transactions = sys.argv[1:]
URI = f"file:{database}?vfs=verneuil"
OPEN_FLAGS = 0x2 | 0x4 | 0x40  # READWRITE, CREATE, URI
ENABLE_LOAD_EXTENSION = 1005
BUSY = 5


def first_library():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    loader.close()
    return sqlite3.connect(URI, uri=True, isolation_level=None, timeout=20)


def path_of_first():
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].strip()
            if "libsqlite3" in os.path.basename(path):
                return path
    return None


class Second:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.sqlite3_errmsg.restype = ctypes.c_char_p
        loader = self.open(b":memory:")
        self.check(loader, self.library.sqlite3_db_config(
            loader, ENABLE_LOAD_EXTENSION, ctypes.c_int(1), ctypes.byref(ctypes.c_int())))
        self.check(loader, self.library.sqlite3_load_extension(loader, extension.encode(), None, None))
        self.library.sqlite3_close(loader)
        self.db = self.open(URI.encode())
        self.library.sqlite3_busy_timeout(self.db, 20_000)

    def open(self, name):
        db = ctypes.c_void_p()
        self.check(db, self.library.sqlite3_open_v2(name, ctypes.byref(db), OPEN_FLAGS, None))
        return db

    def check(self, db, code):
        if code != 0:
            raise RuntimeError(f"{code}: {self.library.sqlite3_errmsg(db).decode()}")

    def run(self, sql):
        return self.library.sqlite3_exec(self.db, sql.encode(), None, None, None)

    def execute(self, sql):
        self.check(self.db, self.run(sql))


first = first_library()
loaded = path_of_first()
if loaded is None:
    # This Python has SQLite built in: any shared library is another one.
    loaded = ctypes.util.find_library("sqlite3")
copy = os.path.join(scratch, "libsqlite3-again.so")
shutil.copyfile(loaded, copy)
second = Second(copy)

first.execute("CREATE TABLE t(library INTEGER, n INTEGER)")
for n in range(int(transactions)):
    first.execute("INSERT INTO t VALUES(1, ?)", (n,))
    second.execute(f"INSERT INTO t VALUES(2, {n})")

# They keep each other out, although they are one process.
first.execute("BEGIN IMMEDIATE")
second.library.sqlite3_busy_timeout(second.db, 0)
assert second.run("BEGIN IMMEDIATE") == BUSY, "both libraries hold RESERVED"
first.execute("ROLLBACK")
second.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(2, -1); ROLLBACK")

# What either has committed, the other one's flush uploads.
second.execute("PRAGMA verneuil_flush_replication_data")
first.execute("INSERT INTO t VALUES(1, -2)")
second.execute("PRAGMA verneuil_flush_replication_data")
second.library.sqlite3_close(second.db)
first.execute("INSERT INTO t VALUES(1, -3)")
assert first.execute("PRAGMA verneuil_flush_replication_data").fetchone() == ("1",)
assert first.execute("SELECT count(*) FROM t").fetchone() == (2 * int(transactions) + 2,)
