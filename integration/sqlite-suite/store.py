"""Where a run replicates to: a directory for each job, or buckets of a SeaweedFS server for all of them; used by `suite.py`."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# Below the kernel's range for outgoing connections.
PORTS = range(15_000, 32_000)
START_LIMIT_S = 30
ACCESS_KEY, SECRET_KEY = "verneuil-suite", "not-a-secret"


class Directory:
    """A store of its own in the folder of each job, gone with it."""

    environment = {}

    def target(self, job_dir, _number):
        return {"directory": {"path": str(job_dir / "store")}}

    def packs(self, job_dir):
        return sum(1 for path in (job_dir / "store" / "packs").rglob("*") if path.is_file())

    def stop(self):
        pass


class Seaweed:
    """A server for the whole run; each job has a prefix of its own."""

    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }

    def __init__(self, weed):
        self.dir = Path(tempfile.mkdtemp(prefix="verneuil-suite-seaweed-"))
        names = ["master", "volume", "filer", "s3", "admin"]
        ports = iter(free_ports(2 * len(names)))
        arguments, self.ports = [], {}
        for name in names:
            self.ports[name], grpc = next(ports), next(ports)
            arguments += [f"-{name}.port={self.ports[name]}", f"-{name}.port.grpc={grpc}"]
        for name in ("filer", "s3"):
            arguments.append(f"-{name}.localSocket={self.dir}/{name}.sock")
        arguments += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.dir}", "-webdav=false", "-admin.ui=false"]
        arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        self.log = open(self.dir / "output.log", "wb")
        self.child = subprocess.Popen(
            [weed, f"-logdir={self.dir}", "mini", *arguments],
            cwd=self.dir,
            env={**os.environ, **self.environment, "HOME": str(self.dir)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            process_group=0,
        )
        self.wait_until_up()

    def wait_until_up(self):
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if self.child.poll() is not None:
                break
            if self.answers():
                return
            time.sleep(0.2)
        tail = (self.dir / "output.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise SystemExit(f"sqlite-suite: SeaweedFS did not come up within {START_LIMIT_S} s; the end of its log:\n{tail}")

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['master']}/dir/assign", timeout=5) as answer:
                if b'"fid"' not in answer.read():
                    return False
            urllib.request.urlopen(f"http://127.0.0.1:{self.ports['s3']}/", timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 403
        except OSError:
            return False
        return True

    def target(self, _job_dir, number):
        return {
            "s3": {
                "region": "us-east-1",
                "endpoint": f"http://127.0.0.1:{self.ports['s3']}",
                "chunk_bucket": "chunks",
                "manifest_bucket": "manifests",
                "prefix": f"job-{number}",
                "create_buckets_on_demand": True,
            }
        }

    def packs(self, _job_dir):
        """Not counted: a listing of the bucket would need a signed request. Manifests are."""
        return 0

    def stop(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_ports(n):
    """Ports that nobody listens on; all are held at once, so that they differ."""
    held = []
    try:
        for port in random.sample(PORTS, len(PORTS)):
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                candidate.close()
                continue
            held.append(candidate)
            if len(held) == n:
                return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()
    raise SystemExit(f"sqlite-suite: there are no {n} free ports between {PORTS.start} and {PORTS.stop}")
