"""Machines with addresses of their own on this one (`places.py`), each with a Ray node.

The head is the first, workers follow; the test is a laptop beside them. They share this disk, as a cluster shares its network
disk. Processors are a promise to Ray: all share those of this machine.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.nodes.places import Places

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "platform"), str(ROOT / "jobs")])
"""Of programs that use the tests' modules."""
BIN = Path(sys.executable).parent
GCS, DASHBOARD, CLIENTS, REDIS = 6379, 8265, 10001, 6390


@dataclass
class Machine:
    """`start` runs a Ray node on it, which a supervisor starts again when it ends by itself."""

    places: Places
    number: int
    cpus: int
    home: Path
    environment: dict[str, str]
    extra: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    supervisor: threading.Thread | None = None
    starts: int = 0

    @property
    def name(self) -> str:
        """In labels and file names."""
        return f"cr{self.number}"

    @property
    def address(self) -> str:
        """In the cluster's network."""
        return self.places.address(self.number)

    def spawn(self, *command: str, output: Path) -> subprocess.Popen[bytes]:
        """A command on this machine that goes on beside; what it says goes to a file."""
        with open(output, "w") as said:
            return subprocess.Popen(
                [*self.places.inside(self.number), *command], env=self.environment | {"PYTHONPATH": PATHS}, cwd=ROOT,
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command on this machine."""
        return subprocess.run(
            [*self.places.inside(self.number), *command], env=self.environment, cwd=self.home, text=True,
            capture_output=True, timeout=timeout,
        )  # fmt: skip

    def start(self) -> None:
        """`ray start --block`, and again when it ends by itself, as systemd or Kubernetes would."""
        self.wanted = True
        self.supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._start()
        self.supervisor.start()

    def _start(self) -> None:
        self.starts += 1
        folder = self.home / f"t{self.number}.{self.starts}"
        port = self.places.port
        if self.number > 1:
            where = [f"--address={self.places.address(1)}:{port(GCS)}"]
        else:
            where = ["--head", f"--port={port(GCS)}", f"--ray-client-server-port={port(CLIENTS)}"]
            where += [f"--dashboard-host={self.address}", f"--dashboard-port={port(DASHBOARD)}"]
        command = [
            *self.places.inside(self.number), str(BIN / "ray"), "start", "--block", *where, f"--temp-dir={folder}",
            f"--node-ip-address={self.address}", f"--num-cpus={self.cpus}", "--object-store-memory=200000000",
            "--dashboard-agent-listen-port=0", "--disable-usage-stats", f"--labels=machine={self.name}", *self.extra,
        ]  # fmt: skip
        with open(self.home / f"{self.name}.txt", "a") as output:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.home, stdout=output, stderr=subprocess.STDOUT
            )

    def _supervise(self) -> None:
        me = threading.current_thread()
        while self.wanted and self.supervisor is me:
            assert self.process
            self.process.wait()
            time.sleep(1)
            if self.wanted and self.supervisor is me:
                self._sweep()
                self._start()

    def processes(self) -> list[int]:
        """All process ids on this machine."""
        return self.places.processes(self.number)

    def _sweep(self) -> None:
        for one in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def kill(self) -> None:
        """The power fails: every process ends at once, nobody is told, nothing is started again until `start`."""
        self.wanted = False
        self.places.up(self.number, False)
        self._sweep()
        if self.process:
            self.process.wait()
        self.places.up(self.number, True)

    def cut(self) -> None:
        """The cable is pulled: no packet passes, and nobody says so."""
        assert self.places.can_cut
        self.places.up(self.number, False)

    def mend(self) -> None:
        """And plugged in again."""
        self.places.up(self.number, True)


@dataclass
class Cluster:
    """A head and its workers."""

    places: Places
    home: Path
    machines: list[Machine]
    environment: dict[str, str]
    redis: bool = False
    """Whether the head may die."""

    @property
    def head(self) -> Machine:
        """The first machine."""
        return self.machines[0]

    @property
    def dashboard(self) -> str:
        """As a laptop reaches it."""
        return f"http://{self.head.address}:{self.places.port(DASHBOARD)}"

    @property
    def address(self) -> str:
        """Of the head, as nodes and drivers on it join."""
        return f"{self.head.address}:{self.places.port(GCS)}"

    def ray(self, *arguments: str, token: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`ray ...` on the laptop."""
        known = {name: value for name, value in self.environment.items() if token or not name.startswith("RAY_AUTH")}
        return subprocess.run(
            [str(BIN / "ray"), *arguments], cwd=ROOT, env=known, capture_output=True, text=True, timeout=timeout
        )

    def submit(self, job: str, *command: str, wait: bool = True, token: bool = True, timeout: float = 600) -> str:
        """`ray job submit` as the README writes it. Returns what was said."""
        options = ["--address", self.dashboard, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml"]
        options += ["--submission-id", job] + ([] if wait else ["--no-wait"])
        done = self.ray("job", "submit", *options, "--", *command, token=token, timeout=timeout)
        return done.stdout + done.stderr

    def status(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; empty: the head does not answer."""
        try:
            return self.get(f"/api/jobs/{job}")["status"]
        except OSError:
            return ""

    def logs(self, job: str) -> str:
        """All that the job has said."""
        return self.ray("job", "logs", "--address", self.dashboard, job).stdout

    def free(self) -> float:
        """Processors that nobody holds."""
        asked = (
            f"import ray; ray.init('{self.address}', logging_level='ERROR');"
            "print('FREE', ray.available_resources().get('CPU', 0.0))"
        )
        told = self.head.run("python", "-c", asked)
        assert "FREE" in told.stdout, told.stdout + told.stderr
        return float(told.stdout.split("FREE")[1].split()[0])

    def alive(self) -> dict[str, str]:
        """Address -> node id of the nodes that the head holds for alive."""
        try:
            told = self.get("/nodes?view=summary")["data"]["summary"]
        except OSError:
            return {}
        alive = [one["raylet"] for one in told if one["raylet"].get("state") == "ALIVE"]
        return {one["nodeManagerAddress"]: one["nodeId"] for one in alive}

    def get(self, path: str) -> Any:
        """JSON from the dashboard."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        asked = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.load(answer)

    def wait_for(self, nodes: int, timeout: float = 90) -> None:
        """Until so many nodes are alive."""
        until = time.monotonic() + timeout
        while len(self.alive()) != nodes:
            assert time.monotonic() < until, [
                (self.home / f"{one.name}.txt").read_text()[-1500:] for one in self.machines
            ]
            time.sleep(0.5)


@contextlib.contextmanager
def cluster(
    places: Places, cpus: list[int], *, environment: dict[str, str] | None = None, redis: str | None = None
) -> Iterator[Cluster]:
    """A head and workers with so many processors each, behind a token; all of it gone afterwards. redis: its program, for a head
    that may die."""
    home = Path(tempfile.mkdtemp(prefix="cr-n-"))
    (home / "token").write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    known = {
        **kept,
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": places.interface,
        "COUNTRYREWARD_HOME": str(home),
        **(environment or {}),
    }
    known.pop("PYTHONPATH", None)
    machines = [Machine(places, number, count, home, known) for number, count in enumerate(cpus, 1)]
    made = Cluster(places, home, machines, known, redis is not None)
    known["CLUSTER_ADDRESS"] = made.address
    store = None
    places.make()
    try:
        if redis:
            store = _redis(redis, made)
        for machine in machines:
            places.link(machine.number)
            machine.start()
        made.wait_for(len(machines))
        until = time.monotonic() + 60
        while made.ray("job", "list", "--address", made.dashboard).returncode:
            assert time.monotonic() < until, "the dashboard does not answer"
            time.sleep(0.5)
        yield made
    finally:
        for machine in reversed(machines):
            machine.kill()
            places.unlink(machine.number)
        if store:
            store.kill()
            store.wait()
        places.remove()
        shutil.rmtree(home, ignore_errors=True)


def _redis(program: str, made: Cluster) -> subprocess.Popen[bytes]:
    """On the laptop, behind a password; the head will keep there what the cluster is."""
    password, address, port = secrets.token_hex(16), made.places.laptop, made.places.port(REDIS)
    options = {"port": port, "bind": address, "requirepass": password, "save": "", "dir": made.home}
    command = [text for name, value in options.items() for text in (f"--{name}", f"{value}")]
    made.head.environment = {**made.environment, "RAY_REDIS_ADDRESS": f"{address}:{port}"}
    made.head.extra = [f"--redis-password={password}"]
    return subprocess.Popen([program, *command], stdout=subprocess.DEVNULL)
