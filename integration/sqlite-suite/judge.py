"""What a test program's output says, and whether it is a failure of the VFS; used by `suite.py` for the results of `job.py`.

A case fails the run unless stock `unix`, built alike, fails it too (`stock-failures.txt`), or it can't apply to another VFS
(`exclusions.txt`, with a reason each).
"""

import fnmatch
import re
from pathlib import Path

HERE = Path(__file__).parent

# In the place of a case: the script ended before its summary, in this way.
ABORTED = "(ended-with-status-{})"

SUMMARY = re.compile(r"^(\d+) errors? out of (\d+) tests", re.MULTILINE)
FAILED = re.compile(r"^!Failures on these tests:(.*)$", re.MULTILINE)


def outcome(text, status):
    """What a script did: (tests, cases that failed, in order)."""
    summaries = SUMMARY.findall(text)
    tests = int(summaries[-1][1]) if summaries else text.count("... Ok\n")
    cases = [case for line in FAILED.findall(text) for case in line.split()]
    # A script whose feature is not built in returns at once, with status 0 and no summary.
    if status != 0 and not (summaries and cases):
        cases.append(ABORTED.format(status))
    return tests, list(dict.fromkeys(cases))


def fields(name, n):
    """The lines of one of the lists beside this file, without comments."""
    for number, line in enumerate((HERE / name).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != n or not all(parts):
            raise SystemExit(f"{name}:{number}: {n} fields, separated by '|', were expected")
        yield parts


def patterns(name):
    """The globs of a list of files."""
    lines = (HERE / name).read_text().splitlines()
    return [glob for line in lines if not line.startswith("#") for glob in line.split()]


class Exclusions:
    """What is not run, and which cases may fail, for one VFS."""

    def __init__(self, vfs):
        self.files, self.cases, self.unchecked = {}, {}, []
        for names, what, reason in fields("exclusions.txt", 3):
            if vfs not in names.split(","):
                continue
            name, _, case = what.partition(":")
            if case == "unchecked":
                self.unchecked.append(name)
            elif case:
                self.cases[name, case] = reason
            else:
                self.files[name] = reason

    def excuses(self, name, case):
        return any(
            file == name and fnmatch.fnmatchcase(case, glob) for file, glob in self.cases
        )


    def is_unchecked(self, name):
        """Whether the script writes to databases behind SQLite's back."""
        return any(fnmatch.fnmatchcase(name, glob) for glob in self.unchecked)


def stock_failures(build):
    """What stock `unix` fails in this build: {file: cases}."""
    failures = {}
    for where, name, cases in fields("stock-failures.txt", 3):
        if where == build:
            failures.setdefault(name, set()).update(cases.split())
    return failures


def stock_lines(build, results):
    """The lines of `stock-failures.txt` for what was just seen."""
    return [
        f"{build} | {result.name} | {' '.join(result.failed)}"
        for result in sorted(results, key=lambda result: result.name)
        if result.failed
    ]
