"""Replicates under a umask of its own, and prints what is in the spool at every stage: `stage mode path`."""
import os
import sqlite3
import stat
import sys

uri, extension, umask, spool = sys.argv[1:]
os.umask(int(umask, 8))


def look(stage):
    for folder, folders, files in os.walk(spool):
        for name in folders + files:
            path = os.path.join(folder, name)
            try:
                mode = stat.S_IMODE(os.lstat(path).st_mode)
            except FileNotFoundError:
                continue  # the copier is done with it
            print(stage, format(mode, "o"), path)


loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()
connection = sqlite3.connect(uri, uri=True, isolation_level=None)
connection.execute("CREATE TABLE IF NOT EXISTS t(x)")
look("open")
for _ in range(5):
    connection.execute("INSERT INTO t VALUES(randomblob(3000))")
look("commits")
print("flush", connection.execute("PRAGMA verneuil_flush_replication_data").fetchone()[0])
look("flushed")
connection.execute("BEGIN")
connection.execute("INSERT INTO t VALUES(randomblob(3000))")
look("transaction")
connection.execute("COMMIT")
connection.close()
look("closed")
