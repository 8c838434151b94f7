"""Reward training as a Ray Train job: every worker runs `training.run.run_training`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from countryreward.on_ray.ray_config import ElasticWorkersConfig
from countryreward.on_ray.training import Watch, Worker, train_workers
from countryreward.training.training_config import PATHS, LoopConfig, RewardTraining


def train_on_ray(
    job: RewardTraining, folder: Path, workers: ElasticWorkersConfig, identity: dict[str, Any], *, watch: Watch
) -> None:
    """Train and leave best/ and last/ in `folder`. See `train_workers`."""
    train_workers(_work, asdict(job) | absolute(job), folder, workers, identity, watch=watch)


def absolute(job: RewardTraining) -> dict[str, str]:
    """Its local paths made absolute: workers run in a folder of their own."""
    paths = {name: getattr(job, name) for name in (*PATHS, "backbone")}
    local = {name: path for name, path in paths.items() if path and (name != "backbone" or Path(path).exists())}
    return {name: str(Path(path).absolute()) for name, path in local.items()}


def _work(job: dict[str, Any], worker: Worker) -> None:
    from countryreward.training.reward_run import RunIdentity, run_training

    run_training(
        rebuild(job),
        worker.folder,
        device=worker.device,
        tell=worker.tell,
        identity=RunIdentity(**worker.identity),
        workers=worker.planned,
        warned=worker.warned,
    )


def rebuild(job: dict[str, Any]) -> RewardTraining:
    """A RewardTraining from its plain form."""
    from countryreward.models.reward_config import LoraOptions, RewardOptions

    parts = {"reward": RewardOptions, "loop": LoopConfig, "lora": LoraOptions}
    return RewardTraining(**job | {name: make(**job[name]) for name, make in parts.items()})
