"""What lies in a folder of runs: trainings, with how far they are and how good, and published artifacts, with what made them."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import MANIFEST, read_manifest
from countryreward.errors import UserError
from countryreward.training.run_folder import DROPPED, STARTED, read_json
from countryreward.training.training_config import STOP

STORED = ".versions"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the list."""

    path: str
    """Below the folder that was listed."""
    kind: str
    """training, or the kind of the artifact."""
    status: str
    """running, stopping, stopped, finished, weights dropped (after a sweep); published, damaged."""
    metric: str
    """The best discordant ordering of a reward's training, the last loss of a writer's; what a model or sweep says of itself."""
    when: str
    """UTC: when it was published, or last heard of."""
    node_hours: float | None
    """Hours from each start to the next, or to the last sign of life (pauses included), times the workers of that start; of an
    artifact, of its making."""
    version: str
    """Of an artifact; of a training the name of its folder."""
    made_from: dict[str, str]
    """Lineage: input -> version."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def list_runs(root: Path) -> list[Listed]:
    """Everything below `root`, newest first. Raises `UserError` where there is no such folder. Reads, and changes nothing."""
    if not root.is_dir():
        raise UserError(f"runs: {root} is no folder; give the one that jobs write to, such as runs")
    found = [listed for path in _places(root) if (listed := _listed(path, root)) is not None]
    return sorted(found, key=lambda one: (one.when, one.path), reverse=True)


def _places(folder: Path) -> Iterator[Path]:
    """Trainings and artifacts, none of which is looked into."""
    for path in sorted(folder.iterdir()):
        if path.name == STORED or not path.is_dir():
            continue
        if (path / MANIFEST).is_file() or is_training(path):
            yield path
        elif not path.is_symlink() and not path.name.startswith("."):
            yield from _places(path)


def is_training(folder: Path) -> bool:
    """Whether it is a run folder."""
    return (folder / "log.jsonl").is_file() or (folder / ".lock").is_file()


def _listed(path: Path, root: Path) -> Listed | None:
    name = str(path.relative_to(root))
    return _artifact(path, name) if (path / MANIFEST).is_file() else _training(path, name)


def _artifact(path: Path, name: str) -> Listed:
    try:
        made = read_manifest(path)
    except UserError as error:
        return Listed(
            path=name, kind="?", status="damaged", metric=str(error), when=_time(path / MANIFEST), node_hours=None,
            version="", made_from={},
        )  # fmt: skip
    return Listed(
        path=name,
        kind=made.kind,
        status="published",
        metric=_said(path, made.kind),
        when=made.created[:19],
        node_hours=round(made.seconds * _workers(made.config) / 3600, 3),
        version=made.version,
        made_from={key: told["version"] for key, told in made.inputs.items()},
    )


def _workers(config: Any) -> int:
    workers = config.get("workers", 1) if isinstance(config, Mapping) else 1
    return workers if isinstance(workers, int) else 1


def _said(path: Path, kind: str) -> str:
    """The number that an artifact is known by."""
    if kind == "model":
        told = read_json(path / "training.json").get("validation", {})
        ordering = told.get("discordant_ordering")
        return "" if ordering is None else f"ordering {ordering:.3f}"
    if kind == "sweep":
        told = read_json(path / "report.json")
        best = next((trial for trial in told.get("trials", ()) if trial["name"] == told.get("best")), None)
        return "" if best is None else f"best {best[told['metric']]['value']:.3f} of {len(told['trials'])}"
    return ""


def status_of(run: Path) -> str:
    """Of a training, by its folder."""
    if _held(run / ".lock"):
        return "stopping" if (run / STOP).exists() else "running"
    if read_json(run / "finished.json"):
        return "finished"
    return "weights dropped" if (run / DROPPED).exists() else "stopped"


def _training(path: Path, name: str) -> Listed:
    lines = _lines(path / "log.jsonl")
    started = read_json(path / STARTED)
    status = status_of(path)
    times = [file.stat().st_mtime for file in path.iterdir() if file.is_file()]
    identity = started.get("identity", {})
    steps = next((line for line in reversed(lines) if "of" in line), None)
    far = ""
    if steps is not None and status not in ("finished", "weights dropped"):
        far = f", step {steps['step']:,} of {steps['of']:,}"
    return Listed(
        path=name,
        kind="training",
        status=status,
        metric=_best(lines) + far,
        when=datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%dT%H:%M:%S") if times else "",
        node_hours=_node_hours(started.get("starts", []), max(times, default=0.0)),
        version=path.name,
        made_from={key: value for key, value in identity.items() if isinstance(value, str) and len(value) == 16},
    )


def _node_hours(starts: list[dict[str, Any]], last: float) -> float | None:
    if not starts:
        return None
    times = [datetime.fromisoformat(start["time"]).timestamp() for start in starts]
    ends = [*times[1:], max(last, times[-1])]
    spent = sum((end - time) * start["workers"] for start, time, end in zip(starts, times, ends, strict=True))
    return round(spent / 3600, 3)


def _best(lines: list[dict[str, Any]]) -> str:
    orderings = [line["discordant_ordering"] for line in lines if line.get("discordant_ordering") is not None]
    if orderings:
        return f"ordering {max(orderings):.3f}"
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    return f"loss {losses[-1]:.3f}" if losses else ""


def _held(lock: Path) -> bool:
    """Whether a process holds the lock of a run folder (`training.run_folder.held`)."""
    if not lock.exists():
        return False
    with open(lock, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _lines(log: Path) -> list[dict[str, Any]]:
    found = []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        try:
            found.append(json.loads(text))
        except ValueError:  # a torn last line
            continue
    return found


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S")
