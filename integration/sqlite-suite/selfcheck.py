"""What `VERNEUIL_SELF_CHECK=1` reports (spool/copier/src/selfcheck); the environment and the sums of `job.py`.

Every process appends lines to one file per job: what it counted, and a line with `MISMATCH` before it ends itself.
"""

from collections import Counter
from dataclasses import dataclass, field

PREFIX = "verneuil-self-check "
MISMATCH = "MISMATCH"


@dataclass
class Checks:
    """Sums over all processes. Chunks are compared with the bytes in a change log, or with the id in a manifest; those that would be
    read from the file have nothing to be compared with."""

    counts: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)

    def add(self, other):
        self.counts += other.counts
        self.wrong += other.wrong

    def chunks(self):
        return sum(self.counts[name] for name in ("log", "manifest", "file"))

    def replicated_share(self):
        """Which share of the chunks came through log or manifest."""
        return (self.counts["log"] + self.counts["manifest"]) / max(1, self.chunks())


def report_file(job_dir):
    return job_dir / "self-check"


def environment(job_dir):
    """What turns it on."""
    return {"VERNEUIL_SELF_CHECK": "1", "VERNEUIL_SELF_CHECK_REPORT": str(report_file(job_dir))}


def read(job_dir):
    """The sums of a job."""
    checks = Checks()
    try:
        lines = report_file(job_dir).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return checks
    for line in lines:
        if MISMATCH in line:
            checks.wrong.append(f"self-check: {line}")
        elif line.startswith(PREFIX):
            fields = (part.split("=") for part in line[len(PREFIX) :].split())
            checks.counts.update({name: int(value) for name, value in fields if name != "pid"})
    return checks
