"""What draws the trials of a sweep: Ray Tune's searchers, whose number of trials at a time is that of this start."""

from typing import Any

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
