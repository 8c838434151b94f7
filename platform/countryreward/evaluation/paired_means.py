"""Many means over cases, each with its bootstrap draws, all on the same draws of products: what they share cancels.

Legend: P products, D draws.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from countryreward.equations.country_pairs import Floats
from countryreward.equations.metrics import Sums, ratio
from countryreward.evaluation.statistics import Interval, bootstrap_p, bootstrap_totals, interval, unit_weights

Key = tuple[str, ...]


class PairedMeans:
    """`add` every mean, then `draw` once, then ask. A mean that was never added, or has no case, is None."""

    def __init__(self, products: Sequence[str], *, draws: int, seed: int) -> None:
        """products: all that any mean may speak of."""
        self._products = pd.Index(products)
        self._draws, self._seed = draws, seed
        self._sums: dict[str, Sums] = {}
        self._drawn: dict[str, Sums] = {}

    def add(self, key: Key, values: pd.Series) -> None:
        """values: one per case, indexed by product, or by (product, market)."""
        codes = self._products.get_indexer(values.index.get_level_values(0))
        assert (codes >= 0).all()
        self._sums[_name(key)] = {
            "sum": np.bincount(codes, weights=values.to_numpy(float), minlength=len(self._products)).astype(float),
            "n": np.bincount(codes, minlength=len(self._products)).astype(float),
        }

    def add_by_market(self, key: Key, values: pd.Series) -> None:
        """A mean per market, under (*key, market). values: indexed by (product, market)."""
        for market, part in values.groupby(level=1):
            self.add((*key, str(market)), part)

    def draw(self) -> None:
        """Draw products with replacement and total every mean in each draw."""
        weights = unit_weights(self._products.to_numpy(str), draws=self._draws, seed=self._seed)
        self._drawn = bootstrap_totals(self._sums, weights)

    def n(self, key: Key) -> int:
        """Cases behind a mean."""
        return int(self._sums[_name(key)]["n"].sum()) if _name(key) in self._sums else 0

    def interval(self, key: Key) -> Interval:
        """The mean with its 95 % interval."""
        return interval(*self._both(key))

    def p(self, key: Key) -> float:
        """Two-sided p of a mean (a difference) being 0; 1 where nothing can be tested."""
        return bootstrap_p(*self._both(key))

    def _both(self, key: Key) -> tuple[float, Floats]:
        """The mean, NaN where there is none, and its draws [D]."""
        sums = self._sums.get(_name(key))
        if sums is None:
            return float("nan"), np.array([np.nan])
        drawn = self._drawn[_name(key)]
        return float(ratio(sums["sum"].sum(), sums["n"].sum())), ratio(drawn["sum"], drawn["n"])


def _name(key: Key) -> str:
    return "\n".join(key)
