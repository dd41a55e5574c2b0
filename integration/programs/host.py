"""A Python program with an SQLite, for tests/host_process: commands as in host.c."""
import locale
import os
import signal
import sqlite3
import sys
import time

extension, uri = sys.argv[1:]
CHILD_LIMIT_S = 30
COMMIT_PAUSE_S = 0.003
connections = []
children = []


def load(_):
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)
    loader.close()


def open_one(name):
    connections.append(sqlite3.connect(name or uri, uri=True, isolation_level=None, timeout=20))


def sql(text):
    row = connections[-1].execute(text).fetchone()
    return row[0] if row else ""


def work(rest):
    """So many commits, by this one."""
    who, count = map(int, rest.split())
    for _ in range(count):
        sql(f"INSERT INTO t VALUES({who}, randomblob(2000))")
        # SQLite's waiting is not fair: without a pause, others starve.
        time.sleep(COMMIT_PAUSE_S)


def fork(lines):
    pid = os.fork()
    if pid == 0:
        signal.alarm(CHILD_LIMIT_S)
        children.clear()
        try:
            for line in lines.split(" ;; "):
                run(line)
        except Exception as error:
            print(f"child: {error}", file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    children.append(pid)
    return pid


def reap(_):
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    children.clear()
    return ",".join(map(str, codes))


def state(_):
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return f"handlers={handlers} mask={signal.pthread_sigmask(signal.SIG_BLOCK, [])} locale={locale.setlocale(locale.LC_ALL)}"


COMMANDS = {
    "load": load,
    "open": open_one,
    "sql": sql,
    "close": lambda _: connections.pop().close(),
    "fork": fork,
    "reap": reap,
    "exec": lambda rest: os.execv("/bin/sh", ["sh", "-c", rest]),
    "exit": lambda _: sys.exit(0),
    "_exit": lambda _: os._exit(0),
    "sleep": lambda rest: time.sleep(int(rest)),
    "term": lambda _: signal.raise_signal(signal.SIGTERM),
    "kill": lambda _: signal.raise_signal(signal.SIGKILL),
    "work": work,
    "state": state,
}


def run(line):
    command, _, rest = line.partition(" ")
    return COMMANDS[command](rest)


os.umask(0o027)
while line := sys.stdin.readline():
    try:
        answer = run(line.rstrip("\n"))
        print("ok", "" if answer is None else answer, flush=True)
    except Exception as error:
        print("error", error, flush=True)
