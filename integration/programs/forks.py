"""What forked children do to their parent, for forks.rs: one scenario by its name. Locks are looked at from a third process."""
import os
import signal
import sqlite3
import subprocess
import sys
import time

scenario, extension, database, spool = sys.argv[1:]
URI = f"file:{database}?vfs=verneuil"
PROBE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute(sys.argv[2])
    print("free")
except sqlite3.OperationalError as error:
    print(error)
"""
CHILD_LIMIT_S = 30
PROGRAM_LIMIT_S = 90


def probe(statement="BEGIN IMMEDIATE"):
    arguments = [sys.executable, "-c", PROBE, database, statement]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30).stdout.strip()


def load():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    loader.close()


def ours():
    return sqlite3.connect(URI, uri=True, isolation_level=None, timeout=20)


def fork(body):
    """Runs body in a child; its exit is as abrupt as can be, unless body exits itself."""
    child = os.fork()
    if child == 0:
        # Whatever hangs is ended by the kernel: nothing here outlives its test.
        signal.alarm(CHILD_LIMIT_S)
        try:
            body()
        except sqlite3.Error:
            # A child may well be refused.
            pass
        os._exit(0)
    return child


def reap(child):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != -signal.SIGALRM, f"the child hung for {CHILD_LIMIT_S} s"
    assert code == 0, f"the child ended with {code}"


def write_then(body):
    """The parent is in the middle of a transaction; a child does something; the parent goes on as if nothing had happened."""
    for spill in (False, True):
        connection.execute("DELETE FROM t")
        connection.execute(f"PRAGMA cache_size={4 if spill else -2000}")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO t VALUES(?, randomblob(3000))", ((i,) for i in range(30)))
        # A spilled transaction has reached the file, and needs its journal.
        assert "locked" in probe("BEGIN EXCLUSIVE" if spill else "BEGIN IMMEDIATE")
        reap(fork(body))
        assert "locked" in probe(), "the child has taken its parent's lock"
        connection.execute("INSERT INTO t VALUES(30, NULL)")
        connection.execute("COMMIT")
        assert probe() == "free"
        reader = sqlite3.connect(database, isolation_level=None)
        assert reader.execute("SELECT count(*), sum(x) FROM t").fetchone() == (31, 465), "rows of the parent are missing"
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        reader.close()


def rollback():
    write_then(lambda: connection.execute("ROLLBACK"))


def commit():
    write_then(lambda: connection.execute("COMMIT"))


def close():
    write_then(lambda: connection.close())


def exit_abruptly():
    write_then(lambda: os._exit(0))


def exit():
    # As a whole interpreter ends: it closes what it has.
    write_then(lambda: sys.exit(0))


def read():
    connection.executemany("INSERT INTO t VALUES(?, randomblob(3000))", ((i,) for i in range(30)))
    for end in (
        lambda: (rows.fetchall(), connection.execute("COMMIT")),
        lambda: (rows.close(), connection.execute("COMMIT")),
        lambda: (rows.close(), connection.close()),
        lambda: sys.exit(0),
    ):
        connection.execute("BEGIN")
        rows = connection.execute("SELECT x FROM t")
        rows.fetchone()
        assert "locked" in probe("BEGIN EXCLUSIVE")
        reap(fork(end))
        assert "locked" in probe("BEGIN EXCLUSIVE"), "the child has taken its parent's shared lock"
        assert len(rows.fetchall()) == 29
        connection.execute("COMMIT")
        assert probe("BEGIN EXCLUSIVE") == "free"


def own_connection():
    def body():
        other = ours()
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
        other.close()

    connection.execute("DELETE FROM t")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES(1, NULL)")
    for _ in range(5):
        reap(fork(body))
        assert "locked" in probe(), "the child has taken its parent's lock"
    connection.execute("COMMIT")
    assert probe() == "free"


def workers():
    def body(number):
        other = ours()
        for n in range(50):
            other.execute("INSERT INTO t VALUES(?, randomblob(500))", (number * 1000 + n,))
        if number % 2:
            # A flush in a child works, or is refused with a reason; it never hangs.
            try:
                other.execute("PRAGMA verneuil_flush_replication_data").fetchone()
            except sqlite3.OperationalError as error:
                assert str(error), "refused without a reason"
        other.close()

    children = [fork(lambda number=number: body(number)) for number in range(4)]
    for n in range(50):
        connection.execute("INSERT INTO t VALUES(?, randomblob(500))", (9000 + n,))
    for child in children:
        reap(child)
    assert connection.execute("SELECT count(DISTINCT x) FROM t").fetchone() == (250,)
    assert str(connection.execute("PRAGMA verneuil_flush_replication_data").fetchone()[0]) == "1"


def descriptors():
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES(1, NULL)")
    seen = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, timeout=30).stdout
    for place in (database, spool):
        assert place not in seen, f"a started program inherits {place}: {seen}"
    connection.execute("COMMIT")


def stock():
    neighbour = sqlite3.connect(database, isolation_level=None, timeout=0)
    # What a child does to the stock connection itself is between it and SQLite.
    for body in (lambda: connection.close(), lambda: ours().execute("SELECT * FROM t").fetchall(), lambda: os._exit(0)):
        neighbour.execute("BEGIN IMMEDIATE")
        neighbour.execute("INSERT INTO t VALUES(1, NULL)")
        reap(fork(body))
        assert "locked" in probe(), "the child has taken the lock of a stock connection"
        neighbour.execute("COMMIT")
        assert probe() == "free"
    neighbour.close()


def copier():
    """The copier reads the database through descriptors of its own while a stock connection of the process holds a lock."""
    neighbour = sqlite3.connect(database, isolation_level=None, timeout=20)
    for n in range(20):
        other = ours()
        other.execute("INSERT INTO t VALUES(?, randomblob(200000))", (n,))
        other.close()
        neighbour.execute("BEGIN IMMEDIATE")
        neighbour.execute("INSERT INTO t VALUES(?, NULL)", (1000 + n,))
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            assert "locked" in probe(), "somebody in this process has dropped the lock of a stock connection"
        neighbour.execute("COMMIT")
    assert neighbour.execute("SELECT count(*) FROM t").fetchone() == (40,)
    assert neighbour.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    neighbour.close()


signal.alarm(PROGRAM_LIMIT_S)
load()
connection = ours()
connection.execute("CREATE TABLE t(x INTEGER, body BLOB)")
if scenario == "copier":
    connection.close()
globals()[scenario]()
