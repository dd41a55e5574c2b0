"""Runs a list of SQLite's test files on one VFS and says whether the VFS is as good as stock `unix`; called by
`scripts/sqlite-suite`, which built everything. One file at a time is `job.py`, its verdict `judge.py`.
"""

import argparse
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import databases
import job
import judge
import selfcheck
import store

# Without the test hooks ioerr.test passes in 66 cases; with them it has more than this.
IOERR_CASES_MIN = 10_000
# veryquick of the full build has 390,000; the rest are files that are excluded or depend on the machine.
VERYQUICK_TESTS_MIN = 380_000
# Two jobs leave less than a fifth of it at a time.
MEMORY_MIN_BYTES = 4 << 30
# Of the databases that exist at the end of a file, so many are compared with their restored copy; the others have a reason each.
COMPARED_SHARE_MIN = 0.85
# Of the chunks that the self-check compares, so many came through log or manifest: what was read from the file proves nothing.
REPLICATED_SHARE_MIN = 0.9
# Of the transactions, so many are compared at all; the others could not be spooled (tests that make everything fail).
CHECKED_SHARE_MIN = 0.8
# More lines than this are the same mistake.
LINES_MAX = 50

# name: build, VFS, replicates, journal_wal
CONFIGURATIONS = {
    "stock": ("full", "unix", False, "refuse"),
    "stock-nowal": ("nowal", "unix", False, "refuse"),
    "linux": ("full", "linux", False, "refuse"),
    "verneuil": ("nowal", "verneuil", True, "refuse"),
    "verneuil-wal": ("full", "verneuil", True, "unreplicated"),
}


def parse():
    parser = argparse.ArgumentParser(prog="suite.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("configuration", choices=CONFIGURATIONS)
    parser.add_argument("list", choices=["veryquick", "core", "ci"])
    parser.add_argument("--built", type=Path, required=True, help="folder of the builds `full` and `nowal`")
    parser.add_argument("--source", type=Path, required=True, help="SQLite's source")
    parser.add_argument("--release", type=Path, required=True, help="folder of libverneuil_vfs.so and verneuilctl")
    parser.add_argument("--results", type=Path, required=True, help="folder for logs and sums")
    parser.add_argument("--seaweedfs", type=Path, metavar="WEED", help="replicate to a SeaweedFS server of this program")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time (2)")
    parser.add_argument("--only", action="append", metavar="GLOB", help="only these files of the list")
    return parser.parse_args()


def list_files(source, which):
    """The scripts of a list, as SQLite's own lists have them."""
    name = "veryquick" if which == "veryquick" else "full"
    script = f"""
        set testdir {{{source}/test}}
        set argv [list]
        source $testdir/testrunner_data.tcl
        source $testdir/permutations.test
        array set options $::testspec({name})
        foreach file $options(-files) {{ puts $file }}
    """
    done = subprocess.run(["tclsh"], input=script, text=True, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise SystemExit(f"sqlite-suite: SQLite's list of test files can't be read: {done.stderr}")
    files = {(source / "test" / line).resolve() for line in done.stdout.splitlines()}
    if which != "veryquick":
        globs = judge.patterns(f"{which}.txt")
        files = {path for path in files if any(fnmatch.fnmatchcase(path.name, glob) for glob in globs)}
    return sorted(files)


def reachable(path):
    """Whether an unprivileged user can read what is there."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def end_on_signals():
    """Lets SIGTERM end a run as Ctrl-C does: with what it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def scratch_folder():
    """Where the databases are: in memory, if there is room and programs may be run there. None: on a disk (TMPDIR, /tmp)."""
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return None
    if os.statvfs(memory).f_flag & os.ST_NOEXEC or shutil.disk_usage(memory).free < MEMORY_MIN_BYTES:
        return None
    return memory


def prepare(arguments, run_dir, setting_of):
    """Puts what the tests need where the unprivileged user can read it."""
    build, vfs, replicates, journal_wal = CONFIGURATIONS[arguments.configuration]
    run_dir.chmod(0o711)
    programs = run_dir / "bin"
    programs.mkdir()
    for path in (
        arguments.built / build / "suite-testfixture",
        arguments.release / "libverneuil_vfs.so",
        arguments.release / "verneuilctl",
    ):
        shutil.copy(path, programs)
    programs.chmod(0o755)
    source = arguments.source
    if not reachable(source / "test"):
        source = Path(shutil.copytree(source, run_dir / "source", symlinks=True))
    return source, setting_of(
        vfs=vfs,
        replicates=replicates,
        exclusions=judge.Exclusions(vfs),
        journal_wal=journal_wal,
        fixture=programs / "suite-testfixture",
        extension=programs / "libverneuil_vfs.so",
        verneuilctl=programs / "verneuilctl",
        run_dir=run_dir,
    )


def run_all(setting, scripts, arguments):
    """Runs all files, those that took longest the last time first."""
    durations_path = arguments.results.parent / "durations.json"
    try:
        durations = json.loads(durations_path.read_text())
    except (OSError, ValueError):
        durations = {}
    slow_first = sorted(scripts, key=lambda path: -durations.get(path.name, 1.0))
    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(job.run_file, setting, script, n) for n, script in enumerate(slow_first)]
        try:
            for done in as_completed(jobs):
                result = done.result()
                results.append(result)
                durations[result.name] = round(result.seconds, 2)
                if sys.stderr.isatty():
                    print(f"\r{len(results)}/{len(jobs)} {result.name:<40.40}", end="", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            job.end_all()
            raise
    if sys.stderr.isatty():
        print(file=sys.stderr)
    durations_path.write_text(json.dumps(durations))
    return results


def verdict(results, arguments, exclusions):
    """Everything that is wrong with a run, one line each."""
    build, _, replicates, _ = CONFIGURATIONS[arguments.configuration]
    stock = judge.stock_failures(build)
    wrong = []
    for result in sorted(results, key=lambda result: result.name):
        new = [
            case
            for case in result.failed
            if case not in stock.get(result.name, ()) and not exclusions.excuses(result.name, case)
        ]
        if new:
            wrong.append(f"{result.name}: {len(new)} new: {' '.join(new[:20])}")
        wrong += [f"{result.name}: {what}" for what in result.wrong]
        if result.name == "ioerr.test" and result.tests < IOERR_CASES_MIN:
            wrong.append(f"ioerr.test: {result.tests} cases instead of {IOERR_CASES_MIN}: the test hooks are not at work")
    if arguments.only:
        return wrong
    tests = sum(result.tests for result in results)
    if arguments.list == "veryquick" and tests < VERYQUICK_TESTS_MIN:
        wrong.append(f"only {tests} tests ran, of {VERYQUICK_TESTS_MIN} at least")
    comparison, checks = totals(results)
    if replicates:
        # A database that was deleted does not exist; one in WAL mode is not replicated (ADR 6).
        skipped = sum(n for reason, n in comparison.skipped.items() if reason not in ("deleted", "WAL mode"))
        share = comparison.compared / max(1, comparison.compared + skipped)
        if share < COMPARED_SHARE_MIN:
            wrong.append(f"only {share:.0%} of the databases that existed could be compared, of {COMPARED_SHARE_MIN:.0%} at least")
        if comparison.manifests == 0:
            wrong.append("nothing was published: replication is not at work")
        if checks.counts["checked"] < CHECKED_SHARE_MIN * checks.counts["transactions"]:
            wrong.append(f"self-check: only {checks.counts['checked']} of {checks.counts['transactions']} transactions were compared")
        if checks.replicated_share() < REPLICATED_SHARE_MIN:
            share = f"{checks.replicated_share():.1%} of {checks.chunks()} chunks"
            wrong.append(f"self-check: {share} came through log or manifest, of {REPLICATED_SHARE_MIN:.0%} at least")
    return wrong


def totals(results):
    comparison, checks = databases.Comparison(), selfcheck.Checks()
    for result in results:
        comparison.add(result.comparison)
        checks.add(result.checks)
    return comparison, checks


def report(results, wrong, arguments, seconds):
    """Prints and stores the sums."""
    comparison, checks = totals(results)
    sums = {
        "configuration": arguments.configuration + ("-s3" if arguments.seaweedfs else ""),
        "list": arguments.list,
        "files": len(results),
        "tests": sum(result.tests for result in results),
        "failed_cases": sum(len(result.failed) for result in results),
        "wrong": len(wrong),
        "seconds": round(seconds),
        "ioerr_cases": next((result.tests for result in results if result.name == "ioerr.test"), None),
        "databases_compared": comparison.compared,
        "databases_skipped": dict(comparison.skipped),
        "manifests": comparison.manifests,
        "packs": comparison.packs,
        "self_check": {**checks.counts, "replicated_share": round(checks.replicated_share(), 4)},
    }
    files = {
        result.name: {
            "tests": result.tests,
            "failed": result.failed,
            "seconds": round(result.seconds, 1),
            "databases_compared": result.comparison.compared,
            "databases_skipped": dict(result.comparison.skipped),
            "manifests": result.comparison.manifests,
            "self_check": dict(result.checks.counts),
        }
        for result in sorted(results, key=lambda result: result.name)
    }
    (arguments.results / "files.json").write_text(json.dumps(files, indent=1) + "\n")
    (arguments.results / "sums.json").write_text(json.dumps(sums, indent=1) + "\n")
    for key, value in sums.items():
        print(f"  {key}: {value}")
    slowest = sorted(results, key=lambda result: -result.seconds)[:5]
    print("  slowest: " + ", ".join(f"{result.name} {result.seconds:.0f} s" for result in slowest))
    for line in wrong[:LINES_MAX]:
        print(f"WRONG {line}")
    if len(wrong) > LINES_MAX:
        print(f"WRONG and {len(wrong) - LINES_MAX} more")


def main():
    arguments = parse()
    build, vfs, _, _ = CONFIGURATIONS[arguments.configuration]
    shutil.rmtree(arguments.results, ignore_errors=True)
    arguments.results.mkdir(parents=True)
    end_on_signals()
    run_dir = Path(tempfile.mkdtemp(prefix="verneuil-sqlite-suite-", dir=scratch_folder()))
    target = store.Seaweed(arguments.seaweedfs) if arguments.seaweedfs else store.Directory()
    start = time.monotonic()
    wrong = ["it did not come to an end"]
    try:
        source, setting = prepare(
            arguments, run_dir, lambda **fields: job.Setting(store=target, results=arguments.results, **fields)
        )
        excluded = setting.exclusions.files
        scripts = [path for path in list_files(source, arguments.list) if path.name not in excluded]
        if arguments.only:
            scripts = [path for path in scripts if any(fnmatch.fnmatchcase(path.name, glob) for glob in arguments.only)]
        if not scripts:
            raise SystemExit("sqlite-suite: no file of the list matches")
        print(f"{arguments.configuration} {arguments.list}: {len(scripts)} files, {arguments.jobs} at a time", flush=True)
        results = run_all(setting, scripts, arguments)
        wrong = verdict(results, arguments, setting.exclusions)
        report(results, wrong, arguments, time.monotonic() - start)
        if vfs == "unix":
            print("\n".join(judge.stock_lines(build, results)))
    finally:
        target.stop()
        if wrong:
            print(f"logs: {arguments.results}; spools and databases: {run_dir}", file=sys.stderr)
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
