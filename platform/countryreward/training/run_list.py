"""What lies in a folder of runs: trainings, with how far they are and how good, and published artifacts, with what made them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import MANIFEST, read_manifest
from countryreward.data.file_primitives import is_locked, read_json
from countryreward.errors import UserError
from countryreward.training.run_folder import DROPPED, LOCK, STARTED, log_lines
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
    entries = [
        _artifact(path, root) if (path / MANIFEST).is_file() else _training(path, root) for path in _places(root)
    ]
    return sorted(entries, key=lambda entry: (entry.when, entry.path), reverse=True)


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
    return (folder / "log.jsonl").is_file() or (folder / LOCK).is_file()


def _artifact(path: Path, root: Path) -> Listed:
    name = str(path.relative_to(root))
    try:
        manifest = read_manifest(path)
    except UserError as error:
        return Listed(
            path=name, kind="?", status="damaged", metric=str(error), when=_time(path / MANIFEST), node_hours=None,
            version="", made_from={},
        )  # fmt: skip
    return Listed(
        path=name,
        kind=manifest.kind,
        status="published",
        metric=_metric(path, manifest.kind),
        when=manifest.created[:19],
        node_hours=round(manifest.seconds * _workers(manifest.config) / 3600, 3),
        version=manifest.version,
        made_from={key: source["version"] for key, source in manifest.inputs.items()},
    )


def _workers(config: Any) -> int:
    workers = config.get("workers", 1) if isinstance(config, Mapping) else 1
    return workers if isinstance(workers, int) else 1


def _metric(path: Path, kind: str) -> str:
    """The number that an artifact is known by."""
    if kind == "model":
        validation = read_json(path / "training.json").get("validation", {})
        ordering = validation.get("discordant_ordering")
        return "" if ordering is None else f"ordering {ordering:.3f}"
    if kind == "sweep":
        report = read_json(path / "report.json")
        best = next((trial for trial in report.get("trials", ()) if trial["name"] == report.get("best")), None)
        return "" if best is None else f"best {best[report['metric']]['value']:.3f} of {len(report['trials'])}"
    return ""


def status_of(run: Path) -> str:
    """Of a training, by its folder."""
    if is_locked(run / LOCK):
        return "stopping" if (run / STOP).exists() else "running"
    if read_json(run / "finished.json"):
        return "finished"
    return "weights dropped" if (run / DROPPED).exists() else "stopped"


def _training(path: Path, root: Path) -> Listed:
    lines = log_lines(path)
    started = read_json(path / STARTED)
    status = status_of(path)
    times = [file.stat().st_mtime for file in path.iterdir() if file.is_file()]
    identity = started.get("identity", {})
    steps = next((line for line in reversed(lines) if "of" in line), None)
    far = ""
    if steps is not None and status not in ("finished", "weights dropped"):
        far = f", step {steps['step']:,} of {steps['of']:,}"
    return Listed(
        path=str(path.relative_to(root)),
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


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S")
