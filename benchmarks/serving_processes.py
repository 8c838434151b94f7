"""Starting and ending the servers that benchmarks/serving.py compares."""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
from serving_questions import service_key


class Servers:
    """Processes of serving_servers.py, ended with everything they started."""

    def __init__(self, model: str, threads: int, port: int, folder: Path, emulated_ms: float = 0.0) -> None:
        self.model, self.threads, self.port, self.folder, self.emulated_ms = model, threads, port, folder, emulated_ms
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            end(process)

    def start(self, name: str, workers: int = 1) -> str:
        """Start one and wait until it answers; its URL. name: ours, litserve or unbatched."""
        state = self.folder / "state"
        service_key(state)
        port = self.port + len(self.processes)
        command = [sys.executable, str(Path(__file__).with_name("serving_servers.py")), name]
        command += [f"--model={self.model}", f"--port={port}", f"--workers={workers}", f"--state={state}"]
        command += [f"--threads={self.threads}", f"--emulated-ms={self.emulated_ms}"]
        log = self.folder / f"{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self.processes.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(name, url, log), process, log)
        return url

    def stop(self) -> None:
        """End the last one."""
        end(self.processes[-1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it and, where that takes too long, kill it and its children."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
    psutil.wait_procs(family, timeout=5)
    for child in family:  # LitServe leaves its workers
        if child.is_running():
            child.kill()


def answers(name: str, url: str, log: Path) -> bool:
    """Whether all its workers do. Ours says so once every replica is ready; LitServe's /health knows of all workers."""
    if name == "ours":
        return "Ctrl-C ends it" in log.read_text(errors="replace")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_for(done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 180
    while not done():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"a server did not start:\n{log.read_text(errors='replace')[-3_000:]}")
        time.sleep(0.2)


def idle_share(process: subprocess.Popen[bytes]) -> float:
    """Cores that a server and all it started use while nobody asks."""

    def spent() -> float:
        parent = psutil.Process(process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))

    before = spent()
    time.sleep(3)
    return round((spent() - before) / 3, 3)
