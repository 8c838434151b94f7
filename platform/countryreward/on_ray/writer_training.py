"""A design writer's training as a Ray Train job: every worker runs `training.writer_run.run_writer_training`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from countryreward.on_ray.ray_config import WorkersConfig
from countryreward.on_ray.training import Watch, Worker, train_workers
from countryreward.training.writer_training_config import WriterLoop, WriterTraining


def train_writer_on_ray(
    job: WriterTraining, folder: Path, workers: WorkersConfig, identity: dict[str, Any], *, watch: Watch
) -> None:
    """Train and leave the writer's weights in last/ of `folder`. See `train_workers`."""
    plain = asdict(job)
    for name in ("rows", "pictures", "dataset", "writer", "backbone"):
        if plain[name] and (name != "backbone" or Path(plain[name]).exists()):
            plain[name] = str(Path(plain[name]).absolute())
    train_workers(_work, plain, folder, workers, identity, watch=watch, best="last")


def _work(job: dict[str, Any], worker: Worker) -> None:
    from countryreward.models.reward_config import LoraOptions
    from countryreward.training.reward_run import RunIdentity
    from countryreward.training.writer_run import run_writer_training

    parts = {"lora": LoraOptions(**job["lora"]), "loop": WriterLoop(**job["loop"])}
    run_writer_training(
        WriterTraining(**job | parts),
        worker.folder,
        device=worker.device,
        tell=worker.tell,
        identity=RunIdentity(**worker.identity),
    )
