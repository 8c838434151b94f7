"""A sweep: Ray Tune over reward trainings, each of which is a Ray Train job of its own.

Trials live in `trials/NAME` of the sweep's folder, NAME being the fingerprint of inputs and options, so a parameter set has one
run folder for ever: a killed sweep goes on, and every trial in it from its own newest checkpoint. `tune/` is Ray Tune's state.
"""

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ray import tune

from countryreward.errors import Stopped, UserError
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.ray_config import ElasticWorkersConfig, SweepConfig
from countryreward.on_ray.searchers import make_searcher
from countryreward.on_ray.sweep_progress import followed, tell_trials
from countryreward.on_ray.sweep_space import count_trials
from countryreward.on_ray.sweep_trial import METRIC, RewardTrial, run_folder
from countryreward.on_ray.training import Watch, in_a_thread, stopping
from countryreward.training.run_folder import DROPPED, read_json
from countryreward.training.run_list import status_of
from countryreward.training.sweep_plan import SweepPlan, score_of, validations_of
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

    plan: with absolute paths (`reward_training.absolute`). watch: gets {"stage", "done", "total"} and {"kind": "trial", "name",
    "score", "step"}. metrics: of the job that it is. Raises `Stopped` after Ctrl-C or SIGTERM, once the trainings at work have
    written their checkpoints.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no tables of Ray Tune's: jobs print their own
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed, and why, is in the runs
    trainable = tune.with_resources(
        tune.with_parameters(RewardTrial, plan=plan, folder=str(folder.absolute()), workers=asdict(workers)), HEAD
    )
    at = folder.absolute() / "tune"
    (folder / STOP).unlink(missing_ok=True)
    searcher = make_searcher(config, METRIC, concurrent(config, workers))
    if _restorable(at):
        tuner = tune.Tuner.restore(
            str(at), trainable, resume_unfinished=True, resume_errored=True, param_space=dict(space)
        )
    else:
        shutil.rmtree(at, ignore_errors=True)  # killed while it wrote its first state
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                num_samples=config.samples,
                scheduler=_scheduler(config, plan.job.loop.validations, partial(_past, plan, folder.absolute())),
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
    tell_trials(metrics, [one.status for one in runs])
    return runs


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
        """See `tune.Callback`: some ten times a second."""
        if not (self.folder / STOP).exists():
            return
        running = [run for run in (self.folder / "trials").glob("*") if status_of(run) in ("running", "stopping")]
        for run in running:
            (run / STOP).touch()
        if not running:
            raise Stopped("trainings have written their checkpoints; the same command goes on with the sweep", 0)


def _trials(tuner: tune.Tuner, folder: Path) -> list[Any]:
    """Ray Tune's trials, when all are over."""
    with stopping(folder) as asked:
        try:
            found = in_a_thread(tuner.fit)
        except Stopped as stopped:
            raise Stopped(str(stopped), asked[0] if asked else signal.SIGTERM) from None
    return found._experiment_analysis.trials  # pyright: ignore[reportOptionalMemberAccess]  # no public way to a trial's status


def once_each(runs: Sequence[TrialRun]) -> list[TrialRun]:
    """A parameter set that was drawn several times is one run: how far it came in the end is what its folder says."""
    order: list[Status] = ["failed", "stopped", "finished"]
    found: dict[Path | int, TrialRun] = {}
    for n, run in enumerate(runs):
        key = run.folder or n
        if (before := found.get(key)) is None:
            found[key] = run
        else:
            best = max(before, run, key=lambda one: order.index(one.status))
            found[key] = replace(best, draws=before.draws + 1, seconds=max(before.seconds, run.seconds))
    return list(found.values())


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def concurrent(config: SweepConfig, workers: ElasticWorkersConfig) -> int:
    """How many trials run at a time: as asked, else as many as the cluster's processors and GPUs hold, at least one."""
    import ray

    if config.concurrent:
        return config.concurrent
    there = ray.cluster_resources()
    needs = {"CPU": workers.cpus_per_worker * workers.workers, "GPU": workers.gpus_per_worker * workers.workers}
    return max(1, min(int(there.get(name, 0) // need) for name, need in needs.items() if need))


def wait_until_free(seconds: float = 60) -> dict[str, float]:
    """What of the cluster's processors and GPUs is still taken after at most `seconds`: nothing, {}, or what is."""
    import ray

    until = time.monotonic() + seconds
    while True:
        there, free = ray.cluster_resources(), ray.available_resources()
        taken = {name: there[name] - free.get(name, 0.0) for name in ("CPU", "GPU") if name in there}
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


def _scheduler(config: SweepConfig, validations: int, past: Callable[[dict[str, Any]], list[float]]) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    from countryreward.on_ray.resumable_asha import ResumableASHA

    if config.scheduler == "none":
        return FIFOScheduler()
    return ResumableASHA(
        past,
        time_attr="training_iteration",
        metric=METRIC,
        mode="max",
        max_t=max(config.grace, validations) + 1,  # at max_t Ray Tune cuts a trial off that only has to write its end
        grace_period=config.grace,
        reduction_factor=config.reduction,
    )


def _ended(trial: Any, plan: SweepPlan, folder: Path) -> TrialRun:
    try:
        run = run_folder(folder, plan, trial.config)
    except UserError:
        run = None
    finished = run is not None and ((run / "finished.json").exists() or read_json(run / DROPPED).get("ended", False))
    why = ""
    if trial.status == "ERROR":
        told = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown"
        why = told.strip().splitlines()[-1] if told.strip() else "unknown"
    return TrialRun(
        params=dict(trial.config),
        status="failed" if why else "finished" if finished else "stopped",
        why=why,
        folder=run if run is not None and run.exists() else None,
        seconds=float((trial.last_result or {}).get("time_total_s", 0.0)),
    )
