"""Where a run's numbers go beside its log: TensorBoard always, MLflow and Weights & Biases when asked for (extras)."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Protocol

from countryreward.data.artifacts import write_atomically
from countryreward.errors import UserError
from countryreward.training.checkpoints import flat

TRACKERS = ("mlflow", "wandb")


class Tracker(Protocol):
    """Takes numbers by step."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Numbers of one optimizer step."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class TensorBoard:
    """`tensorboard --logdir <run folder>`."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: where the run goes on; what was logged after it is not shown any more."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._board.close()


class MLflow:
    """A run of the server in MLFLOW_TRACKING_URI (else MLflow's own default); a resumed training goes on in the same run."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import mlflow

        known = _remembered(folder / "mlflow.json")
        mlflow.set_experiment("countryreward")
        self._run = mlflow.start_run(run_id=known, run_name=folder.name)
        if known is None:
            mlflow.log_params({name: str(value)[:500] for name, value in flat(options).items()})
            write_atomically(folder / "mlflow.json", json.dumps({"run": self._run.info.run_id}))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.end_run()


class WandB:
    """A run of the project in WANDB_PROJECT (default: countryreward), offline with WANDB_MODE=offline; resumed under one id."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import os

        import wandb

        known = _remembered(folder / "wandb.json")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "countryreward"),
            name=folder.name,
            id=known,
            resume="allow",
            dir=str(folder),
            config=flat(options),
        )
        if known is None:
            write_atomically(folder / "wandb.json", json.dumps({"run": self._run.id}))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def check_trackers(names: list[str]) -> None:
    """Raises `UserError` for a tracker that is unknown or not installed: before the training, not at its first line."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"trackers: {name!r} is unknown; write {' or '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trackers: {name} is not installed; pip install 'countryreward[{name}]'")


def open_trackers(names: list[str], folder: Path, options: dict[str, Any], step: int) -> list[Tracker]:
    """TensorBoard and those named. step: where the run goes on."""
    check_trackers(names)
    makers: dict[str, Any] = {"mlflow": MLflow, "wandb": WandB}
    return [TensorBoard(folder, step), *(makers[name](folder, options) for name in names)]


def _remembered(path: Path) -> str | None:
    return json.loads(path.read_text(encoding="utf-8"))["run"] if path.exists() else None
