"""Intervals and paired tests by bootstrap. What is drawn again is the unit that the data were split by, never a row.

Legend: I items, P products, D bootstrap draws, S columns of sums.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.equations.country_pairs import Floats
from countryreward.equations.metrics import Sums, metrics_of, ratio, total

LEVEL = 0.95
CHUNK_CELLS = 8_000_000
"""Weights held at once: 32 MB of float32, whatever the number of draws."""

Interval = dict[str, float | None]
"""{"value", "low", "high"}; all None where the metric has no denominator."""

Unit = Literal["product", "image"]
"""What the data were split by."""

Key = tuple[str, ...]
"""Path of a mean: variant, measure, judge, market and the like."""

FEWEST_UNITS = 10
"""Below this many products (or images) no interval is given."""


@dataclass(frozen=True, kw_only=True)
class UnitWeights:
    """How often each item counts in each bootstrap draw. Drawn in chunks from the seed, so the same draws come again.

    With one unit per item (product): units are drawn with replacement, an item counts as often as its product was.
    With two (the images of a pair): the vertex bootstrap of Snijders and Borgatti 1999; images are drawn and an item
    counts count(image 1) x count(image 2), since two items that share an image are not independent.
    """

    unit_1: NDArray[np.int64]  # [I] codes
    unit_2: NDArray[np.int64] | None  # [I] codes, or None
    n_units: int
    draws: int
    seed: int

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """Weights [<= D, I], draw by draw."""
        step = max(1, CHUNK_CELLS // max(self.n_units, self.unit_1.size, 1))
        for start in range(0, self.draws, step):
            rng = np.random.default_rng([self.seed, start])
            d = min(step, self.draws - start)
            drawn = rng.integers(0, self.n_units, size=(d, self.n_units))
            drawn += np.arange(d)[:, None] * self.n_units
            counts = np.bincount(drawn.ravel(), minlength=d * self.n_units).reshape(d, self.n_units).astype(np.float32)
            weights = counts[:, self.unit_1]
            yield weights if self.unit_2 is None else weights * counts[:, self.unit_2]


def unit_weights(
    units_1: Sequence | NDArray, units_2: Sequence | NDArray | None = None, *, draws: int = 2000, seed: int = 0
) -> UnitWeights:
    """Bootstrap weights for items whose unit (product) is units_1, or whose two units (images) are units_1 and _2."""
    both = [np.asarray(units_1)] + ([] if units_2 is None else [np.asarray(units_2)])
    names, codes = np.unique(np.concatenate(both), return_inverse=True)
    n = both[0].size
    return UnitWeights(
        unit_1=codes[:n], unit_2=None if units_2 is None else codes[n:], n_units=names.size, draws=draws, seed=seed
    )


def record_weights(records: pd.DataFrame, unit: Unit, *, draws: int, seed: int) -> UnitWeights:
    """Bootstrap weights for records of pairs (columns of RECORDS): by their product, or by their two images."""
    columns = ["product_id"] if unit == "product" else ["hash_a", "hash_b"]
    return unit_weights(*[records[name].to_numpy(str) for name in columns], draws=draws, seed=seed)


def bootstrap_totals(sums: Mapping[str, Sums], weights: UnitWeights) -> dict[str, Sums]:
    """The total of every column of every variant in each draw: {variant: {column: [D] or [D, K]}}.

    With fewer than `FEWEST_UNITS` units every draw is NaN, so that no interval is claimed: two products say nothing of a third.
    """
    columns = {variant: _columns(table) for variant, table in sums.items()}
    chunks: dict[str, list[Floats]] = {variant: [] for variant in sums}
    for chunk in weights.chunks():
        for variant, matrix in columns.items():
            chunks[variant].append((chunk @ matrix).astype(np.float64))
    totals = {variant: np.concatenate(parts) for variant, parts in chunks.items()}
    if weights.n_units < FEWEST_UNITS:
        totals = {variant: np.full_like(draws, np.nan) for variant, draws in totals.items()}
    return {variant: _split(draws, sums[variant]) for variant, draws in totals.items()}


def _columns(sums: Sums) -> NDArray[np.float32]:
    """All sums side by side [I, S]. float32 holds counts and halves exactly and halves the cost of the product."""
    return np.concatenate([v.reshape(v.shape[0], -1) for v in sums.values()], axis=1).astype(np.float32)


def _split(draws: Floats, like: Sums) -> Sums:
    """Undo `_columns` on [D, S]."""
    totals, at = {}, 0
    for name, values in like.items():
        width = int(np.prod(values.shape[1:]))
        totals[name] = draws[:, at] if values.ndim == 1 else draws[:, at : at + width]
        at += width
    return totals


def interval(value: float, draws: Floats, *, centred: bool = False, floor: float | None = None) -> Interval:
    """Percentile bootstrap interval. Draws without a denominator are left out.

    `centred` moves the draws' mean onto the value first, for a statistic such as a calibration error that resampling
    itself pushes up: its plain percentile interval would lie above the value. `floor` bounds all three from below.
    """
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return {"value": float(value), "low": None, "high": None}
    if centred:
        finite = finite - finite.mean() + value
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    bounds = {"value": float(value), "low": float(low), "high": float(high)}
    return {k: v if floor is None else max(v, floor) for k, v in bounds.items()}


def metric_intervals(value: Mapping[str, Floats], draws: Mapping[str, Floats]) -> dict[str, Interval]:
    """{metric: {value, low, high}} from the metrics of all items and of each draw."""
    return {
        name: interval(float(value[name]), draws[name], centred=is_error, floor=0.0 if is_error else None)
        for name in value
        for is_error in [name.startswith("ece")]  # resampling itself pushes a calibration error up
    }


def intervals(sums: Sums, weights: UnitWeights) -> dict[str, Interval]:
    """{metric: {value, low, high}} of one variant's sums per item."""
    draws = bootstrap_totals({"": sums}, weights)[""]
    return metric_intervals(metrics_of(total(sums)), metrics_of(draws))


def difference_intervals(
    value_1: Mapping[str, Floats], value_2: Mapping[str, Floats], draws_1: Mapping[str, Floats], draws_2: Mapping
) -> dict[str, Interval]:
    """Intervals of metric_1 - metric_2 over the same draws: what both variants share (easy items) cancels."""
    return {
        name: interval(float(value_1[name] - value_2[name]), draws_1[name] - draws_2[name], centred=name[:3] == "ece")
        for name in value_1
        if name in value_2
    }


def bootstrap_p(value: float, draws: Floats) -> float:
    """Two-sided p of a difference between two judges: its value against the spread of its draws, taken as normal.

    The draws resample units, so pairs that share a product or an image are no separate evidence. 1 where nothing can be
    tested: too few units, or two judges that never part.
    """
    finite = draws[np.isfinite(draws)]
    spread = float(np.std(finite)) if finite.size else 0.0
    if not np.isfinite(value) or value == 0 or spread == 0:
        return 1.0
    return math.erfc(abs(value) / spread / math.sqrt(2))


def mcnemar_p(right_1: NDArray[np.bool_], right_2: NDArray[np.bool_]) -> float:
    """Two-sided McNemar p on the same rows: exact below 25 rows on which the two part, else chi-squared, corrected.

    It takes rows as independent, and is too sure wherever they are not: over the markets of an item, and within one market
    over pairs that share an image. `bootstrap_p` is the one to read.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # heavy

    only_1, only_2 = int(np.sum(right_1 & ~right_2)), int(np.sum(~right_1 & right_2))
    if only_1 + only_2 == 0:
        return 1.0
    table = [[int(np.sum(right_1 & right_2)), only_1], [only_2, int(np.sum(~right_1 & ~right_2))]]
    test = mcnemar(table, exact=only_1 + only_2 < 25, correction=True)
    return float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]  # set at run time


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment over a family of tests (here the markets).

    The i-th smallest of n, times n - i + 1; never below a smaller one's, never above 1. By hand: statsmodels' collects garbage in
    every call, a fifth of a second where there is much of it.
    """
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, p_values[name] * (len(p_values) - rank)))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


class PairedMeans:
    """Many means over cases, each with its draws, all on the same draws of products: what they share cancels.

    `add` every mean, then `draw` once, then ask. A mean that was never added, or has no case, is None.
    """

    def __init__(self, products: Sequence[str], *, draws: int, seed: int) -> None:
        """products: all P of which any mean may have a case."""
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
