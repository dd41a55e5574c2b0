"""Several SQLite libraries in one process, all with the extension, on one database: for host_process/several.rs. They write at the same time,
children do so too, and the libraries are unloaded (as far as that goes) before the process ends."""
import _ctypes
import ctypes
import os
import signal
import sqlite3
import sys
import threading

extension, uri, *paths = sys.argv[1:]
OPEN_FLAGS = 0x2 | 0x4 | 0x40  # READWRITE, CREATE, URI
ENABLE_LOAD_EXTENSION = 1005
ROWS = 40
CHILD_LIMIT_S = 30


class Own:
    """Python's module."""

    def load(self):
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(extension)
        loader.close()

    def open(self):
        self.db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20, check_same_thread=False)

    def execute(self, sql):
        self.db.execute(sql).fetchall()

    def close(self):
        self.db.close()


class Other:
    """A library from a file."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)  # RTLD_LOCAL
        self.library.sqlite3_errmsg.restype = ctypes.c_char_p
        self.library.sqlite3_errmsg.argtypes = [ctypes.c_void_p]

    def check(self, db, code):
        if code != 0:
            raise RuntimeError(f"{code}: {self.library.sqlite3_errmsg(db).decode()}")

    def opened(self, name):
        db = ctypes.c_void_p()
        self.check(db, self.library.sqlite3_open_v2(name, ctypes.byref(db), OPEN_FLAGS, None))
        self.library.sqlite3_busy_timeout(db, 20_000)
        return db

    def load(self):
        loader = self.opened(b":memory:")
        self.check(loader, self.library.sqlite3_db_config(
            loader, ENABLE_LOAD_EXTENSION, ctypes.c_int(1), ctypes.byref(ctypes.c_int())))
        self.check(loader, self.library.sqlite3_load_extension(loader, extension.encode(), None, None))
        self.library.sqlite3_close(loader)

    def open(self):
        self.db = self.opened(uri.encode())

    def execute(self, sql):
        self.check(self.db, self.library.sqlite3_exec(self.db, sql.encode(), None, None, None))

    def close(self):
        self.check(self.db, self.library.sqlite3_close(self.db))


libraries = [Own()] + [Other(path) for path in paths]
failures = []


def write(number, library, rows):
    try:
        for n in range(rows):
            library.execute(f"INSERT INTO t VALUES({number}, {n}, randomblob(1000))")
    except Exception as error:
        failures.append(error)


def write_at_once(base, rows):
    threads = [threading.Thread(target=write, args=(base + n, library, rows)) for n, library in enumerate(libraries)]
    for thread in threads:
        thread.start()
    return threads


for library in libraries:
    library.load()
    library.open()
libraries[0].execute("CREATE TABLE t(who INTEGER, n INTEGER, body BLOB)")
# Before the threads: a child must not be forked while another thread is inside of SQLite, whose mutexes it would find locked for ever.
children = []
for way in ("close", "exit", "_exit"):
    pid = os.fork()
    if pid == 0:
        signal.alarm(CHILD_LIMIT_S)
        for library in libraries:
            # What was inherited is the parent's, and is left alone.
            library.open()
            write(100, library, 3)
            if way == "close":
                library.close()
        if failures:
            print(failures, file=sys.stderr, flush=True)
        if way == "exit" and not failures:
            sys.exit(0)
        os._exit(3 if failures else 0)
    children.append(pid)
threads = write_at_once(0, ROWS)
for thread in threads:
    thread.join()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert codes == [0, 0, 0], codes
assert not failures, failures
count = libraries[0].db.execute("SELECT count(*) FROM t").fetchone()[0]
assert count == len(libraries) * (ROWS + 3 * len(children)), count
for library in libraries[1:]:
    library.close()
    # The extension has taken care that this unloads nothing which it still calls.
    _ctypes.dlclose(library.library._handle)
libraries[0].execute("INSERT INTO t VALUES(0, -1, randomblob(100000))")
