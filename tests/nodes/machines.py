"""Machines with addresses of their own on this one: network namespaces on a bridge, each with a Ray node. Linux, root, iproute2.

The test is the laptop at 10.231.77.1; the head is 10.231.77.10, workers .11, .12, ... They share this disk, as a cluster
shares its network disk. Processors are a promise to Ray: all share those of this machine.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
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

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "platform"), str(ROOT / "jobs")])
"""Of programs that use the tests' modules."""
BIN = Path(sys.executable).parent
BRIDGE, NET, LAPTOP = "crbr0", "10.231.77", "10.231.77.1"
GCS, DASHBOARD, REDIS = 6379, 8265, 6390


def ip(*arguments: str, check: bool = True) -> None:
    """Run `ip` of iproute2."""
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def why_not() -> str:
    """Why machines cannot be made here; empty: they can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "network namespaces need Linux and iproute2 (apt-get install iproute2)"
    made = subprocess.run(["ip", "netns", "add", "cr-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "cr-probe"], capture_output=True)
    return f"network namespaces need root: {made.stderr.strip()}" if made.returncode else ""


@dataclass
class Machine:
    """One network namespace; `start` runs a Ray node in it, which a supervisor starts again when it ends by itself."""

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
        """Of namespace and link."""
        return f"cr{self.number}"

    @property
    def address(self) -> str:
        """In the cluster's network."""
        return f"{NET}.{9 + self.number}"

    def link(self) -> None:
        """Make the namespace and plug it in."""
        ip("netns", "del", self.name, check=False)
        ip("link", "del", f"{self.name}v", check=False)
        etc = Path("/etc/netns") / self.name
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name} {socket.gethostname()}\n")
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}v", "master", BRIDGE, "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            ip("-n", self.name, *command)

    def unlink(self) -> None:
        """Take both away."""
        ip("link", "del", f"{self.name}v", check=False)
        ip("netns", "del", self.name, check=False)
        shutil.rmtree(Path("/etc/netns") / self.name, ignore_errors=True)

    def spawn(self, *command: str, output: Path) -> subprocess.Popen[bytes]:
        """A command on this machine that goes on beside; what it says goes to a file."""
        with open(output, "w") as said:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command], env=self.environment | {"PYTHONPATH": PATHS}, cwd=ROOT, stdout=said,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command on this machine."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command], env=self.environment, cwd=self.home, text=True,
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
        where = ["--head", f"--port={GCS}", f"--dashboard-host={self.address}", f"--dashboard-port={DASHBOARD}"]
        if self.number > 1:
            where = [f"--address={NET}.10:{GCS}"]
        command = [
            "ip", "netns", "exec", self.name, str(BIN / "ray"), "start", "--block", *where, f"--temp-dir={folder}",
            f"--node-ip-address={self.address}", f"--num-cpus={self.cpus}", "--object-store-memory=200000000",
            "--disable-usage-stats", f"--labels=machine={self.name}", *self.extra,
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
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        return [int(one) for one in found.split()]

    def _sweep(self) -> None:
        for one in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def kill(self) -> None:
        """The power fails: every process ends at once, nobody is told, nothing is started again until `start`."""
        self.wanted = False
        ip("link", "set", f"{self.name}v", "down", check=False)
        self._sweep()
        if self.process:
            self.process.wait()
        ip("link", "set", f"{self.name}v", "up", check=False)

    def cut(self) -> None:
        """The cable is pulled: no packet passes, and nobody says so."""
        ip("link", "set", f"{self.name}v", "down")

    def mend(self) -> None:
        """And plugged in again."""
        ip("link", "set", f"{self.name}v", "up")


@dataclass
class Cluster:
    """A head and its workers."""

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
        return f"http://{self.head.address}:{DASHBOARD}"

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
            f"import ray; ray.init('{self.head.address}:{GCS}', logging_level='ERROR');"
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
    cpus: list[int], *, environment: dict[str, str] | None = None, redis: str | None = None
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
        "GLOO_SOCKET_IFNAME": "eth0",
        "COUNTRYREWARD_HOME": str(home),
        **(environment or {}),
    }
    known.pop("PYTHONPATH", None)
    known["CLUSTER_ADDRESS"] = f"{NET}.10:{GCS}"
    machines = [Machine(number, count, home, known) for number, count in enumerate(cpus, 1)]
    ip("link", "del", BRIDGE, check=False)
    ip("link", "add", BRIDGE, "type", "bridge")
    made = Cluster(home, machines, known, redis is not None)
    store = None
    try:
        ip("addr", "add", f"{LAPTOP}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        if redis:
            password = secrets.token_hex(16)
            options = [
                "--port",
                f"{REDIS}",
                "--bind",
                LAPTOP,
                "--requirepass",
                password,
                "--save",
                "",
                "--dir",
                f"{home}",
            ]
            store = subprocess.Popen([redis, *options], stdout=subprocess.DEVNULL)
            machines[0].environment = {**known, "RAY_REDIS_ADDRESS": f"{LAPTOP}:{REDIS}"}
            machines[0].extra = [f"--redis-password={password}"]
        for machine in machines:
            machine.link()
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
            machine.unlink()
        if store:
            store.kill()
            store.wait()
        ip("link", "del", BRIDGE, check=False)
        shutil.rmtree(home, ignore_errors=True)
