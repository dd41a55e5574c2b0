"""One of the two processes of many.rs: opens, writes and closes databases at random; prints how many transactions committed."""
import random
import sqlite3
import sys
import time

extension, folder, first, count, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
OPEN_MAX = 40

loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.close()
generator = random.Random(first)
connections, commits = {}, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    number = first + generator.randrange(count)
    connection = connections.get(number)
    if connection is None:
        if len(connections) >= OPEN_MAX:
            connections.pop(generator.choice(list(connections))).close()
        uri = f"file:{folder}/{number}.db?vfs=verneuil"
        connection = connections[number] = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
        connection.execute("CREATE TABLE IF NOT EXISTS t(x INTEGER, body BLOB)")
    for _ in range(generator.randrange(4)):
        if generator.randrange(10):
            connection.execute("INSERT INTO t VALUES(?, randomblob(?))", (commits, generator.randrange(4000)))
        else:
            connection.execute("DELETE FROM t WHERE x % 3 = ?", (generator.randrange(3),))
        commits += 1
    if generator.randrange(3) == 0:
        connections.pop(number).close()
# The rest is closed by nobody: the process just ends.
print(commits)
