"""After a test file: what it left is flushed, restored from the store, and compared with the files; used by `job.py`.

Every database that exists is compared unless it can't be, for one of the reasons below, each of which is looked up in the file itself
and not taken from Verneuil.
"""

import json
import os
import sqlite3
import subprocess
import urllib.parse
from collections import Counter
from pathlib import Path

HEADER = b"SQLite format 3\0"
# A restore of the largest database of the suite takes less than a second; one that hangs is a failure.
TOOL_LIMIT_S = 120


class Comparison:
    """What was compared, what was not and why, and what is wrong."""

    def __init__(self):
        self.compared = 0
        self.manifests = 0
        self.packs = 0
        self.skipped = Counter()
        self.wrong = []

    def add(self, other):
        self.compared += other.compared
        self.manifests += other.manifests
        self.packs += other.packs
        self.skipped += other.skipped
        self.wrong += other.wrong


def databases_below(folder):
    """Every SQLite database in a folder."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                with path.open("rb") as file:
                    if file.read(len(HEADER)) == HEADER:
                        yield path
            except OSError:
                continue


def is_wal(path):
    with path.open("rb") as file:
        return 2 in file.read(20)[18:20]


def has_hot_journal(path):
    """Whether a journal with a header lies beside the database: the next opener rolls back."""
    try:
        with open(f"{path}-journal", "rb") as file:
            return file.read(8) not in (b"", bytes(8))
    except OSError:
        return False


def is_damaged(path):
    """Whether SQLite itself says so."""
    uri = f"file:{urllib.parse.quote(str(path))}?mode=ro&immutable=1"
    try:
        with sqlite3.connect(uri, uri=True) as connection:
            return connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",)
    except sqlite3.Error:
        return True


class Tool:
    """`verneuilctl` as the user that runs the tests."""

    def __init__(self, program, prefix, environment, spool, scratch):
        self.program, self.prefix, self.environment = program, prefix, environment
        self.spool, self.scratch = spool, scratch

    def run(self, *arguments):
        return subprocess.run(
            [*self.prefix, self.program, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TOOL_LIMIT_S,
            check=False,
        )

    def json(self, *arguments):
        done = self.run("--json", *arguments)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            said = done.stderr.decode(errors="replace").strip()
            raise OSError(f"verneuilctl {arguments[0]} answered no JSON: {said}") from error


def compare(folder, tool, hostname, proves):
    """Flushes what the tests left in `folder`, restores each database and compares it. Unless it `proves` something, the
    tests write to databases behind SQLite's back."""
    result = Comparison()
    left = {str(path): path for path in databases_below(folder)}
    if not tool.spool.exists():
        # Nothing was ever written through the VFS.
        result.skipped["never written through the VFS"] += len(left)
        return result
    said = {row["path"]: row.get("error") for row in tool.json("flush", tool.spool)}
    for path, error in sorted(said.items()):
        if error and path not in left:
            reason = why_nothing_to_flush(Path(path))
            if reason:
                result.skipped[reason] += 1
            else:
                result.wrong.append(f"{path}: flush failed: {error}")
    published = {}
    # A store that nothing was uploaded to need not exist.
    if any(error is None for error in said.values()) or tool.run("ls", hostname).returncode == 0:
        published = {row["path"]: row["generation"] or 0 for row in tool.json("ls", hostname)}
    result.manifests = sum(published.values())
    for name, path in sorted(left.items()):
        judge_one(path, said.get(name), name in said, name in published, tool, result, proves)
    return result


def why_nothing_to_flush(path):
    """Why a flush may fail for a file that is not a database (any more)."""
    if not path.exists():
        return "deleted"
    if path.stat().st_size == 0:
        return "emptied by the test"
    if has_hot_journal(path):
        return "hot journal"
    return "overwritten by the test with something else"


def judge_one(path, error, is_in_spool, is_published, tool, result, proves):
    reason = None
    if not is_in_spool and not is_published:
        reason = "never written through the VFS"
    elif has_hot_journal(path):
        reason = "hot journal"
    elif is_wal(path):
        reason = "WAL mode"
    if reason:
        result.skipped[reason] += 1
        return
    if error:
        result.wrong.append(f"{path}: flush failed: {error}")
        return
    difference = restored_difference(path, tool)
    if difference is None:
        result.compared += 1
    elif is_damaged(path):
        # Overwritten by the test behind SQLite's back; what was committed before is in the store.
        result.skipped["damaged by the test"] += 1
    elif not proves:
        result.skipped["written behind SQLite's back"] += 1
    else:
        result.wrong.append(f"{path}: {difference}")


def restored_difference(path, tool):
    """How a restored copy differs from the database; None if it doesn't."""
    out = tool.scratch / "restored"
    out.unlink(missing_ok=True)
    done = tool.run("restore", "-s", path, "-o", out)
    if done.returncode != 0:
        return f"can't be restored: {done.stderr.decode(errors='replace').strip()}"
    mine, theirs = path.read_bytes(), out.read_bytes()
    if mine == theirs:
        return None
    if len(mine) != len(theirs):
        return f"restored with {len(theirs)} bytes, the database has {len(mine)}"
    first = next(i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b)
    return f"restored with other bytes, first at {first} of {len(mine)}"
