"""What draws the trials of a sweep and what ends them early: Ray Tune's searchers and ASHA, for a sweep that may be gone on with.

A searcher is restored, and has the number of trials at a time of this start. A scheduler is not, and is told what came before.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.basic_variant import BasicVariantGenerator

from countryreward.errors import UserError
from countryreward.on_ray.ray_config import SweepConfig


class ConcurrencyOverride:
    """How many trials run at a time, for all searchers of this process.

    A restored searcher comes with the state of another start of the sweep, made on a cluster of another size or with another
    `sweep.concurrent`.
    """

    count = 1

    @property
    def max_concurrent(self) -> int:
        """As Ray Tune's searchers call it."""
        return ConcurrencyOverride.count

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        """What Ray Tune gives its own attribute is passed over."""


class Drawn(ConcurrencyOverride, BasicVariantGenerator):
    """Grids in their order and independent draws."""


class Limited(ConcurrencyOverride, ConcurrencyLimiter):
    """Another searcher, asked for so many at a time."""


def make_searcher(config: SweepConfig, metric: str, together: int) -> Any:
    """Raises `UserError` where Optuna is asked for and not installed."""
    ConcurrencyOverride.count = together
    if config.searcher == "optuna":
        try:
            from ray.tune.search.optuna import OptunaSearch

            return Limited(OptunaSearch(metric=metric, mode="max", seed=config.seed), together)
        except (ImportError, AssertionError):
            raise UserError("sweep.searcher: optuna is not installed; pip install 'countryreward[optuna]'") from None
    # Ray Tune's own `max_concurrent_trials` does not reach a generator that it is given
    return Drawn(max_concurrent=together, random_state=config.seed)


class ResumableASHA(ASHAScheduler):
    """ASHA that knows what the trials before have told: Ray Tune restores trials and searcher, and starts its scheduler anew.
    Without that the next trials would be compared with nothing, and all go on."""

    def __init__(self, past: Callable[[dict[str, Any]], list[float]], **options: Any) -> None:
        """past: parameters of a trial -> scores of its validations, in order. Picklable. options: ASHA's."""
        super().__init__(**options)
        self.past = past

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called by Ray Tune for every trial, also for those that are over when a sweep is restored."""
        super().on_trial_add(tune_controller, trial)
        for iteration, score in enumerate(self.past(trial.config), 1):
            self.on_trial_result(tune_controller, trial, {self._time_attr: iteration, self._metric: score})


def make_scheduler(
    config: SweepConfig, metric: str, validations: int, past: Callable[[dict[str, Any]], list[float]]
) -> Any:
    """past: parameters of a trial -> scores of its validations so far. validations: of a trial that is trained to its end."""
    if config.scheduler == "none":
        return FIFOScheduler()
    return ResumableASHA(
        past,
        time_attr="training_iteration",
        metric=metric,
        mode="max",
        max_t=max(config.grace, validations) + 1,  # at max_t Ray Tune cuts a trial off that only has to write its end
        grace_period=config.grace,
        reduction_factor=config.reduction,
    )
