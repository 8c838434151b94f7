"""What a sweep says: every trial with its interval, the response to each parameter, and the page that shows them.

Trials are judged on the same validation pairs, so they are compared on the same bootstrap draws: what is easy or hard for all of
them cancels in a difference. The best of many is chosen on these pairs, so its own number is a little too good; the difference to
the others is what to look at, and a test split what to report.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.records import item_keys
from countryreward.equations.metrics import Floats, Sums, item_sums, metrics_of, total
from countryreward.errors import UserError
from countryreward.evaluation.page import figures, write_page
from countryreward.evaluation.plots import GRID, INK, MAIN, PALE, QUIET, SECOND, as_png, blank_figure, frame_axis
from countryreward.evaluation.report_text import METRICS, cell, percent, points, span
from countryreward.evaluation.statistics import Interval, bootstrap_totals, interval, unit_weights

MEASURED = ("discordant_ordering", "accuracy", "log_loss")
"""Of every trial. They are compared by the first, or by the second where a trial lacks it."""
_GOES_ON = {
    "finished": "Its training is there already, so the command only publishes the model.",
    "stopped": "It was stopped early: the command trains it to its end and publishes the model.",
    "failed": "All trials failed, this one after it was measured. The command goes on with it, and may fail where it failed.",
}
"""Status of the best trial -> what the command does with it."""


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
    values = {n: metrics_of(total(table)) for n, table in sums.items()}
    totals = bootstrap_totals({str(n): table for n, table in sums.items()}, weights)
    drawn = {int(n): metrics_of(table) for n, table in totals.items()}
    ordering, accuracy, _ = MEASURED
    metric = ordering if np.isfinite([float(metrics[ordering]) for metrics in values.values()]).all() else accuracy
    sound = [n for n, trial in judged.items() if trial.status != "failed"] or list(judged)
    best = max(sound, key=lambda n: (float(values[n][metric]), -n))
    rows = []
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
            row |= {name: interval(float(values[n][name]), drawn[n][name]) for name in MEASURED}
            less = drawn[n][metric] - drawn[best][metric]
            row["to_best"] = interval(float(values[n][metric] - values[best][metric]), less)
        rows.append(row)
    return {
        "metric": metric,
        "trials": rows,
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
    label = rows["label"].to_numpy(np.float64)
    sums = {
        n: item_sums(label, frame.loc[shared, "logit"].to_numpy(float), item.astype(np.int64), len(names))
        for n, frame in frames.items()
    }
    return sums, products


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
        curves[name] = []
        for members in sorted(groups.values(), key=lambda group: _order(trials[group[0]].params.get(name))):
            value = trials[members[0]].params.get(name)
            mean = float(np.mean([float(values[n][metric]) for n in members]))
            spread: Interval = interval(mean, np.mean([drawn[n][metric] for n in members], axis=0))
            curves[name].append({"value": value, "trials": [trials[n].name for n in members], "mean": spread})
    return curves


def _order(value: Any) -> tuple[int, float, str]:
    """Sorts numbers by size, and everything else by its text, after them."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def write_sweep_report(
    table: Mapping[str, Any],
    folder: Path,
    *,
    simulated: bool,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
    best_yaml: str = "",
) -> None:
    """Write report.html and report.json. table: of `sweep_table`. best_yaml: the config that goes on from the best trial, shown
    as it is. facts: (name, text) of machine and versions."""
    whole = {**table, "simulated": simulated, "command": command, "facts": dict(facts)}
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    plots = [(learning_curves(table, simulated), "A line that ends early was stopped by the scheduler.")]
    if any(len(curve) > 1 for curve in table["curves"].values()):
        caption = "Line: mean over all trials with a value; band: 95 % interval; dots: trials, pale ones stopped early."
        plots = [
            (response_curves(table, simulated), caption),
            (parallel_coordinates(table, simulated), "The best trial stands out; pale lines were stopped early."),
            *plots,
        ]
    write_page(
        "sweep_report.html.j2",
        folder / "report.html",
        headline=headline(table),
        findings=findings(table),
        plots=figures(plots),
        names=list(table["trials"][0]["params"]),
        metric=METRICS[table["metric"]][0],
        rows=_rows(table),
        failed=[trial for trial in table["trials"] if trial["status"] == "failed"],
        facts=[
            ("trials", ", ".join(f"{table['n'][name]} {name}" for name in ("finished", "stopped", "failed"))),
            ("validation", f"{table['n']['pairs']:,} pairs of {table['n']['products']:,} products"),
            ("intervals", f"95 %, {table['bootstrap']['draws']:,} bootstrap draws over products"),
            *facts,
        ],
        command=command,
        best_yaml=best_yaml,
        best_goes_on=_GOES_ON[best_of(table)["status"]],
        simulated=simulated,
    )


def headline(table: Mapping[str, Any]) -> str:
    """The best trial in words."""
    best = best_of(table)
    params = ", ".join(f"{name.split('.')[-1]} = {value_text(value)}" for name, value in best["params"].items())
    return f"Best of {table['n']['trials']}: {params}"


def findings(table: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the headline."""
    best, metric = best_of(table), table["metric"]
    name, interval_text = METRICS[metric][0].lower(), span(best[metric], 1)
    rivals = [trial for trial in table["trials"] if metric in trial and trial["name"] != table["best"]]
    near = [trial for trial in rivals if trial["to_best"]["high"] is None or trial["to_best"]["high"] >= 0]
    within = f" (95 % interval {interval_text})" if interval_text else ""
    sentences = [f"Its {name} on the validation pairs: {percent(best[metric]['value'], 1)}{within}."]
    if rivals and near:
        sentences.append(
            f"{len(near)} of the {len(rivals)} other trials cannot be told from it: the interval of their difference holds 0."
        )
    elif rivals:
        sentences.append("Every other trial is worse, and the interval of the difference does not hold 0.")
    sentences.append(
        "It was chosen on these pairs, so its own number is a little too good; jobs/evaluate_reward.py measures it on others."
    )
    if table["n"]["stopped"]:
        sentences.append(
            f"{table['n']['stopped']} trials were stopped early: their numbers are of a shorter training, and means over trials "
            "mix both."
        )
    return sentences


def best_of(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The best trial's row."""
    return next(trial for trial in table["trials"] if trial["name"] == table["best"])


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Trials from best to worst; those without a number last."""
    metric = table["metric"]
    scored = sorted((trial for trial in table["trials"] if metric in trial), key=lambda trial: -trial[metric]["value"])
    return [
        {
            "params": [value_text(value) for value in trial["params"].values()],
            "cells": [cell(trial[metric], True), points(trial["to_best"]), cell(trial["log_loss"], False)],
            "status": trial["status"],
            "steps": max((line["step"] for line in trial["validations"]), default=0),
            "seconds": f"{trial['seconds']:,.0f}",
            "name": trial["name"],
            "best": trial["name"] == table["best"],
        }
        for trial in scored
    ]


def response_curves(table: Mapping[str, Any], simulated: bool) -> bytes:
    """One panel per parameter: the mean over the trials with each value, its 95 % interval, and every trial as a dot."""
    curves = {name: curve for name, curve in table["curves"].items() if len(curve) > 1}
    figure, axes = blank_figure(0.9 + 2.0 * len(curves), rows=len(curves))
    metric = table["metric"]
    trials = {trial["name"]: trial for trial in table["trials"]}
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        frame_axis(axis, f"{METRICS[metric][0]} by {name}", {"simulated": simulated}, grid="y")
        places = range(len(curve))
        for place, point in zip(places, curve, strict=True):
            for number, member in enumerate(point["trials"]):
                shift = 0.05 * (number - (len(point["trials"]) - 1) / 2)
                finished = trials[member]["status"] == "finished"
                dot: dict[str, Any] = {"color": INK, "mfc": INK} if finished else {"color": PALE, "mfc": "white"}
                axis.plot(place + shift, 100 * trials[member][metric]["value"], marker="o", ms=4, zorder=3, **dot)
            if point["mean"]["low"] is not None:
                ends = [100 * point["mean"]["low"], 100 * point["mean"]["high"]]
                axis.plot([place, place], ends, color=MAIN, lw=5, alpha=0.25, zorder=2, solid_capstyle="butt")
        means = [100 * point["mean"]["value"] for point in curve]
        axis.plot(places, means, color=MAIN, lw=1.8, marker="s", ms=5, zorder=4)
        axis.set_xticks(places, [value_text(point["value"]) for point in curve])
        axis.margins(x=0.12, y=0.12)
        axis.yaxis.set_major_formatter("{x:.1f} %")
    return as_png(figure)


def parallel_coordinates(table: Mapping[str, Any], simulated: bool) -> bytes:
    """Every trial a line over its parameters to its score; the best stands out, stopped trials are pale."""
    names = list(table["curves"])
    scored = [trial for trial in table["trials"] if table["metric"] in trial]
    scored.sort(key=lambda trial: trial[table["metric"]]["value"])
    figure, (axis,) = blank_figure(4.2)
    frame_axis(
        axis, f"Every trial, to its score: {METRICS[table['metric']][0].lower()}", {"simulated": simulated}, grid="x"
    )
    ticks: list[list[Any]] = [[point["value"] for point in table["curves"][name]] for name in names]
    scores = [trial[table["metric"]]["value"] for trial in scored]
    low, high = min(scores), max(scores)
    for trial in scored:
        heights = [_height(trial["params"].get(name), values) for name, values in zip(names, ticks, strict=True)]
        heights.append((trial[table["metric"]]["value"] - low) / (high - low or 1))
        axis.plot(
            range(len(heights)), heights, alpha=1 if trial["name"] == table["best"] else 0.7, **_style(trial, table)
        )
    label: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "center", "zorder": 5}
    for place, values in enumerate(ticks):
        if len(values) <= 12:
            for value in values:
                axis.text(place, _height(value, values), f" {value_text(value)}", **label)
    for height, score in ((0.0, low), (1.0, high)):
        axis.text(len(names), height, f" {100 * score:.1f} %", **label)
    axis.set_xticks(range(len(names) + 1), [*(name.split(".")[-1] for name in names), "score"])
    axis.tick_params(axis="x", labelsize=8)
    axis.set_yticks([])
    axis.set_xlim(-0.25, len(names) + 0.45)
    axis.grid(True, axis="x", color=GRID)
    return as_png(figure)


def learning_curves(table: Mapping[str, Any], simulated: bool) -> bytes:
    """The score of every trial at each of its validations; where a line ends early the scheduler stopped it."""
    figure, (axis,) = blank_figure(3.4)
    metric = table["metric"]
    frame_axis(axis, f"{METRICS[metric][0]} while training", {"simulated": simulated}, grid="y")
    for trial in table["trials"]:
        scores = {line["step"]: 100 * line[metric] for line in trial["validations"] if line[metric] is not None}
        if scores:
            axis.plot(list(scores), list(scores.values()), marker="o", ms=3, **_style(trial, table))
    axis.set_xlabel("optimizer steps", fontsize=9, color=QUIET)
    axis.yaxis.set_major_formatter("{x:.0f} %")
    return as_png(figure)


def value_text(value: Any) -> str:
    """A value of a parameter on an axis or in a cell."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _style(trial: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Of a trial's line: the best stands out, one that was stopped or failed is pale."""
    if trial["name"] == table["best"]:
        return {"color": SECOND, "lw": 2.5, "zorder": 4}
    return {"color": MAIN if trial["status"] == "finished" else PALE, "lw": 1.2, "zorder": 3}


def _height(value: Any, values: Sequence[Any]) -> float:
    """Where a value stands among its parameter's, from 0 to 1."""
    return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5
