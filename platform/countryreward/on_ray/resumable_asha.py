"""ASHA in a sweep that is gone on with: Ray Tune restores trials and searcher, and starts its scheduler anew."""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler


class ResumableASHA(ASHAScheduler):
    """It knows what the trials before have told. Without that the next trials would be compared with nothing, and all go on."""

    def __init__(self, past: Callable[[dict[str, Any]], list[float]], **options: Any) -> None:
        """past: parameters of a trial -> scores of its validations, in order. Picklable. options: ASHA's."""
        super().__init__(**options)
        self.past = past

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See `TrialScheduler`: Ray Tune calls it for every trial, also for those that are over when a sweep is restored."""
        super().on_trial_add(tune_controller, trial)
        for iteration, score in enumerate(self.past(trial.config), 1):
            self.on_trial_result(tune_controller, trial, {self._time_attr: iteration, self._metric: score})
