"""Starting `jobs/train_reward.py` as its users do, and killing it: used by the tests and by tests/torture."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
DDP = ["--loop.engine=torch", "--loop.precision=fp32"]
ZERO2 = ["--loop.engine=deepspeed", "--loop.zero_stage=2", "--loop.precision=fp32"]
SHORT = [
    "--loop.batch_size=4", "--loop.validations=2", "--loop.validation_items=6", "--loop.log_every=1",
    "--loop.checkpoint_every=6", "--lora.rank=4", "--lora.dropout=0.1", "--workers.retries=-1", "--ray.cpus=2",
]  # fmt: skip
"""Dropout, so that the random generators of every rank must be right, too."""

UNJUDGED = "--allow_collapsed=a test's model: a few steps of training say nothing of its answers"
"""So few steps may well leave one verdict for all markets; what is tested is not what the model has learned."""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    return {**kept, "PYTHONPATH": str(ROOT / "platform")}


@dataclass
class Training:
    """One run of the training job in the folder of a demo run: its run folder is `runs`/`name`."""

    demo: Path
    runs: Path
    name: str
    options: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    def start(self) -> subprocess.Popen[str]:
        at = {name: f"{self.demo / name}" for name in ("dataset", "records", "priors", "features", "knowledge_base")}
        command = [sys.executable, "jobs/train_reward.py", f"--run-name={self.name}", f"--runs={self.runs}"]
        command += [f"--{name}={path}" for name, path in at.items()]
        command += [f"--out={self.runs}/{self.name}-model", UNJUDGED, *self.options]
        self.runs.mkdir(parents=True, exist_ok=True)
        # A group of its own, so that what a killed driver leaves can be told from everything else.
        with open(self.runs / f"{self.name}.txt", "a") as output:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True
            )

    def said(self) -> str:
        return (self.runs / f"{self.name}.txt").read_text()

    def finish(self, process: subprocess.Popen[str], timeout: float = 300) -> None:
        code = process.wait(timeout)
        assert code == 0, f"exit code {code}\n{self.said()[-3000:]}"

    def run(self) -> "Training":
        self.finish(self.start())
        return self

    def lines(self) -> list[dict]:
        """The log; a line that is being written is left out."""
        found = []
        with contextlib.suppress(OSError):
            for line in (self.folder / "log.jsonl").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def step(self) -> int:
        return max((line["step"] for line in self.lines() if line["kind"] == "step"), default=0)

    def resumes(self) -> list[int]:
        """Steps of the checkpoints it went on from. The log is taken back at each, so only the last is in it."""
        return [line["step"] for line in self.lines() if line["kind"] == "resumed"]

    def weights(self, which: str = "last") -> str:
        """SHA-256 of the trained weights."""
        return hashlib.sha256((self.folder / which / "model.safetensors").read_bytes()).hexdigest()

    def went_on(self) -> int:
        """How often it has gone on from a checkpoint."""
        return self.said().count("going on from the checkpoint")

    def wait_to_go_on(self, before: int, process: subprocess.Popen[str], timeout: float = 300) -> int:
        """Until it has gone on once more than `before` times. Returns the step of that checkpoint."""
        until = time.monotonic() + timeout
        while self.went_on() == before:
            assert process.poll() is None, f"ended\n{self.said()[-3000:]}"
            assert time.monotonic() < until, f"did not go on\n{self.said()[-3000:]}"
            time.sleep(0.02)
        return self.resumes()[-1]

    def wait_for(self, step: int, process: subprocess.Popen[str], timeout: float = 300) -> None:
        until = time.monotonic() + timeout
        while self.step() < step:
            assert process.poll() is None, f"ended before step {step}\n{self.said()[-3000:]}"
            assert time.monotonic() < until, f"no step {step} in {timeout} s\n{self.said()[-3000:]}"
            time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training workers among the descendants of a driver: nobody else's processes are touched."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "RayTrainWorker" in " ".join(child.cmdline()):
                    found.append(child)
    return found


@contextlib.contextmanager
def all_gone(process: subprocess.Popen[str]) -> Iterator[list[psutil.Process]]:
    """What descends from a driver now is waited for, or ended, at the end of the block."""
    children = psutil.Process(process.pid).children(recursive=True)
    yield children
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
