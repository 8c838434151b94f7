"""What a job tells Ray of itself while it runs: step, loss, trials, pairs, rows. Ray exports it on every node's metrics port.

Everything is set by who hears it anyway, in the job's own process (a trial's: in the trial's). Names get the prefix `ray_` from
Ray. Without Ray, or before it has started, nothing happens: a metric never stops a job.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.command import RUN_ID

Watch = Callable[[dict[str, Any]], None]
NAME = "countryreward_job_"
TAGS = ("job_name", "run")
"""Of every metric. Not `job`: Prometheus keeps that for who is asked."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One metric."""

    type: Literal["gauge", "counter"]
    says: str
    tags: tuple[str, ...] = ()
    """Labels of the metric beside `TAGS`."""


METRICS: dict[str, Kind] = {
    "step": Kind(type="gauge", says="optimizer steps made", tags=("training",)),
    "steps": Kind(type="gauge", says="optimizer steps of the whole training", tags=("training",)),
    "loss": Kind(type="gauge", says="mean loss since the last line of the log", tags=("training",)),
    "pairs_per_second": Kind(type="gauge", says="training pairs of all workers per second", tags=("training",)),
    "workers": Kind(type="gauge", says="processes that train", tags=("training",)),
    "validation_score": Kind(
        type="gauge",
        says="discordant ordering on validation, or accuracy where no pair is discordant",
        tags=("training",),
    ),
    "resumes_total": Kind(type="counter", says="times a training went on from a checkpoint", tags=("training",)),
    "trials": Kind(type="gauge", says="trials of a sweep: running, finished, stopped, failed", tags=("status",)),
    "best_score": Kind(type="gauge", says="best validation score of a sweep so far"),
    "outcomes_total": Kind(type="counter", says="pairs or cases: kept, dropped, quarantined", tags=("outcome",)),
    "left": Kind(type="gauge", says="tasks without an outcome yet"),
    "in_flight": Kind(type="gauge", says="calls that a stage waits for now", tags=("stage",)),
    "busy": Kind(type="gauge", says="share of the time with at least one call of a stage in flight", tags=("stage",)),
    "calls_again_total": Kind(type="counter", says="calls of a stage that failed and were made again", tags=("stage",)),
    "rows": Kind(type="gauge", says="rows, images or markets worked off, quarantined ones included"),
    "rows_all": Kind(type="gauge", says="of so many"),
    "rows_quarantined": Kind(type="gauge", says="of them quarantined"),
}
"""By name, without `countryreward_job_`."""

_made: dict[str, Any] = {}


@dataclass
class JobMetrics:
    """The metrics of one job."""

    job: str
    """Such as train_reward."""
    run: str = field(default_factory=lambda: os.environ.get(RUN_ID, ""))
    """The run id (`command.run_id`)."""
    _counted: dict[tuple[str, ...], float] = field(default_factory=dict)

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """A gauge. None: nothing is known."""
        if value is not None:
            self._tell(name, value, tags)

    def add(self, name: str, value: float = 1, **tags: str) -> None:
        """To a counter."""
        if value > 0:
            self._tell(name, value, tags)

    def reach(self, name: str, value: float, **tags: str) -> None:
        """A counter that is known by its sum, which only grows."""
        key = (name, *tags.values())
        self.add(name, value - self._counted.get(key, 0), **tags)
        self._counted[key] = max(value, self._counted.get(key, 0))

    def rows(self, done: int, total: int, quarantined: int = 0) -> None:
        """How far a table is worked off."""
        self.set("rows", done)
        self.set("rows_all", total)
        self.set("rows_quarantined", quarantined)

    def _tell(self, name: str, value: float, tags: dict[str, str]) -> None:
        kind = METRICS[name]
        assert set(tags) == set(kind.tags), (name, tags)
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        with contextlib.suppress(Exception):  # whatever Ray's exporter raises: the job is worth more than its numbers
            from ray.util.metrics import Counter, Gauge

            if name not in _made:
                make = Gauge if kind.type == "gauge" else Counter
                _made[name] = make(NAME + name, kind.says, tag_keys=(*TAGS, *kind.tags))
            tags_of_all = {"job_name": self.job, "run": self.run, **tags}
            _made[name].set(value, tags_of_all) if kind.type == "gauge" else _made[name].inc(value, tags_of_all)


def metered(watch: Watch, metrics: JobMetrics, training: str, workers: int = 0) -> Watch:
    """`watch` of a training, which also tells the metrics. training: the name of its run folder; workers: at its start."""
    if workers:
        metrics.set("workers", workers, training=training)

    def hear(message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind in ("step", "writer", "resumed", "validation"):
            for name, value in _values_of(message).items():
                metrics.set(name, value, training=training)
        elif message.get("stage") == "training steps":
            metrics.set("step", message["done"], training=training)
            metrics.set("steps", message["total"], training=training)
        if kind == "resumed":
            metrics.add("resumes_total", training=training)
        watch(message)

    return hear


def _values_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Metric -> value of a line of the log."""
    values = {name: line.get(name) for name in ("step", "loss", "pairs_per_second", "workers")}
    values["steps"] = line.get("of")
    if line["kind"] == "validation":
        from countryreward.training.sweep_plan import score_of

        values["validation_score"] = score_of(line)
    return values
