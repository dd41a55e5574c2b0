"""Runs one file of SQLite's suite in a folder of its own, as an unprivileged user, and looks at what it left; `suite.py` calls it
for each file, `judge.py` reads the output, `databases.py` compares the databases.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import databases
import judge
import selfcheck

# Debian's `nobody`; as root, stock `unix` fails ten files that look at permissions.
UNPRIVILEGED_ID = 65534
# The slowest file of the core list takes a tenth of it.
FILE_LIMIT_S = 3600
HOSTNAME = "suite"


@dataclass
class Setting:
    """What all jobs of a run have in common."""

    vfs: str
    replicates: bool
    fixture: Path
    extension: Path
    verneuilctl: Path
    run_dir: Path
    results: Path
    store: object
    exclusions: judge.Exclusions
    journal_wal: str = "refuse"

    def prefix(self):
        """What starts a program as the unprivileged user."""
        if os.geteuid() != 0:
            return []
        user = str(UNPRIVILEGED_ID)
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]


@dataclass
class Result:
    """What became of one file."""

    name: str
    tests: int = 0
    failed: list = field(default_factory=list)
    seconds: float = 0.0
    comparison: databases.Comparison = field(default_factory=databases.Comparison)
    checks: selfcheck.Checks = field(default_factory=selfcheck.Checks)
    wrong: list = field(default_factory=list)


def make_private(path):
    """A folder that the tests can write to and nobody else."""
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    return path


def configuration(setting, job_dir, number):
    """The VERNEUIL_CONFIG of a job."""
    if not setting.replicates:
        return {}
    return {
        "hostname": HOSTNAME,
        "replication_spooling_dir": str(job_dir / "spool"),
        "replication_targets": [setting.store.target(job_dir, number)],
        "journal_wal": setting.journal_wal,
        "copier": {
            # Hundreds of tests start a process that ends at once: what it leaves is for the next one, or for the flush.
            "drain_on_close_ms": 0,
            # More snapshots than usual: each is a chance to be wrong.
            "min_manifest_interval_ms": 100,
            "requests_per_second": 1000,
            "burst": 1000,
        },
    }


def environment(setting, job_dir, number):
    """The whole environment of a job's programs; nothing of the caller's but the path."""
    config = job_dir / "verneuil.json"
    config.write_text(json.dumps(configuration(setting, job_dir, number)))
    config.chmod(0o644)
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(job_dir),
        "LANG": "C.UTF-8",
        "SQLITE_TMPDIR": str(job_dir / "work"),
        "SUITE_VFS": setting.vfs,
        "VERNEUIL_CONFIG": f"@{config}",
        **setting.store.environment,
    }
    if setting.journal_wal == "unreplicated":
        # Tests of SQLite's log and of a program's output don't expect to hear that a database is not replicated.
        env["RUST_LOG"] = "off"
    if not job_dir.is_relative_to("/dev/shm"):
        # Hours of waiting for a disk would test the disk (hookvfs.c).
        env["SUITE_NO_SYNC"] = "1"
    if setting.vfs != "unix":
        env["SUITE_EXTENSION"] = str(setting.extension)
    return env


# The process groups of programs that run now: whoever is interrupted ends them.
RUNNING = set()


def end_all():
    """Ends what runs."""
    for group in list(RUNNING):
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run_program(command, env, cwd, log, limit_s):
    """Runs a program to its end; ends what it started and left. Answers its status; negative for a signal."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        RUNNING.add(child.pid)
        end = time.monotonic() + limit_s
        # Not reaped before its group is gone: until then the number of the group can't be another's.
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > end:
                output.write(f"\nsqlite-suite: killed after {limit_s} s\n".encode())
                break
            time.sleep(0.01)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        RUNNING.discard(child.pid)
        return child.wait()


def look_at_databases(setting, job_dir, work, env, proves=True):
    """Compares what a program left in its folder: what is wrong, what was compared, what the self-check counted."""
    scratch = make_private(job_dir / "scratch")
    tool = databases.Tool(setting.verneuilctl, setting.prefix(), env, job_dir / "spool", scratch)
    wrong, comparison = [], databases.Comparison()
    try:
        comparison = databases.compare(work, tool, HOSTNAME, proves)
        comparison.packs = setting.store.packs(job_dir)
    except (OSError, subprocess.SubprocessError) as error:
        wrong.append(f"the databases can't be looked at: {error}")
    checks = selfcheck.read(job_dir)
    return wrong + comparison.wrong + checks.wrong, comparison, checks


def run_file(setting, script, number):
    """Runs one test file and compares what it left."""
    name = script.name
    result = Result(name)
    job_dir = make_private(setting.run_dir / f"job-{number}")
    work = make_private(job_dir / "work")
    env = environment(setting, job_dir, number)
    is_checked = not setting.exclusions.is_unchecked(name)
    # One that writes bytes into the file may do so before a copier has looked, without a trace.
    proves = is_checked and b"hexio_write" not in script.read_bytes()
    if is_checked:
        env |= selfcheck.environment(job_dir)
    log = setting.results / f"{name}.log"
    start = time.monotonic()
    status = run_program([*setting.prefix(), setting.fixture, script], env, work, log, FILE_LIMIT_S)
    result.seconds = time.monotonic() - start
    result.tests, result.failed = judge.outcome(log.read_text(errors="replace"), status)
    if setting.replicates:
        result.wrong, result.comparison, result.checks = look_at_databases(setting, job_dir, work, env, proves)
    if not result.wrong:
        shutil.rmtree(job_dir, ignore_errors=True)
    return result
