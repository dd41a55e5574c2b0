"""SQLite's test programs that are no Tcl scripts: mptester (many processes), threadtest3 (many threads), speedtest1; called by
`scripts/sqlite-suite mptest`. Databases are compared as after a test file (`databases.py`).
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import databases
import job
import judge
import selfcheck
import store
import suite

# Scripts, and how often mptester runs each in a row: the last one makes a table that a second run finds, also with `unix`.
SCRIPTS = {"crash01": 3, "multiwrite01": 3, "config02": 1}
JOURNAL_MODES = ["DELETE", "TRUNCATE", "PERSIST"]
# The best of so many: what else the machine does must not count.
SPEED_RUNS = 3
SPEED_SIZE = 100
PROGRAM_LIMIT_S = 1800

SUMMARY = re.compile(r"(\d+) errors? (?:out of|in) (\d+) tests")


def parse():
    parser = argparse.ArgumentParser(prog="programs.py", description=__doc__.split("\n\n")[0])
    for name in ("built", "source", "release", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", choices=["mptester", "threadtest3", "speedtest1"])
    return parser.parse_args()


class Run:
    """One program at a time in a folder of its own."""

    def __init__(self, arguments, run_dir):
        self.arguments, self.run_dir = arguments, run_dir
        self.wrong, self.sums, self.number = [], [], 0

    def setting(self, vfs, journal_wal="refuse"):
        programs = self.run_dir / "bin"
        return job.Setting(
            vfs=vfs,
            replicates=vfs == "verneuil",
            fixture=programs,
            extension=programs / "libverneuil_vfs.so",
            verneuilctl=programs / "verneuilctl",
            run_dir=self.run_dir,
            results=self.arguments.results,
            store=store.Directory(),
            exclusions=judge.Exclusions(vfs),
            journal_wal=journal_wal,
        )

    def program(self, name, setting, command, mixed=False, **more):
        """Runs a program and compares what it left; answers its output and its time."""
        self.number += 1
        job_dir = job.make_private(setting.run_dir / f"job-{self.number}")
        work = job.make_private(job_dir / "work")
        env = {**job.environment(setting, job_dir, self.number), **selfcheck.environment(job_dir), **more}
        if mixed:
            # Every second process is on stock `unix` (loader.c).
            env["SUITE_MIXED"] = str(job_dir / "work" / "processes")
        log = setting.results / f"{name}.log"
        start = time.monotonic()
        status = job.run_program([*setting.prefix(), *command], env, work, log, PROGRAM_LIMIT_S)
        seconds = time.monotonic() - start
        if status != 0:
            self.wrong.append(f"{name}: ended with status {status}, see {log}")
        if setting.replicates:
            wrong, comparison, checks = job.look_at_databases(setting, job_dir, work, env)
            self.wrong += [f"{name}: {what}" for what in wrong]
            self.sums.append({
                "program": name,
                "seconds": round(seconds, 1),
                "databases_compared": comparison.compared,
                "databases_skipped": dict(comparison.skipped),
                "manifests": comparison.manifests,
                "self_check": {**checks.counts, "replicated_share": round(checks.replicated_share(), 4)},
            })
            if comparison.manifests == 0:
                self.wrong.append(f"{name}: nothing was published: replication is not at work")
            print(f"  {self.sums[-1]}", flush=True)
        shutil.rmtree(job_dir, ignore_errors=True)
        return log.read_text(errors="replace"), seconds

    def mptester(self):
        bin_dir, scripts = self.run_dir / "bin", self.run_dir / "mptest"
        for mixed in (False, True):
            for mode in JOURNAL_MODES:
                for script, repetitions in SCRIPTS.items():
                    name = f"mptester-{script}-{mode}" + ("-mixed" if mixed else "")
                    command = [bin_dir / "suite-mptester", "mptest.db", scripts / f"{script}.test"]
                    command += ["--repeat", str(repetitions), "--journalmode", mode]
                    text, _ = self.program(name, self.setting("verneuil"), command, mixed)
                    found = SUMMARY.findall(text)
                    if not found or found[-1][0] != "0" or found[-1][1] == "0":
                        self.wrong.append(f"{name}: {found[-1] if found else 'no summary'} (errors, tests)")
                    else:
                        print(f"  {name}: {found[-1][1]} tests, 0 errors", flush=True)

    def threadtest3(self):
        # Some of its tests are about WAL mode.
        setting = self.setting("verneuil", journal_wal="unreplicated")
        text, _ = self.program("threadtest3", setting, [self.run_dir / "bin" / "suite-threadtest3"])
        found = SUMMARY.findall(text)
        if not found or found[-1][0] != "0":
            self.wrong.append(f"threadtest3: {found[-1] if found else 'no summary'} (errors, tests)")
        else:
            print(f"  threadtest3: {found[-1][1]} tests, 0 errors")

    def speedtest1(self):
        best = {}
        # In turn, so that a busy minute meets all of them.
        for _ in range(SPEED_RUNS):
            for vfs in ("unix", "linux", "verneuil"):
                command = [self.run_dir / "bin" / "suite-speedtest1", "--size", str(SPEED_SIZE), "speed.db"]
                # What is measured is the VFS, and not the check.
                _, seconds = self.program(f"speedtest1-{vfs}", self.setting(vfs), command, VERNEUIL_SELF_CHECK="")
                best[vfs] = min(seconds, best.get(vfs, seconds))
        ratios = {vfs: round(seconds / best["unix"], 2) for vfs, seconds in best.items()}
        self.sums.append({"program": "speedtest1", "seconds": best, "ratio_to_unix": ratios})
        print(f"  speedtest1: {ratios} of unix' {best['unix']:.1f} s")


def main():
    arguments = parse()
    shutil.rmtree(arguments.results, ignore_errors=True)
    arguments.results.mkdir(parents=True)
    suite.end_on_signals()
    run_dir = Path(tempfile.mkdtemp(prefix="verneuil-sqlite-suite-", dir=suite.scratch_folder()))
    try:
        run_dir.chmod(0o711)
        (run_dir / "bin").mkdir()
        programs = [arguments.built / "full" / f"suite-{name}" for name in ("mptester", "threadtest3", "speedtest1")]
        for path in [*programs, arguments.release / "libverneuil_vfs.so", arguments.release / "verneuilctl"]:
            shutil.copy(path, run_dir / "bin")
        shutil.copytree(arguments.source / "mptest", run_dir / "mptest")
        run = Run(arguments, run_dir)
        for name in ("mptester", "threadtest3", "speedtest1"):
            if arguments.only in (None, name):
                getattr(run, name)()
    finally:
        job.end_all()
        shutil.rmtree(run_dir, ignore_errors=True)
    (arguments.results / "sums.json").write_text(json.dumps(run.sums, indent=1) + "\n")
    for line in run.wrong:
        print(f"WRONG {line}")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
