"""How far a sweep is, from the logs of its trials."""

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.training import Watch
from countryreward.training.run_list import status_of
from countryreward.training.sweep_plan import score_of, validations_of


def tell_trials(metrics: JobMetrics, statuses: Sequence[str]) -> None:
    """How many trials are at what; what a run folder calls otherwise belongs to one of the four."""
    same = {"stopping": "running", "weights dropped": "finished"}
    counted = Counter(same.get(status, status) for status in statuses)
    for status in ("running", "finished", "stopped", "failed"):
        metrics.set("trials", counted[status], status=status)


@contextlib.contextmanager
def followed(folder: Path, expected: int, watch: Watch, metrics: JobMetrics) -> Iterator[None]:
    """Tells every validation of every trial as it appears in their logs, which outlive whoever wrote them."""
    over = threading.Event()
    seen: dict[Path, int] = {}
    best = -math.inf

    def look() -> None:
        nonlocal best
        runs = sorted((folder / "trials").glob("*"))
        tell_trials(metrics, [status_of(run) for run in runs])
        for run in runs:
            found = validations_of(run)
            for line in found[seen.get(run, 0) :]:
                best = max(best, score_of(line))
                metrics.set("best_score", best)
                watch({"kind": "trial", "name": run.name, "score": score_of(line), "step": line["step"]})
            seen[run] = max(seen.get(run, 0), len(found))
        watch({"stage": "validations of trials", "done": min(sum(seen.values()), expected), "total": expected})

    def follow() -> None:
        while not over.wait(1.0):
            look()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
        look()
