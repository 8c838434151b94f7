"""What a sweep says: every trial with its interval, and the response to each parameter.

Trials are judged on the same validation pairs, so they are compared on the same bootstrap draws: what is easy or hard for all of
them cancels in a difference. The best of many is chosen on these pairs, so its own number is a little too good; the difference to
the others is what to look at, and a test split what to report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.records import item_keys
from countryreward.equations.metrics import Floats, Sums, item_sums, metrics_of, total
from countryreward.errors import UserError
from countryreward.evaluation.statistics import Interval, bootstrap_totals, interval, unit_weights

METRICS = ("discordant_ordering", "accuracy", "log_loss")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One parameter set, trained."""

    name: str
    """Of its run folder; empty: it failed before it had one."""
    params: Mapping[str, Any]
    status: str
    """finished, stopped (by the scheduler) or failed."""
    why: str
    """Of a failed one."""
    validations: Sequence[Mapping[str, Any]]
    """Lines of its log, in order."""
    seconds: float
    verdicts: pd.DataFrame | None
    """record_id, label, logit of the validation records at its best validation; None: it had none."""


def sweep_table(trials: Sequence[Trial], records: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Everything the report shows, ready for JSON. records: those of the validation split, with `product_id`.

    `metric` is discordant ordering, or accuracy where no two countries disagree. The best is one that did not fail, where there
    is one. Raises `UserError` where no trial got as far as a validation.
    """
    judged = {n: trial for n, trial in enumerate(trials) if trial.verdicts is not None}
    if not judged:
        why = next((trial.why for trial in trials if trial.why), "none had a validation")
        raise UserError(f"sweep: no trial can be compared; the first failed with: {why}")
    sums, products = _sums(judged, records)
    weights = unit_weights(products, draws=draws, seed=seed)
    values = {n: metrics_of(total(each)) for n, each in sums.items()}
    drawn = {
        int(n): metrics_of(each) for n, each in bootstrap_totals({str(n): s for n, s in sums.items()}, weights).items()
    }
    metric = METRICS[0] if np.isfinite([float(found[METRICS[0]]) for found in values.values()]).all() else METRICS[1]
    sound = [n for n, trial in judged.items() if trial.status != "failed"] or list(judged)
    best = max(sound, key=lambda n: (float(values[n][metric]), -n))
    told = []
    for n, trial in enumerate(trials):
        row: dict[str, Any] = {
            "name": trial.name,
            "params": dict(trial.params),
            "status": trial.status,
            "why": trial.why,
            "seconds": round(trial.seconds, 1),
            "validations": [{"step": line["step"], metric: line[metric]} for line in trial.validations],
        }
        if n in judged:
            row |= {name: interval(float(values[n][name]), drawn[n][name]) for name in METRICS}
            less = drawn[n][metric] - drawn[best][metric]
            row["to_best"] = interval(float(values[n][metric] - values[best][metric]), less)
        told.append(row)
    return {
        "metric": metric,
        "trials": told,
        "best": trials[best].name,
        "curves": _curves(trials, judged, values, drawn, metric),
        "n": {
            "trials": len(trials),
            **{status: sum(trial.status == status for trial in trials) for status in ("finished", "stopped", "failed")},
            "products": int(np.unique(products).size),
            "pairs": len(products),
        },
        "bootstrap": {"draws": draws, "seed": seed, "unit": "product"},
    }


def varied(trials: Sequence[Trial]) -> list[str]:
    """Parameters with more than one value, in the order of the space."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    return [name for name in names if len({str(trial.params.get(name)) for trial in trials}) > 1]


def _sums(judged: Mapping[int, Trial], records: pd.DataFrame) -> tuple[dict[int, Sums], np.ndarray]:
    """Sums per item (pair) of every trial, on the records that all of them have; and the product of each item."""
    frames = {n: trial.verdicts.set_index("record_id") for n, trial in judged.items() if trial.verdicts is not None}
    shared = sorted(set.intersection(*(set(frame.index) for frame in frames.values())))
    if not shared:
        raise UserError(
            "sweep: the trials share no validation record; leave loop.seed and loop.validation_items out of the space"
        )
    rows = records.set_index("record_id").loc[shared].reset_index()
    item, names = pd.factorize(item_keys(rows))
    products = rows.groupby(item)["product_id"].first().to_numpy(str)
    label = rows["label"].to_numpy(np.int8)
    found = {
        n: item_sums(label, frame.loc[shared, "logit"].to_numpy(float), item.astype(np.int64), len(names))
        for n, frame in frames.items()
    }
    return found, products


def _curves(
    trials: Sequence[Trial],
    judged: Mapping[int, Trial],
    values: Mapping[int, Mapping[str, Floats]],
    drawn: Mapping[int, Mapping[str, Floats]],
    metric: str,
) -> dict[str, list[dict[str, Any]]]:
    """Parameter -> its values in order, each with the mean over the trials that had it, whatever else they had.

    Only for parameters whose values come back: of a continuous draw every value is one trial.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in varied(list(judged.values())):
        groups: dict[str, list[int]] = {}  # a value may be a dictionary
        for n, trial in judged.items():
            groups.setdefault(str(trial.params.get(name)), []).append(n)
        found = []
        for members in sorted(groups.values(), key=lambda each: _order(trials[each[0]].params.get(name))):
            value = trials[members[0]].params.get(name)
            mean = float(np.mean([float(values[n][metric]) for n in members]))
            spread: Interval = interval(mean, np.mean([drawn[n][metric] for n in members], axis=0))
            found.append({"value": value, "trials": [trials[n].name for n in members], "mean": spread})
        curves[name] = found
    return curves


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))
