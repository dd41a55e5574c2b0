"""Neighbours in one process: connections of sqlite's own VFS before, beside and after ours, on the same database."""
import sqlite3
import subprocess
import sys

extension, database = sys.argv[1:]
OTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
    print("free")
except sqlite3.OperationalError as error:
    print(error)
"""


def seen_by_another_process():
    return subprocess.run([sys.executable, "-c", OTHER_PROCESS, database], capture_output=True, text=True, timeout=30).stdout.strip()


stock = sqlite3.connect(database, isolation_level=None, timeout=0)
stock.execute("CREATE TABLE t(x)")
stock.execute("BEGIN IMMEDIATE")
stock.execute("INSERT INTO t VALUES(1)")

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()

ours = sqlite3.connect(f"file:{database}?vfs=verneuil", uri=True, isolation_level=None, timeout=0)
assert ours.execute("SELECT count(*) FROM t").fetchone() == (0,), "an uncommitted row was read"
try:
    ours.execute("BEGIN IMMEDIATE")
    raise AssertionError("two writers of one process at once")
except sqlite3.OperationalError as error:
    assert "locked" in str(error), error
ours.close()
# Closing a descriptor drops the POSIX locks that the process holds on the file: ours must not.
assert "locked" in seen_by_another_process(), "our close dropped the lock of a stock connection"
stock.execute("COMMIT")
assert seen_by_another_process() == "free"

# And the other way round: our locks hold against stock connections of this process and of others.
ours = sqlite3.connect(f"file:{database}?vfs=verneuil", uri=True, isolation_level=None, timeout=0)
ours.execute("BEGIN IMMEDIATE")
ours.execute("INSERT INTO t VALUES(2)")
try:
    stock.execute("BEGIN IMMEDIATE")
    raise AssertionError("a stock connection wrote beside ours")
except sqlite3.OperationalError as error:
    assert "locked" in str(error), error
assert "locked" in seen_by_another_process(), "our lock is not seen by another process"
ours.execute("COMMIT")
assert stock.execute("SELECT count(*) FROM t").fetchone() == (2,)
late = sqlite3.connect(database)
assert late.execute("PRAGMA integrity_check").fetchone() == ("ok",)
memory = sqlite3.connect(":memory:")
memory.execute("CREATE TABLE t(x)")
