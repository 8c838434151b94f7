"""A real service for the torture: jobs/serve.py as its users start it, and what its replicas cost."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from countryreward.serving.http.keys import FILE, KeyStore
from tests.cluster.kill_run import ROOT, all_gone, environment


@dataclass
class Served:
    """A service that runs."""

    port: int
    state: Path
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self) -> KeyStore:
        return KeyStore(self.state / FILE, poll_s=0)

    def key(self, *scopes: str, tenant: str = "acme") -> str:
        """A key that may ask without end; replicas know it after a moment."""
        key = self.keys.create(tenant, scopes or ("score", "batch", "metrics"), "1000000/second")
        time.sleep(2.5)
        return key

    def actors(self, name: str) -> list[psutil.Process]:
        """Ray's processes of this service whose title begins so."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "".join(child.cmdline()[:1]).startswith(f"ray::{name}"):
                    found.append(child)
        return found

    def replicas(self) -> dict[int, float]:
        """Process id -> when it started."""
        return {one.pid: one.create_time() for one in self.actors("ServeReplica")}


@contextlib.contextmanager
def serving(model: Path, folder: Path, *options: str) -> Iterator[Served]:
    """Two replicas on a free port, with a state of their own, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = folder / "serve.txt"
    command = [
        sys.executable,
        "jobs/serve.py",
        f"--model={model}",
        f"--port={port}",
        "--replicas=2",
        "--max_replicas=2",
    ]
    command += [f"--service.state={folder / 'state'}", "--ray.cpus=2", *options]
    with open(said, "w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        until = time.monotonic() + 180
        while " answers; " not in said.read_text():
            assert process.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < until, said.read_text()[-3000:]
            time.sleep(0.2)
        yield Served(port, folder / "state", process)
    finally:
        with all_gone(process) if process.poll() is None else contextlib.nullcontext():
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


@dataclass
class Memory:
    """RSS of some processes over the time of a block, in bytes, 20 times a second."""

    processes: list[psutil.Process]
    start: dict[int, int] = field(default_factory=dict)
    peak: dict[int, int] = field(default_factory=dict)
    end: dict[int, int] = field(default_factory=dict)

    def now(self) -> dict[int, int]:
        return {one.pid: one.memory_info().rss for one in self.processes}

    def rise(self, which: str) -> list[float]:
        """Of each process, MB."""
        return [round((getattr(self, which)[pid] - self.start[pid]) / 1e6, 1) for pid in self.start]


@contextlib.contextmanager
def memory(processes: list[psutil.Process]) -> Iterator[Memory]:
    watched, done = Memory(processes), threading.Event()
    watched.start = watched.now()
    watched.peak = dict(watched.start)

    def watch() -> None:
        while not done.wait(0.05):
            for pid, rss in watched.now().items():
                watched.peak[pid] = max(watched.peak[pid], rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield watched
    finally:
        done.set()
        thread.join()
        watched.end = watched.now()
