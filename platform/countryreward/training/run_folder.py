"""The run folder (contract 6): everything a training writes. One process, the first, holds it.

started.json         what it is made from, and each start: time, run id, workers
log.jsonl            a line per `log_every` steps ("kind": "step"), per validation ("validation") and per resume ("resumed")
tensorboard/         the same numbers
checkpoints/         state to go on from (training/checkpoints.py); empty again when the run has finished
best/, last/         config.json, model.safetensors, processor, validation.parquet, training.json, sealed by a manifest
quarantine.jsonl     records whose prompt was refused
finished.json        written last: there is nothing left to train
dropped.json         instead of it after a sweep that kept the best trial's weights alone
stop                 put there by who wants the run to write a checkpoint and end
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countryreward.command import run_id
from countryreward.data.artifacts import Draft, as_plain, open_artifact, seal
from countryreward.data.file_primitives import FileLock, LockHeldError, read_json, write_atomically
from countryreward.errors import UserError
from countryreward.training.run_identity import RunIdentity, differences
from countryreward.training.trackers import Tracker
from countryreward.training.training_config import STOP

if TYPE_CHECKING:
    from countryreward.training.distributed import ProcessGroup

LOCK = ".lock"
STARTED = "started.json"
DROPPED = "dropped.json"
"""There when a sweep is over that has removed this trial's weights: {"ended": whether it had been trained to its end}."""
WEIGHTS = "weights"
"""Kind of the sealed folders best/ and last/."""
Tell = Callable[[dict[str, Any]], None]
"""What the first rank tells whoever watches: {"stage", "done", "total"}, the log's lines, {"kind": "said", "text"}."""


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in order. Torn ones, as a killed process leaves them, are passed over."""
    log = folder / "log.jsonl"
    lines = []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


class RunFolder:
    """Files of one run. Made by the first process only, inside `held`."""

    def __init__(self, folder: Path, tell: Tell, trackers: list[Tracker] | None = None) -> None:
        self.folder, self.tell, self.trackers = folder, tell, trackers or []

    def say(self, text: str) -> None:
        """A sentence for who watches."""
        self.tell({"kind": "said", "text": text})

    def begin(self, identity: dict[str, Any], workers: int, precision: str = "") -> None:
        """Write down this start, with as many workers."""
        starts = [
            *read_json(self.folder / STARTED).get("starts", []),
            {"time": datetime.now(UTC).isoformat(timespec="seconds"), "run_id": run_id(), "workers": workers},
        ]
        started = {"identity": as_plain(identity), "precision": precision, "starts": starts}
        (self.folder / DROPPED).unlink(missing_ok=True)
        write_atomically(self.folder / STARTED, json.dumps(started, indent=1) + "\n")

    def best_score(self) -> float | None:
        """Score of best/; None: there is none, or it is damaged, which is said."""
        if not (self.folder / "best").exists():
            return None
        try:
            best = open_artifact(self.folder / "best", kind=WEIGHTS)
        except UserError as error:
            self.say(f"best/ is refused ({error}); the next validation makes a new one")
            return None
        return json.loads((best.path / "training.json").read_text(encoding="utf-8"))["score"]

    def finished(self, identity: dict[str, Any], *, best: str = "best") -> bool:
        """Whether the run was trained to its end. Raises `UserError` if that was with another identity, or `best`/ is damaged."""
        if not (self.folder / "finished.json").is_file():
            return False
        end = json.loads((self.folder / "finished.json").read_text(encoding="utf-8"))
        unlike = differences(identity, end["identity"])
        if unlike:
            raise UserError(
                f"run_name: {self.folder} was trained to its end with {unlike}; set these back, or give the run another name"
            )
        try:
            open_artifact(self.folder / best, kind=WEIGHTS)
        except UserError as error:
            raise UserError(
                f"run_name: {self.folder} was trained to its end, but {error}; remove the folder to train again"
            ) from None
        return True

    def go_back(self, step: int) -> None:
        """Take the log back to `step`: lines after it, and a torn one, are written again by the steps to come."""
        kept = [json.dumps(line) + "\n" for line in log_lines(self.folder) if line["step"] <= step]
        if (self.folder / "log.jsonl").exists():
            write_atomically(self.folder / "log.jsonl", "".join(kept))

    def go_on(self, step: int, steps: int, workers: int) -> None:
        """Take the log back to `step`, where this start goes on; past the beginning, say so in it."""
        self.go_back(step)
        if step:
            self.line({"kind": "resumed", "step": step, "of": steps, "workers": workers, "run_id": run_id()})

    def line(self, line: dict[str, Any]) -> None:
        """One line of the log, to all who read it."""
        line = {name: None if value != value else value for name, value in line.items()}  # JSON knows no NaN
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        numbers = {
            f"{line['kind']}/{name}": float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "of")
        }
        numbers |= {f"learning_rates/{number}": rate for number, rate in enumerate(line.get("learning_rates", ()))}
        for tracker in list(self.trackers):
            try:
                tracker.log(numbers, line["step"])
            except Exception as error:  # whatever a server that is away raises; the log has every line
                self.trackers.remove(tracker)
                self.say(f"{type(tracker).__name__} failed ({error}) and gets no more lines; log.jsonl has them all")
        self.tell(line)

    def save(self, names: list[str], write: Callable[[Path], None]) -> None:
        """`best` or `last`: what `write` puts into a folder, sealed and swapped in, so none is ever half a model."""
        for name in names:
            partial, final, old = (self.folder / f"{prefix}{name}" for prefix in (".tmp-", "", ".old-"))
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            seal(Draft(partial), kind=WEIGHTS)
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                final.rename(old)
            partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)

    def recover(self) -> None:
        """A run killed between the two renames of `save` has its best/ or last/ under the old name."""
        for name in ("best", "last"):
            old = self.folder / f".old-{name}"
            if old.exists() and not (self.folder / name).exists():
                old.rename(self.folder / name)

    def finish(self, identity: dict[str, Any], facts: dict[str, Any]) -> None:
        """Say that the run has reached its end."""
        end = {"identity": as_plain(identity), "run_id": run_id(), **facts}
        write_atomically(self.folder / "finished.json", json.dumps(end, indent=2) + "\n")

    def stop_asked(self) -> bool:
        """Whether somebody wants the run to end early."""
        return (self.folder / STOP).exists()

    def close(self) -> None:
        """Flush the trackers."""
        for tracker in self.trackers:
            try:
                tracker.close()
            except Exception as error:  # as in `line`
                self.say(f"{type(tracker).__name__} could not be closed ({error}); log.jsonl has every line")


@contextlib.contextmanager
def taken_up(
    folder: Path, identity: RunIdentity, ranks: "ProcessGroup", tell: Tell, *, best: str = "best"
) -> Iterator[RunFolder | None]:
    """How every training begins: its run folder, held by the first process for the length of a `with` block that all processes
    enter; None: the run was trained to its end before, and left `best`/.

    tell: hears the first process alone. Raises `UserError` on every process where another training holds the folder, or the run
    was trained to its end with another identity. A `Diverged` that leaves the block also says where the last good checkpoint is.
    """
    from countryreward.training.divergence import Diverged, last_checkpoint

    run = RunFolder(folder, tell if ranks.first else _silent)
    with contextlib.ExitStack() as stack:
        refusal, finished = None, False
        if ranks.first:
            try:
                stack.enter_context(held(folder))
                run.recover()
                finished = run.finished(identity.made_from, best=best)
            except UserError as error:
                refusal = str(error)
        ranks.agree(refusal)
        if ranks.first_of(finished):
            yield None
            return
        try:
            yield run
        except Diverged as error:
            raise Diverged(f"{error}; {last_checkpoint(folder / 'checkpoints')}") from None


def _silent(_: dict[str, Any]) -> None:
    """Processes other than the first tell nothing."""


@contextlib.contextmanager
def held(folder: Path, *, patience: float = 60.0) -> Iterator[None]:
    """Keep other processes from training in the same run folder. Raises `UserError` when one does for longer than `patience` s.

    The lock falls with the process that holds it, so a killed run leaves nothing to clear away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock.take(folder / LOCK, wait_s=patience, signed=True)
    except LockHeldError as error:
        raise UserError(
            f"run_name: {folder} is being trained by process {error.holder or 'unknown'}; wait for it, end it, or give this run "
            "another name"
        ) from None
    with lock:
        yield
