"""A sweep: Ray Tune over reward trainings, each of which is a Ray Train job of its own.

Trials live in `trials/NAME` of the sweep's folder, NAME being the fingerprint of inputs and options, so a parameter set has one
run folder for ever: a killed sweep goes on, and every trial in it from its own newest checkpoint. `tune/` is Ray Tune's state.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ray import tune

from countryreward.data.file_primitives import read_json
from countryreward.errors import Stopped, UserError
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.ray_config import ElasticWorkersConfig, SweepConfig
from countryreward.on_ray.searchers import make_scheduler, make_searcher
from countryreward.on_ray.sweep_space import count_trials
from countryreward.on_ray.sweep_trial import METRIC, RewardTrial, run_folder
from countryreward.on_ray.training import Watch, in_a_thread, stopping
from countryreward.training.run_folder import DROPPED
from countryreward.training.run_list import status_of
from countryreward.training.sweep_plan import SweepPlan, current_names, score_of, stored_names, validations_of
from countryreward.training.training_config import STOP

Status = Literal["finished", "stopped", "failed"]
HEAD = {"node:__internal_head__": 0.001}
"""What the process of a trial takes: it only waits for its workers, so no processor, and a place on the head node."""


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """What became of one parameter set."""

    params: dict[str, Any]
    status: Status
    """stopped: by the scheduler, before its end."""
    why: str
    """Of a failed one."""
    folder: Path | None
    """Its run folder; None: it failed before it had one."""
    seconds: float
    """From the start of its (last) process to its last validation."""
    draws: int = 1
    """How often the searcher drew it. It is trained once."""


def run_sweep(
    plan: SweepPlan,
    space: Mapping[str, Any],
    folder: Path,
    workers: ElasticWorkersConfig,
    config: SweepConfig,
    *,
    watch: Watch,
    metrics: JobMetrics | None = None,
) -> list[TrialRun]:
    """Train every parameter set of the space, or go on with a sweep that was cut off; in the order of their start.

    plan: with absolute paths (`Training.with_absolute_paths`). watch: gets {"stage", "done", "total"} and {"kind": "trial",
    "name", "score", "step"}. metrics: of the job that it is. Raises `Stopped` after Ctrl-C or SIGTERM, once the trainings at work
    have written their checkpoints.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no tables of Ray Tune's: jobs print their own
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed, and why, is in the runs
    trainable = tune.with_resources(
        tune.with_parameters(RewardTrial, plan=plan, folder=str(folder.absolute()), workers=workers), HEAD
    )
    at = folder.absolute() / "tune"
    (folder / STOP).unlink(missing_ok=True)
    searcher = make_searcher(config, METRIC, concurrent(config, workers))
    if _restorable(at):
        tuner = tune.Tuner.restore(
            str(at), trainable, resume_unfinished=True, resume_errored=True, param_space=stored_names(space)
        )
    else:
        shutil.rmtree(at, ignore_errors=True)  # killed while it wrote its first state
        tuner = tune.Tuner(
            trainable,
            param_space=stored_names(space),
            tune_config=tune.TuneConfig(
                num_samples=config.samples,
                scheduler=make_scheduler(
                    config, METRIC, plan.job.loop.validations, partial(_past, plan, folder.absolute())
                ),
                search_alg=searcher,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=at.name,
                storage_path=str(at.parent),
                verbose=0,
                callbacks=[EndWhenStopped(folder.absolute())],
                # a trial's checkpoints are those of its training
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
    planned = count_trials(space, config)
    metrics = metrics or JobMetrics("sweep")
    with followed(folder, planned * plan.job.loop.validations, watch, metrics):
        trials = _trials(tuner, folder)
    if len(trials) < planned or any(trial.status not in ("TERMINATED", "ERROR") for trial in trials):
        raise RuntimeError(f"Ray Tune ended with {len(trials)} of {planned} trials; remove {at}: trainings are kept")
    runs = once_each([_ended(trial, plan, folder) for trial in trials])
    tell_trials(metrics, [run.status for run in runs])
    return runs


def tell_trials(metrics: JobMetrics, statuses: Sequence[str]) -> None:
    """How many trials are at what; what a run folder calls otherwise belongs to one of the four."""
    same = {"stopping": "running", "weights dropped": "finished"}
    counts = Counter(same.get(status, status) for status in statuses)
    for status in ("running", "finished", "stopped", "failed"):
        metrics.set("trials", counts[status], status=status)


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
            lines = validations_of(run)
            for line in lines[seen.get(run, 0) :]:
                best = max(best, score_of(line))
                metrics.set("best_score", best)
                watch({"kind": "trial", "name": run.name, "score": score_of(line), "step": line["step"]})
            seen[run] = max(seen.get(run, 0), len(lines))
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


def _restorable(at: Path) -> bool:
    """Whether Ray Tune has written its state there. It takes a missing or torn one for a sweep of one trial."""
    states = sorted(at.glob("experiment_state-*.json"))
    return bool(states) and bool(read_json(states[-1])) and tune.Tuner.can_restore(str(at))


class EndWhenStopped(tune.Callback):
    """After a signal: no trial goes on, and once no training is at work, each having written its checkpoint, the sweep ends.

    Ray Tune's own way with Ctrl-C ends all trials, which are then over as if they were trained, and it knows no SIGTERM.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune some ten times a second."""
        if not (self.folder / STOP).exists():
            return
        running = [run for run in (self.folder / "trials").glob("*") if status_of(run) in ("running", "stopping")]
        for run in running:
            (run / STOP).touch()
        if not running:
            raise Stopped("trainings have written their checkpoints; the same command goes on with the sweep", 0)


def _trials(tuner: tune.Tuner, folder: Path) -> list[Any]:
    """Ray Tune's trials, when all are over."""
    with stopping(folder) as signals:
        try:
            results = in_a_thread(tuner.fit)
        except Stopped as stopped:
            raise Stopped(str(stopped), signals[0] if signals else signal.SIGTERM) from None
    return results._experiment_analysis.trials  # pyright: ignore[reportOptionalMemberAccess]  # no public way to a trial's status


def once_each(runs: Sequence[TrialRun]) -> list[TrialRun]:
    """A parameter set that was drawn several times is one run: how far it came in the end is what its folder says."""
    order: list[Status] = ["failed", "stopped", "finished"]
    by_folder: dict[Path | int, TrialRun] = {}
    for n, run in enumerate(runs):
        key = run.folder or n
        if (before := by_folder.get(key)) is None:
            by_folder[key] = run
        else:
            best = max(before, run, key=lambda draw: order.index(draw.status))
            by_folder[key] = replace(best, draws=before.draws + 1, seconds=max(before.seconds, run.seconds))
    return list(by_folder.values())


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def concurrent(config: SweepConfig, workers: ElasticWorkersConfig) -> int:
    """How many trials run at a time: as asked, else as many as the cluster's processors and GPUs hold, at least one."""
    import ray

    if config.concurrent:
        return config.concurrent
    resources = ray.cluster_resources()
    needs = {"CPU": workers.cpus_per_worker * workers.workers, "GPU": workers.gpus_per_worker * workers.workers}
    return max(1, min(int(resources.get(name, 0) // need) for name, need in needs.items() if need))


def wait_until_free(seconds: float = 60) -> dict[str, float]:
    """What of the cluster's processors and GPUs is still taken after at most `seconds`: nothing, {}, or what is."""
    import ray

    until = time.monotonic() + seconds
    while True:
        resources, free = ray.cluster_resources(), ray.available_resources()
        taken = {name: resources[name] - free.get(name, 0.0) for name in ("CPU", "GPU") if name in resources}
        taken = {name: count for name, count in taken.items() if count > 1e-6}
        if not taken or time.monotonic() > until:
            return taken
        time.sleep(0.5)


def _past(plan: SweepPlan, folder: Path, params: dict[str, Any]) -> list[float]:
    """Scores of a trial's validations, in this life of the sweep or an earlier one."""
    try:
        return [score_of(line) for line in validations_of(run_folder(folder, plan, params))]
    except UserError:  # parameters that no training takes
        return []


def _ended(trial: Any, plan: SweepPlan, folder: Path) -> TrialRun:
    try:
        run = run_folder(folder, plan, trial.config)
    except UserError:
        run = None
    finished = run is not None and ((run / "finished.json").exists() or read_json(run / DROPPED).get("ended", False))
    why = ""
    if trial.status == "ERROR":
        trace = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown"
        why = trace.strip().splitlines()[-1] if trace.strip() else "unknown"
    return TrialRun(
        params=current_names(trial.config),
        status="failed" if why else "finished" if finished else "stopped",
        why=why,
        folder=run if run is not None and run.exists() else None,
        seconds=float((trial.last_result or {}).get("time_total_s", 0.0)),
    )
