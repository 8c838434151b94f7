"""Reward training as a Ray Train job: one process per worker, each runs `training.run.run_training`."""

import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from countryreward.errors import UserError
from countryreward.on_ray.config import WorkersConfig
from countryreward.training.config import LoopConfig, RewardTraining


def train_on_ray(
    job: RewardTraining, folder: Path, workers: WorkersConfig, *, watch: Callable[[dict[str, Any]], None]
) -> None:
    """Train and leave best/ and last/ in `folder`, which every worker must be able to reach (a shared disk on a cluster).

    watch: gets what the first worker tells, in the caller's process. Raises `UserError` where a worker met a user's error.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    messages = Queue(actor_options={"num_cpus": 0})
    watching = threading.Thread(target=_watch, args=(messages, watch), daemon=True)
    watching.start()
    use_gpu = workers.gpus_per_worker > 0
    each = {"CPU": workers.cpus_per_worker} | ({"GPU": workers.gpus_per_worker} if use_gpu else {})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "job": asdict(job) | _absolute(job),
            "folder": str(folder.absolute()),
            "messages": messages,
            "threads": max(1, int(workers.cpus_per_worker)),
        },
        scaling_config=ScalingConfig(num_workers=workers.workers, use_gpu=use_gpu, resources_per_worker=each),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str((folder.parent / ".ray").absolute()),
            failure_config=FailureConfig(max_failures=0),
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _users(error) or error from None
    finally:
        messages.put(None)
        watching.join(timeout=30)
        messages.shutdown()


def _absolute(job: RewardTraining) -> dict[str, str]:
    """Its local paths made absolute: workers run in a folder of their own."""
    paths = {name: getattr(job, name) for name in ("dataset", "records", "priors", "features", "backbone")}
    local = {name: path for name, path in paths.items() if path and (name != "backbone" or Path(path).exists())}
    return {name: str(Path(path).absolute()) for name, path in local.items()}


def _worker(config: dict[str, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = str(config["threads"])
    import torch
    from ray import train
    from ray.train.torch import get_device

    from countryreward.training.run import run_training

    torch.set_num_threads(config["threads"])
    messages, told = config["messages"], 0.0

    def tell(message: dict[str, Any]) -> None:
        nonlocal told
        import time

        now = time.monotonic()
        if "stage" not in message or now - told > 0.5 or message["done"] == message["total"]:
            told = now
            messages.put_nowait(message)

    job = config["job"]
    run_training(rebuild(job), Path(config["folder"]), device=get_device(), tell=tell)
    train.report({"done": 1})


def rebuild(job: dict[str, Any]) -> RewardTraining:
    """A RewardTraining from its plain form."""
    from countryreward.models.reward_config import RewardOptions

    return RewardTraining(**job | {"reward": RewardOptions(**job["reward"]), "loop": LoopConfig(**job["loop"])})


def _watch(messages: Any, watch: Callable[[dict[str, Any]], None]) -> None:
    while (message := messages.get()) is not None:
        watch(message)


def _users(error: BaseException) -> UserError | None:
    """The user's error behind a failed training, if it was one."""
    causes = [*getattr(error, "worker_failures", {}).values(), error.__cause__]
    for cause in causes:
        while cause is not None:
            if isinstance(cause, UserError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return None
