"""Where a run's numbers go beside its log: terminal and TensorBoard always, MLflow and Weights & Biases on demand (extras)."""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from countryreward.data.file_primitives import read_json, write_atomically
from countryreward.errors import UserError
from countryreward.progress import bar
from countryreward.training.run_identity import flat

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
        """Numbers of one optimizer step."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and end."""
        self._board.close()


class MLflow:
    """A run of the server in MLFLOW_TRACKING_URI (else MLflow's own default); a resumed training goes on in the same run."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import mlflow

        earlier = read_json(folder / "mlflow.json").get("run")
        mlflow.set_experiment("countryreward")
        self._run = mlflow.start_run(run_id=earlier, run_name=folder.name)
        if earlier is None:
            mlflow.log_params({name: str(value)[:500] for name, value in flat(options).items()})
            write_atomically(folder / "mlflow.json", json.dumps({"run": self._run.info.run_id}))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Numbers of one optimizer step."""
        import mlflow

        mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """Flush and end."""
        import mlflow

        mlflow.end_run()


class WandB:
    """A run of the project in WANDB_PROJECT (default: countryreward), offline with WANDB_MODE=offline; resumed under one id."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import os

        import wandb

        earlier = read_json(folder / "wandb.json").get("run")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "countryreward"),
            name=folder.name,
            id=earlier,
            resume="allow",
            dir=str(folder),
            config=flat(options),
        )
        if earlier is None:
            write_atomically(folder / "wandb.json", json.dumps({"run": self._run.id}))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Numbers of one optimizer step."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Flush and end."""
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


@contextlib.contextmanager
def console() -> Iterator[Callable[[dict[str, Any]], None]]:
    """What a training tells, shown to who waits for it: `with console() as watch: watch(message)`.

    Bars with time left, one per stage in the order in which stages speak first, and lines of the log.
    """
    with contextlib.ExitStack() as stack:
        stages: dict[str, Callable[[int, int], None]] = {}

        def watch(message: dict[str, Any]) -> None:
            stage = message.get("stage")
            if stage is not None:
                if stage not in stages:
                    stack.close()  # the stage before is over
                    stages[stage] = stack.enter_context(bar(stage))
                stages[stage](message["done"], message["total"])
            elif message["kind"] == "said":
                print(f"  {message['text']}")
            elif message["kind"] == "resumed":
                print(f"  going on from the checkpoint at step {message['step']:,} of {message['of']:,}")
            elif message["kind"] == "validation":
                shown = ("discordant_ordering", "accuracy", "log_loss")
                parts = [
                    f"{name.replace('_', ' ')} {'none' if message[name] is None else format(message[name], '.3f')}"
                    for name in shown
                ]
                print(f"  validation at step {message['step']:,}: {', '.join(parts)}")
            elif message["kind"] == "trial":
                print(f"  trial {message['name']}: {message['score']:.3f} at step {message['step']:,}")
            elif message["kind"] == "writer":
                gain = message.get("rewards_accuracies")
                gained = "" if gain is None else f", chosen likelier than before {gain:.0%} of pairs"
                print(f"  step {message['step']:>5,} of {message['of']:,}: loss {message['loss']:.3f}{gained}")
            else:
                ratio = message["penalty_to_bce_gradient"]
                print(
                    f"  step {message['step']:>5,} of {message['of']:,}: loss {message['loss']:.3f}, penalty "
                    f"{message['penalty']:.3f} (gradient {'unknown' if ratio is None else f'{ratio:.1%}'} of BCE's), "
                    f"{message['pairs_per_second']:.0f} pairs/s"
                )

        yield watch
