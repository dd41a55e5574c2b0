"""One reader of the storm test: read transactions until the time is over, then its counts as one line of JSON.

The unmodified sqlite3 of Python, in a process of its own. Each transaction reads the state twice, with a pause between:
both must be whole (see state.rs) and the same.
"""
import json
import random
import sqlite3
import sys
import time

uri, mode, seconds, state_sql = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]


def connect():
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
    if mode == "tiny":
        connection.execute("PRAGMA cache_size=5")
    if mode == "mmap":
        size, = connection.execute("PRAGMA mmap_size=268435456").fetchone()
        assert size > 0, "this sqlite has no mmap"
    return connection


def whole(row):
    head, middle, tail, rows, total, counted, summed, damaged = row
    return head == middle == tail and rows == counted and total == summed and damaged == 0


result = {"mode": mode, "transactions": 0, "mixtures": [], "errors": [], "backwards": 0, "states": []}
states, last = set(), 0
connection = connect()
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        if mode == "reopen":
            connection.close()
            connection = connect()
        connection.execute("BEGIN")
        first = connection.execute(state_sql).fetchone()
        time.sleep(random.uniform(0, 0.01))
        again = connection.execute(state_sql).fetchone()
        connection.execute("COMMIT")
        result["transactions"] += 1
        if first != again or not whole(first):
            result["mixtures"].append([first, again])
        if first[0] < last:
            result["backwards"] += 1
        last = first[0]
        states.add(first[0])
    except sqlite3.Error as error:
        result["errors"].append(f"{type(error).__name__}: {error}")
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if len(result["mixtures"]) + len(result["errors"]) > 20:
        break
    time.sleep(random.uniform(0.005, 0.02))
result["states"] = sorted(states)
print(json.dumps(result))
