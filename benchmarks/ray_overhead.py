"""What does Ray Train cost a training in steady state, against torchrun?

    python benchmarks/ray_overhead.py --run=runs/demo --rounds=3

The same training (records, options, seed, processes, threads) by jobs/train_reward.py and by torchrun, in turn: A, B, A, B.
Compared are the pairs/s of the log's lines but the first, so that starts, prompts and validations do not count. Both must log the
same losses. Prints medians, the spread of the rounds' ratios, and the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INPUTS = ("dataset", "records", "priors", "features", "knowledge_base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="a run folder of jobs/demo.py")
    parser.add_argument("--rounds", type=int, default=3, help="of one training each")
    parser.add_argument("--epochs", type=float, default=0.15, help="length of a training")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _train(json.loads(options.worker))
        return
    from countryreward.machine import describe_machine

    found: dict[str, list[float]] = {"ray": [], "torchrun": []}
    losses: list[list[float]] = []
    for number in range(options.rounds):
        for name in found:
            with tempfile.TemporaryDirectory() as place:
                (_by_ray if name == "ray" else _by_torchrun)(options, Path(place))
                (log,) = Path(place).glob("**/log.jsonl")
                steps = [line for text in log.read_text().splitlines() if (line := json.loads(text))["kind"] == "step"]
            found[name].append(statistics.median(line["pairs_per_second"] for line in steps[1:]))
            losses.append([line["loss"] for line in steps])
            print(f"round {number + 1}: {name:<8} {found[name][-1]:.1f} pairs/s", flush=True)
    assert all(len(one) == len(losses[0]) for one in losses)
    apart = max(abs(a - b) for one in losses for a, b in zip(one, losses[0], strict=True))
    ratios = [bare / ours for bare, ours in zip(found["torchrun"], found["ray"], strict=True)]
    told = {
        "pairs_per_second": {name: statistics.median(values) for name, values in found.items()},
        "torchrun_over_ray": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "losses_apart": apart,
        "machine": describe_machine(),
    }
    print(json.dumps(told, indent=1))


def _options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "epochs": options.epochs, "validations": 1, "validation_items": 10, "log_every": 25, "checkpoint_every": 0,
        "precision": "fp32",
    }  # fmt: skip


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}


def _by_ray(options: argparse.Namespace, place: Path) -> None:
    command = [sys.executable, "jobs/train_reward.py", f"--out={place}/model", f"--runs={place}/runs", "--run-name=a"]
    command += [f"--{name}={options.run}/{name}" for name in INPUTS]
    command += [f"--loop.{name}={value}" for name, value in _options(options).items()]
    command += [f"--workers.workers={options.workers}", "--allow_collapsed=a benchmark"]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)


def _by_torchrun(options: argparse.Namespace, place: Path) -> None:
    at = {name: str(Path(options.run, name).absolute()) for name in INPUTS[:4]}
    told = json.dumps({"at": at, "folder": f"{place}/runs/a", "loop": _options(options)})
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.workers}", "--standalone"]
    command += [str(Path(__file__).absolute()), f"--worker={told}"]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)


def _train(told: dict[str, Any]) -> None:
    """One process under torchrun."""
    import torch

    from countryreward.training.config import LoopConfig, RewardTraining
    from countryreward.training.run import run_training

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    run_training(
        RewardTraining(**told["at"], loop=LoopConfig(**told["loop"])), Path(told["folder"]), tell=lambda _: None
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
