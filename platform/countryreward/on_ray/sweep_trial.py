"""One parameter set of a sweep: a Trainable of Ray Tune around a reward training of Ray Train."""

import logging
import math
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from countryreward.data.file_primitives import FileLock
from countryreward.on_ray.job_metrics import JobMetrics, metered
from countryreward.on_ray.ray_config import ElasticWorkersConfig
from countryreward.on_ray.training import train_on_ray
from countryreward.training.sweep_plan import SweepPlan, score_of, validations_of
from countryreward.training.training_config import STOP

_log = logging.getLogger(__name__)
METRIC = "score"
PATIENCE_S = 120.0
"""How long a trial that is stopped may take to write its checkpoint; Ray Tune gives 10 s to those it ends with the sweep."""
TRIAL = ".trial"
"""In a run folder: held by the one process of Ray Tune that trains in it."""


class RewardTrial(tune.Trainable):
    """One parameter set, in an actor of Ray Tune: a step is a validation, also one of an earlier life of this trial."""

    def setup(self, config: dict[str, Any], plan: SweepPlan, folder: str, workers: ElasticWorkersConfig) -> None:
        """Start the training, or go on with it: called by Ray Tune with the trial's parameters."""
        job, identity = plan.trial(config)
        self.run = run_folder(Path(folder), plan, config)
        self.run.mkdir(parents=True, exist_ok=True)
        self.holds_folder = threading.Event()
        self.messages: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self.result: dict[str, Any] = {"step": 0, "best": -math.inf}
        sweep_stops = Path(folder) / STOP

        def train() -> None:
            try:
                # the same parameters, drawn again, wait here, and then tell what was found
                with FileLock.take(self.run / TRIAL):
                    self.holds_folder.set()
                    for line in validations_of(self.run):
                        self.messages.put(line)
                    if not sweep_stops.exists():
                        watch = metered(self.messages.put, JobMetrics("trial"), self.run.name, workers.workers)
                        train_on_ray(job, self.run, workers, identity, watch=watch)
                if not sweep_stops.exists():  # else it is not over, and `step` waits for the end of this process
                    self.messages.put(None)
            except BaseException as error:
                # SystemExit, too: `step` waits for an end, raises it again, and `cleanup` logs it
                self.messages.put(error)

        self.training = threading.Thread(target=train, daemon=True)
        self.training.start()

    def step(self) -> dict[str, Any]:
        """The next validation; at the end the last one again. Called by Ray Tune."""
        while (message := self.messages.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            if message.get("kind") == "validation" and message["step"] > self.result["step"]:
                score = score_of(message)
                best = max(score, self.result["best"])
                self.result = {METRIC: score, "best": best, "step": message["step"]}
                return dict(self.result)
        if METRIC not in self.result:
            raise RuntimeError(f"the training in {self.run} ended before its first validation")
        return {**self.result, "done": True}

    def cleanup(self) -> None:
        """Ray Tune ends this trial: its workers write a checkpoint and leave their places before this process goes."""
        if self.holds_folder.is_set() and self.training.is_alive():
            (self.run / STOP).touch()
            self.training.join(timeout=PATIENCE_S)
        if self.holds_folder.is_set() and self.training.is_alive():
            _log.error(
                "%s: no end after %.0f s; the process ends now, what counts is the last checkpoint",
                self.run,
                PATIENCE_S,
            )
        while not self.messages.empty():  # nobody takes a step any more: an error of the last checkpoint would be lost
            if isinstance(message := self.messages.get(), BaseException):
                _log.error("%s: it was stopped, and failed while it wrote its checkpoint", self.run, exc_info=message)


def run_folder(folder: Path, plan: SweepPlan, params: Mapping[str, Any]) -> Path:
    """The run folder of a parameter set, below a sweep's folder."""
    return folder / "trials" / plan.trial(params)[1].fingerprint()
