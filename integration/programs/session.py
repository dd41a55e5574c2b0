"""Python's sqlite3 as one of the programs that session.rs talks to: a statement per line, rows as `a|b`."""
import sqlite3
import sys

uri, extension = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
if extension:
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    loader.close()
connection = sqlite3.connect(uri, uri=True, isolation_level=None)
for line in sys.stdin:
    line = line.strip()
    if line.startswith(".print "):
        print(line[len(".print "):], flush=True)
    elif line:
        for row in connection.execute(line):
            print("|".join("" if value is None else str(value) for value in row))
connection.close()
