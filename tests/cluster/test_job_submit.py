"""`ray job submit -- python jobs/train_reward.py` against a head with token authentication, stopped and submitted again."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster.demo_run import Run
from tests.cluster.kill_run import DDP, ROOT, SHORT, UNJUDGED, Training, environment

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A running head node: what a client needs to reach it."""

    address: str
    environment: dict[str, str]
    home: Path

    def ray(self, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in self.environment.items() if token or not name.startswith("RAY_AUTH")}
        return subprocess.run([RAY, *arguments], cwd=ROOT, env=known, capture_output=True, text=True, timeout=240)

    def submit(self, job: str, *arguments: str, wait: bool = True, token: bool = True) -> str:
        options = ["--address", self.address, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml"]
        options += ["--submission-id", job] + ([] if wait else ["--no-wait"])
        done = self.ray("job", "submit", *options, "--", *arguments, token=token)
        return done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


@pytest.fixture(scope="module")
def head(demo: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    (home / "token").write_text(secrets.token_hex(32))
    names = (
        "port", "dashboard-port", "node-manager-port", "object-manager-port", "metrics-export-port", "ray-client-server-port",
        "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
    )  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    known = environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "COUNTRYREWARD_HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # an activated environment
    }
    del known["PYTHONPATH"]  # the code comes with the job
    with tempfile.TemporaryDirectory(prefix="cr-head-", ignore_cleanup_errors=True) as folder:
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--temp-dir={folder}",
            "--node-ip-address=127.0.0.1",
        ]
        command += ["--dashboard-host=127.0.0.1", "--object-store-memory=268435456"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        with open(home / "head.txt", "w") as output:
            process = subprocess.Popen(command, env=known, cwd=home, stdout=output, stderr=subprocess.STDOUT)
        try:
            made = Head(f"http://127.0.0.1:{ports['dashboard-port']}", known, home)
            until = time.monotonic() + 120
            while made.ray("job", "list", "--address", made.address).returncode:
                assert process.poll() is None, (home / "head.txt").read_text()
                assert time.monotonic() < until, (home / "head.txt").read_text()
                time.sleep(0.5)
            yield made
        finally:
            ours = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in ours:
                one.terminate()
            for one in psutil.wait_procs(ours, timeout=3)[1]:
                one.kill()


def job_options(demo: Run, training: Training) -> list[str]:
    at = [f"--{name}={demo.folder / name}" for name in ("dataset", "records", "priors", "features", "knowledge_base")]
    # Relative paths: taken from COUNTRYREWARD_HOME.
    return ["python", "jobs/train_reward.py", f"--run-name={training.name}", "--runs=runs", "--out=runs/model", *at]


def test_without_the_token_nothing_is_taken(head: Head):
    said = head.submit("refused", "python", "-c", "print('ran')", token=False)
    assert "ran" not in said.splitlines()
    assert "401" in said or "auth" in said.lower()
    assert "refused" not in head.ray("job", "list", "--address", head.address).stdout


def test_a_submitted_training_is_stopped_and_goes_on(head: Head, demo: Run):
    training = Training(demo.folder, head.home / "runs", "submitted")
    command = [*job_options(demo, training), *SHORT, *DDP, UNJUDGED, "--loop.epochs=0.2", "--ray.address=auto"]
    head.submit("first", *command, wait=False)
    until = time.monotonic() + 240
    while training.step() < 3:
        status = head.ray("job", "status", "--address", head.address, "first").stdout
        logs = head.ray("job", "logs", "--address", head.address, "first").stdout[-3000:] if "failed" in status else ""
        assert not logs, logs
        assert time.monotonic() < until, head.ray("job", "logs", "--address", head.address, "first").stdout[-3000:]
        time.sleep(0.1)
    stopped = head.ray("job", "stop", "--address", head.address, "first")
    assert "was stopped" in stopped.stdout + stopped.stderr
    checkpoint = max((training.folder / "checkpoints").glob("step-*"))
    assert int(checkpoint.name[-8:]) == training.step()
    assert not (head.home / "runs" / "model").exists()
    said = head.submit("second", *command)
    assert "succeeded" in said, said[-3000:]
    assert training.resumes() == [int(checkpoint.name[-8:])]
    assert (head.home / "runs" / "model" / "model.safetensors").is_file()


def test_what_is_uploaded_is_small_and_holds_no_runs(demo: Run):
    kept = (ROOT / ".rayignore").read_text()
    assert {"runs/", ".venv/", ".git/", "tests/"} <= set(kept.splitlines())
    told = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    assert told["env_vars"]["PYTHONPATH"] == "platform:."
    assert all(os.path.isdir(ROOT / folder) for folder in told["env_vars"]["PYTHONPATH"].split(":"))
