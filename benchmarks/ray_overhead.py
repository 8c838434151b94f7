"""What does Ray Train cost a training in steady state, against torchrun?

    python benchmarks/ray_overhead.py --run=runs/demo

The same training (records, options, seed, processes, threads) by jobs/train_reward.py and by torchrun. Both are started and wait
until the first lines of their logs are written; then they take turns of a few seconds: A, B, A, B. Whoever is not at work is
stopped with all its processes (SIGSTOP), Ray's own among them, so that both meet the same machine. Counted are the steps of the
logs' lines against each one's own seconds at work; starts, prompts and validations are left out. Both must log the same losses.
Prints torchrun's rate over Ray's: over all turns, and the least and largest of `--blocks` parts; the share of a processor that
each of Ray's processes took; the machine.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
INPUTS = ("dataset", "records", "priors", "features", "knowledge_base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="a run folder of jobs/demo.py")
    parser.add_argument("--turns", type=int, default=36, help="of each")
    parser.add_argument("--seconds", type=float, default=7.0, help="of a turn; Ray takes a longer silence for a death")
    parser.add_argument("--blocks", type=int, default=6, help="parts that the spread is taken over")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _train(json.loads(options.worker))
        return
    from countryreward.machine import describe_machine

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so are both trainings
    with tempfile.TemporaryDirectory() as place:
        sides = {
            "ray": _by_ray(options, Path(place, "ray")),
            "torchrun": _by_torchrun(options, Path(place, "torchrun")),
        }
        try:
            for side in sides.values():
                side.wait()
            blocks = [_block(sides, options) for _ in range(options.blocks)]
        finally:
            for side in sides.values():
                side.end()
    whole = {name: sum(block[name][0] for block in blocks) / sum(block[name][1] for block in blocks) for name in sides}
    ratios = [_rate(block["torchrun"]) / _rate(block["ray"]) for block in blocks]
    losses = [[line["loss"] for line in side.lines] for side in sides.values()]
    told = {
        "steps_per_second": whole,
        "torchrun_over_ray": {
            "whole": whole["torchrun"] / whole["ray"],
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        },
        "losses_apart": max(abs(a - b) for a, b in zip(*losses, strict=False)),
        "percent_of_a_processor": {name: side.shares() for name, side in sides.items()},
        "machine": describe_machine(),
    }
    print(json.dumps(told, indent=1))


class Side:
    """A training in processes of its own, which works in turns."""

    def __init__(self, command: list[str], place: Path) -> None:
        self.place, self.lines, self.at_work = place, [], 0.0
        self.log: Path | None = None
        self.size = 0
        self.taken: dict[str, float] = defaultdict(float)
        self.process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it trains: three lines of its log are written."""
        while len(self.read()) < 3:
            assert self.process.poll() is None, self.process.args
            time.sleep(0.2)

    def read(self) -> list[dict[str, Any]]:
        """The log's lines of steps, read anew where the log has grown."""
        self.log = self.log or next(iter(self.place.glob("**/log.jsonl")), None)
        if self.log and (size := self.log.stat().st_size) != self.size:
            self.size = size
            lines = [json.loads(text) for text in self.log.read_text().splitlines(keepends=True) if text.endswith("\n")]
            self.lines = [line for line in lines if line["kind"] == "step"]
        return self.lines

    def tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def signal(self, number: int) -> None:
        for process in self.tree():
            process.send_signal(number)

    def turn(self, seconds: float) -> list[tuple[int, float]]:
        """(step, its seconds at work when it was logged) of the lines that were written meanwhile."""
        found, before = [], _processor_seconds(self.tree())
        self.signal(signal.SIGCONT)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            time.sleep(0.02)
            known = len(self.lines)
            found += [(line["step"], self.at_work + passed) for line in self.read()[known:]]
        self.signal(signal.SIGSTOP)
        self.at_work += time.monotonic() - started
        for name, taken in _processor_seconds(self.tree()).items():
            self.taken[name] += taken - before[name]
        assert self.process.poll() is None, f"it ended: {self.process.args}"
        return found

    def shares(self) -> dict[str, float]:
        """Of a processor, in percent, by process; the largest first."""
        most = sorted(self.taken.items(), key=lambda entry: -entry[1])
        return {name: round(100 * seconds / self.at_work, 2) for name, seconds in most if seconds > 0}

    def end(self) -> None:
        processes = self.tree() if self.process.poll() is None else []
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)


def _processor_seconds(processes: list[psutil.Process]) -> dict[str, float]:
    taken: dict[str, float] = defaultdict(float)
    for process in processes:
        with process.oneshot():
            command, times = process.cmdline() or [process.name()], process.cpu_times()
        script = next((part for part in command[1:] if part.endswith(".py")), command[0])
        taken[Path(script).name.partition(".")[0].strip()] += times.user + times.system
    return taken


def _block(sides: dict[str, Side], options: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """(steps, seconds at work) of each, from its first line of these turns to its last."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in sides}
    for side in sides.values():
        side.signal(signal.SIGSTOP)
    for _ in range(options.turns // options.blocks):
        for name, side in sides.items():
            found[name] += side.turn(options.seconds)
    block = {name: (lines[-1][0] - lines[0][0], lines[-1][1] - lines[0][1]) for name, lines in found.items()}
    print(", ".join(f"{name} {_rate(counted):.3f} steps/s" for name, counted in block.items()), file=sys.stderr)
    return block


def _rate(counted: tuple[int, float]) -> float:
    return counted[0] / counted[1]


def _options() -> dict[str, Any]:
    return {
        "epochs": 50,
        "validations": 1,
        "validation_items": 10,
        "log_every": 5,
        "checkpoint_every": 0,
        "precision": "fp32",
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}


def _by_ray(options: argparse.Namespace, place: Path) -> Side:
    command = [sys.executable, "jobs/train_reward.py", f"--out={place}/model", f"--runs={place}/runs", "--run-name=a"]
    command += [f"--{name}={options.run}/{name}" for name in INPUTS]
    command += [f"--loop.{name}={value}" for name, value in _options().items()]
    return Side([*command, f"--workers.workers={options.workers}", "--allow_collapsed=a benchmark"], place)


def _by_torchrun(options: argparse.Namespace, place: Path) -> Side:
    at = {name: str(Path(options.run, name).absolute()) for name in INPUTS[:4]}
    told = json.dumps({"at": at, "folder": f"{place}/runs/a", "loop": _options()})
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.workers}", "--standalone"]
    return Side([*command, str(Path(__file__).absolute()), f"--worker={told}"], place)


def _train(told: dict[str, Any]) -> None:
    """One process under torchrun."""
    import torch

    from countryreward.training.reward_run import run_training
    from countryreward.training.training_config import LoopConfig, RewardTraining

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    run_training(
        RewardTraining(**told["at"], loop=LoopConfig(**told["loop"])), Path(told["folder"]), tell=lambda _: None
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
