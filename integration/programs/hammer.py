"""Commits as fast as sqlite can, for store_away.rs: fills a database, waits for a line, hammers, counts, and stays open."""
import json
import random
import sqlite3
import sys
import time

extension, uri, seconds, mebibytes = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
ROW = 2000

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()
connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20)
# What is measured is the spool, not the disk.
connection.execute("PRAGMA synchronous=OFF")
connection.execute("CREATE TABLE pool(id INTEGER PRIMARY KEY, seq INTEGER, body BLOB)")
connection.execute("CREATE TABLE last(seq INTEGER)")
connection.execute("INSERT INTO last VALUES(0)")
rows = mebibytes * (1 << 20) // ROW
connection.execute("BEGIN")
connection.executemany("INSERT INTO pool VALUES(?, 0, randomblob(?))", ((i, ROW) for i in range(rows)))
connection.execute("COMMIT")
print(json.dumps({"rows": rows}), flush=True)

sys.stdin.readline()
generator = random.Random(1)
commits, longest, end = 0, 0.0, time.monotonic() + seconds
while (begin := time.monotonic()) < end:
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(generator.choice((1, 1, 1, 2, 4, 30))):
        connection.execute("UPDATE pool SET seq=?, body=randomblob(?) WHERE id=?", (commits, ROW, generator.randrange(rows)))
    connection.execute("UPDATE last SET seq=seq+1")
    connection.execute("COMMIT")
    commits += 1
    longest = max(longest, time.monotonic() - begin)
print(json.dumps({"commits": commits, "longest_ms": int(longest * 1000)}), flush=True)
sys.stdin.read()
connection.close()
