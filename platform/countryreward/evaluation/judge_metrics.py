"""Any number of judges measured on the same records: the numbers of report.json.

Legend: R records (item x market), I items, D bootstrap draws, S draws of a judge that is random by nature.
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
from countryreward.evaluation.judge_rows import judge_row
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
_ALL = ""
"""Beside the markets' codes."""
CeilingSource = Literal["simulator truth", "estimated by empirical Bayes"]


@dataclass(frozen=True)
class _Rows:
    """The evaluated rows as arrays [R], and how often each item counts in every draw of the bootstrap."""

    label: NDArray[np.float64]
    item: Ints
    n_items: int
    market: NDArray[np.object_]
    markets: tuple[str, ...]
    weights: UnitWeights


@dataclass(frozen=True)
class _Measured:
    """One judge on all rows, or on those of one market."""

    totals: Sums
    value: Mapping[str, Floats]
    """Every metric."""
    drawn: Mapping[str, Floats]
    """Every metric in every draw of the bootstrap [D]."""


@dataclass(frozen=True)
class _Judge:
    """One judge: its logits, of a random one those of the first draw, and how it fares."""

    logit: Floats
    letter_only: bool
    overall: _Measured
    by_market: Mapping[str, _Measured]


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
) -> dict[str, Any]:
    """Every metric with its interval for every judge, ceilings and paired differences, ready for JSON.

    records: the test rows (RECORDS). logits: {judge: log-odds of A per row [R], or [S, R] for a judge that is random
    by nature: its metrics are those of all S draws together, its per-market table and McNemar those of the first}; one that
    answers with a bare letter (`JUDGE_ROWS`) has no Brier score, log loss and ECE.
    unit: what the data were split by and therefore what the bootstrap resamples. q: P(observed label is A | truth) per
    row, or None where nobody knows; then the ceilings are null. ceiling_source: where q is from, required with it.
    compare: pairs of judges (default: the first against each other one). Raises `ValueError` for what does not fit.
    """
    if len(records) == 0:
        raise ValueError("records: no row to evaluate; check the split and the filters")
    if (q is None) != (ceiling_source is None):
        raise ValueError(f"ceiling_source={ceiling_source!r}: give it exactly when q is given")
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r}: expected 'product' or 'image'")
    rows = _rows(records, unit, draws, seed)
    judges = {name: _measure(name, values, rows) for name, values in logits.items()}
    first = next(iter(judges))
    pairs = list(compare) if compare is not None else [(first, other) for other in judges if other != first]
    for name in sorted({name for pair in pairs for name in pair} - set(judges)):
        raise ValueError(f"compare: no variant {name!r}; there are {', '.join(judges)}")
    overall = judges[first].overall
    return {
        "n": {
            "rows": len(records),
            "items": rows.n_items,
            "units": rows.weights.n_units,
            "unit": unit,
            "markets": len(rows.markets),
            "country_pairs": int(overall.totals["pairs"]),
            "discordant_pairs": int(overall.totals["discordant"]),
        },
        "bootstrap": {"draws": draws, "seed": seed, "level": 0.95, "unit": unit},
        "discordant_share": interval(float(overall.value["discordant_share"]), overall.drawn["discordant_share"]),
        "ceilings": _ceilings(q, ceiling_source, rows),
        "variants": {name: _variant(judge) for name, judge in judges.items()},
        "differences": {f"{a} - {b}": _difference(rows, judges[a], judges[b]) for a, b in pairs},
    }


def _rows(records: pd.DataFrame, unit: Unit, draws: int, seed: int) -> _Rows:
    item, _ = pd.factorize(item_keys(records))
    firsts = records.iloc[np.unique(item, return_index=True)[1]]  # one row per item, in the order of the codes
    market = records["market"].to_numpy(object)
    return _Rows(
        label=records["label"].to_numpy(np.float64),
        item=item.astype(np.int64),
        n_items=len(firsts),
        market=market,
        markets=tuple(sorted(set(market))),
        weights=record_weights(firsts, unit, draws=draws, seed=seed),
    )


def _measure(name: str, logits: NDArray[np.float64], rows: _Rows) -> _Judge:
    """Sums per item of all rows, averaged over the draws of a random judge, and of every market; their totals and draws."""
    several = [_checked(name, draw, rows.item.size) for draw in np.atleast_2d(logits)]
    by_draw = [item_sums(rows.label, logit, rows.item, rows.n_items) for logit in several]
    tables = {_ALL: {column: np.mean([table[column] for table in by_draw], axis=0) for column in by_draw[0]}}
    for market in rows.markets:
        here = rows.market == market
        tables[market] = row_sums(rows.label[here], several[0][here], rows.item[here], rows.n_items)
    drawn = bootstrap_totals(tables, rows.weights)
    measured = {
        key: _Measured(total(table), metrics_of(total(table)), metrics_of(drawn[key])) for key, table in tables.items()
    }
    overall = measured.pop(_ALL)
    return _Judge(several[0], judge_row(name).letter_only, overall, measured)


def _checked(name: str, values: NDArray, n: int) -> Floats:
    """Logits as floats [R]; raises `ValueError` for another shape and for what is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"logits[{name!r}]: shape {values.shape}, expected one logit for each of {n} records")
    if not np.isfinite(values).all():
        raise ValueError(f"logits[{name!r}]: {int((~np.isfinite(values)).sum())} not finite; no evidence is 0, not NaN")
    return values


def _reported(metrics: Mapping[str, Interval], names: Sequence[str], *, letter_only: bool) -> dict[str, Interval]:
    """The named metrics; those of probabilities are empty where a judge states none."""
    return {name: NOTHING if letter_only and name in PROBABILITY_METRICS else metrics[name] for name in names}


def _variant(judge: _Judge) -> dict[str, Any]:
    """What report.json says of a judge."""
    totals, no_evidence = judge.overall.totals, float(np.mean(judge.logit == 0))
    metrics = metric_intervals(judge.overall.value, judge.overall.drawn)
    per_market = {}
    for market, measured in judge.by_market.items():
        in_market = metric_intervals(measured.value, measured.drawn)
        reported = _reported(in_market, ("accuracy", "brier", "ece"), letter_only=judge.letter_only)
        per_market[market] = {"n": int(measured.totals["rows"]), **reported}
    curve = reliability_curve(totals["bin_rows"], totals["bin_p"], totals["bin_y"])
    return {
        **_reported(metrics, REPORTED, letter_only=judge.letter_only),
        "coverage": 1 - no_evidence,  # share of rows with any evidence; a logit of exactly 0 is none
        "no_evidence": no_evidence,
        "per_market": per_market,
        "reliability": None if judge.letter_only else curve,
    }


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


def _difference(rows: _Rows, first: _Judge, second: _Judge) -> dict[str, Any]:
    """Metric by metric first - second on the same draws; p of the difference in accuracy, over all and per market (Holm).

    p is from the bootstrap over units. McNemar's p stands beside it: it takes rows as independent, which they are not.
    """
    whole = first.overall, second.overall
    metrics = difference_intervals(whole[0].value, whole[1].value, whole[0].drawn, whole[1].drawn)
    decided = rows.label != 0.5  # a tie is half right for everybody
    right_1, right_2 = (predicts_a(judge.logit) == (rows.label == 1) for judge in (first, second))
    in_market = {market: _accuracy_gap(first.by_market[market], second.by_market[market]) for market in rows.markets}
    corrected = holm({market: p for market, (_, p) in in_market.items()})
    return {
        "metrics": _reported(metrics, REPORTED, letter_only=first.letter_only or second.letter_only),
        "p": _accuracy_gap(*whole)[1],
        "mcnemar_p": mcnemar_p(right_1[decided], right_2[decided]),
        "per_market": {
            market: {
                "accuracy_difference": gap,
                "p": p,
                "p_holm": corrected[market],
                "mcnemar_p": mcnemar_p(right_1[here & decided], right_2[here & decided]),
                "n": int(here.sum()),
            }
            for market, (gap, p) in in_market.items()
            for here in [rows.market == market]
        },
    }


def _accuracy_gap(first: _Measured, second: _Measured) -> tuple[float, float]:
    """Difference in accuracy and its p."""
    gap = float(first.value["accuracy"] - second.value["accuracy"])
    return gap, bootstrap_p(gap, first.drawn["accuracy"] - second.drawn["accuracy"])
