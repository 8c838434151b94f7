"""Any number of judges measured on the same records: the numbers of report.json.

Legend: R records (item x market), I items, S draws of a judge that is random by nature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.records import item_keys
from countryreward.equations.calibration import reliability_curve
from countryreward.equations.ceilings import market_blind_ceiling_sums, noise_ceiling_sums
from countryreward.equations.country_pairs import Floats, Ints
from countryreward.equations.metrics import (
    PROBABILITY_METRICS,
    RANKING_METRICS,
    Sums,
    item_sums,
    metrics_of,
    predicts_a,
    row_sums,
    total,
)
from countryreward.evaluation.judge_rows import LETTERS_ONLY
from countryreward.evaluation.statistics import (
    Interval,
    Unit,
    UnitWeights,
    bootstrap_p,
    bootstrap_totals,
    difference_intervals,
    holm,
    interval,
    intervals,
    mcnemar_p,
    metric_intervals,
    record_weights,
)

REPORTED = RANKING_METRICS + PROBABILITY_METRICS
NOTHING: Interval = {"value": None, "low": None, "high": None}
CeilingSource = Literal["simulator truth", "estimated by empirical Bayes"]


@dataclass(frozen=True)
class _Rows:
    """The evaluated rows as arrays."""

    label: NDArray[np.int8]
    item: Ints
    n_items: int
    market: NDArray[np.object_]
    markets: tuple[str, ...]
    weights: UnitWeights


def evaluate(
    records: pd.DataFrame,
    logits: Mapping[str, NDArray[np.float64]],
    *,
    unit: Unit,
    q: NDArray[np.float64] | None = None,
    ceiling_source: CeilingSource | None = None,
    draws: int = 2000,
    seed: int = 0,
    compare: Sequence[tuple[str, str]] | None = None,
    letters_only: Sequence[str] = LETTERS_ONLY,
) -> dict[str, Any]:
    """Every metric with its interval for every variant, ceilings and paired differences, ready for JSON.

    records: the test rows (RECORDS). logits: {variant: log-odds of A per row [R], or [S, R] for a variant that is random
    by nature: its metrics are those of all S draws together, its per-market table and McNemar those of the first}.
    unit: what the data were split by and therefore what the bootstrap resamples. q: P(observed label is A | truth) per
    row, or None where nobody knows; then the ceilings are null. ceiling_source: where q is from, required with it.
    compare: pairs of variants (default: the first against each other one). letters_only: variants whose logit is a
    bare letter; their Brier, log loss and ECE are null.
    """
    if len(records) == 0:
        raise ValueError("records: no row to evaluate; check the split and the filters")
    if (q is None) != (ceiling_source is None):
        raise ValueError(f"ceiling_source={ceiling_source!r}: give it exactly when q is given")
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r}: expected 'product' or 'image'")
    rows = _rows(records, unit, draws, seed)
    repeated = {
        name: [_checked(name, draw, len(records)) for draw in np.atleast_2d(values)] for name, values in logits.items()
    }
    clean = {name: several[0] for name, several in repeated.items()}
    sums = {name: _mean_item_sums(rows, several) for name, several in repeated.items()}
    values = {name: metrics_of(total(table)) for name, table in sums.items()}
    drawn = {name: metrics_of(table) for name, table in bootstrap_totals(sums, rows.weights).items()}
    by_market = {name: _by_market(rows, logit) for name, logit in clean.items()}

    first = next(iter(sums))
    variants = {}
    for name in clean:
        metrics = metric_intervals(values[name], drawn[name])
        skipped = PROBABILITY_METRICS if name in letters_only else ()
        no_evidence = float(np.mean(clean[name] == 0))
        variants[name] = {
            **{metric: NOTHING if metric in skipped else metrics[metric] for metric in REPORTED},
            "coverage": 1 - no_evidence,  # share of rows with any evidence; a logit of exactly 0 is none
            "no_evidence": no_evidence,
            "per_market": _per_market(by_market[name], with_probabilities=name not in letters_only),
            "reliability": None if skipped else _reliability(sums[name]),
        }
    pairs = list(compare) if compare is not None else [(first, other) for other in clean if other != first]
    for name in sorted({name for pair in pairs for name in pair} - set(clean)):
        raise ValueError(f"compare: no variant {name!r}; there are {', '.join(clean)}")
    counted = {name: int(column.sum()) for name, column in sums[first].items() if name in ("pairs", "discordant")}
    return {
        "n": {
            "rows": len(records),
            "items": rows.n_items,
            "units": rows.weights.n_units,
            "unit": unit,
            "markets": len(rows.markets),
            "country_pairs": counted["pairs"],
            "discordant_pairs": counted["discordant"],
        },
        "bootstrap": {"draws": draws, "seed": seed, "level": 0.95, "unit": unit},
        "discordant_share": interval(float(values[first]["discordant_share"]), drawn[first]["discordant_share"]),
        "ceilings": _ceilings(q, ceiling_source, rows),
        "variants": variants,
        "differences": {
            f"{a} - {b}": _difference(rows, a, b, clean, values, drawn, by_market, {a, b} & set(letters_only))
            for a, b in pairs
        },
    }


def _rows(records: pd.DataFrame, unit: Unit, draws: int, seed: int) -> _Rows:
    item, _ = pd.factorize(item_keys(records))
    n_items = int(item.max()) + 1
    firsts = records.iloc[np.unique(item, return_index=True)[1]]  # one row per item, in the order of the codes
    market = records["market"].to_numpy(object)
    return _Rows(
        label=records["label"].to_numpy(np.int8),
        item=item.astype(np.int64),
        n_items=n_items,
        market=market,
        markets=tuple(sorted(set(market))),
        weights=record_weights(firsts, unit, draws=draws, seed=seed),
    )


def _mean_item_sums(rows: _Rows, logits: Sequence[Floats]) -> Sums:
    """Sums per item, averaged over the draws of a random variant."""
    tables = [item_sums(rows.label, draw, rows.item, rows.n_items) for draw in logits]
    return {name: np.mean([table[name] for table in tables], axis=0) for name in tables[0]}


def _checked(name: str, values: NDArray, n: int) -> Floats:
    """Logits as floats [R]; raises `ValueError` for another shape and for what is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"logits[{name!r}]: shape {values.shape}, expected one logit for each of {n} records")
    if not np.isfinite(values).all():
        raise ValueError(f"logits[{name!r}]: {int((~np.isfinite(values)).sum())} not finite; no evidence is 0, not NaN")
    return values


@dataclass(frozen=True)
class _InMarket:
    """One variant in one market: rows, metrics, and metrics of every draw."""

    n: int
    value: Mapping[str, Floats]
    drawn: Mapping[str, Floats]


def _by_market(rows: _Rows, logit: Floats) -> dict[str, _InMarket]:
    sums = {}
    for market in rows.markets:
        here = rows.market == market
        sums[market] = row_sums(rows.label[here], logit[here], rows.item[here], rows.n_items)
    drawn = bootstrap_totals(sums, rows.weights)
    return {
        market: _InMarket(int(table["rows"].sum()), metrics_of(total(table)), metrics_of(drawn[market]))
        for market, table in sums.items()
    }


def _per_market(by_market: Mapping[str, _InMarket], *, with_probabilities: bool) -> dict[str, Any]:
    """Per market: n, accuracy, and for judges that state probabilities Brier and debiased ECE."""
    table = {}
    for market, here in by_market.items():
        metrics = metric_intervals(here.value, here.drawn)
        table[market] = {
            "n": here.n,
            "accuracy": metrics["accuracy"],
            "brier": metrics["brier"] if with_probabilities else NOTHING,
            "ece": metrics["ece"] if with_probabilities else NOTHING,
        }
    return table


def _reliability(sums: Sums) -> list[dict[str, float]]:
    """Stated and observed share of A, bin by bin."""
    totals = total(sums)
    return reliability_curve(totals["bin_rows"], totals["bin_p"], totals["bin_y"])


def _ceilings(q: NDArray | None, source: CeilingSource | None, rows: _Rows) -> dict[str, Any]:
    """What judges reach who know q, the probability that the observed label is A [R], with and without the country."""
    if q is None:
        nothing = dict.fromkeys(RANKING_METRICS, NOTHING)
        return {"source": None, "noise": nothing, "market_blind": nothing}
    q = _checked("q", q, rows.item.size)
    if (q < 0).any() or (q > 1).any():
        raise ValueError("q: a probability outside [0, 1]")
    sums = {
        "noise": noise_ceiling_sums(q, rows.item, rows.n_items),
        "market_blind": market_blind_ceiling_sums(q, rows.item, rows.n_items),
    }
    metrics = {name: intervals(table, rows.weights) for name, table in sums.items()}
    return {"source": source, **{name: {m: metrics[name][m] for m in RANKING_METRICS} for name in sums}}


def _difference(
    rows: _Rows,
    a: str,
    b: str,
    logits: Mapping[str, Floats],
    values: Mapping,
    drawn: Mapping,
    by_market: Mapping[str, Mapping[str, _InMarket]],
    letters: set[str],
) -> dict[str, Any]:
    """Metric by metric a - b on the same draws; p of the difference in accuracy, over all and per market (Holm).

    p is from the bootstrap over units. McNemar's p stands beside it: it takes rows as independent, which they are not.
    """
    differences = difference_intervals(values[a], values[b], drawn[a], drawn[b])
    right = {name: predicts_a(logits[name]) == (rows.label == 1) for name in (a, b)}

    def gap(of: Mapping, draws: Mapping) -> tuple[float, float]:
        """Difference in accuracy and its p."""
        value = float(of[a]["accuracy"] - of[b]["accuracy"])
        return value, bootstrap_p(value, draws[a]["accuracy"] - draws[b]["accuracy"])

    in_market = {
        m: gap(*({name: getattr(by_market[name][m], part) for name in (a, b)} for part in ("value", "drawn")))
        for m in rows.markets
    }
    corrected = holm({m: p for m, (_, p) in in_market.items()})
    skipped = PROBABILITY_METRICS if letters else ()
    return {
        "metrics": {metric: NOTHING if metric in skipped else differences[metric] for metric in REPORTED},
        "p": gap(values, drawn)[1],
        "mcnemar_p": mcnemar_p(right[a], right[b]),
        "per_market": {
            m: {
                "accuracy_difference": in_market[m][0],
                "p": in_market[m][1],
                "p_holm": corrected[m],
                "mcnemar_p": mcnemar_p(right[a][here], right[b][here]),
                "n": int(here.sum()),
            }
            for m in rows.markets
            for here in [rows.market == m]
        },
    }
