"""Pictures of a sweep, each a PNG as bytes, in the report's look."""

from collections.abc import Mapping, Sequence
from typing import Any

from countryreward.evaluation.plots import GRID, INK, MAIN, QUIET, as_png, blank_figure, frame_axis
from countryreward.evaluation.report_text import METRICS

STOPPED, BEST = "#b4c0ce", "#d08a1d"


def response_curves(table: Mapping[str, Any], simulated: bool) -> bytes:
    """One panel per parameter: the mean over the trials with each value, its 95 % interval, and every trial as a dot."""
    curves = {name: points for name, points in table["curves"].items() if len(points) > 1}
    figure, axes = blank_figure(0.9 + 2.0 * len(curves), rows=len(curves))
    metric = table["metric"]
    trials = {trial["name"]: trial for trial in table["trials"]}
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        frame_axis(axis, f"{METRICS[metric][0]} by {name}", {"simulated": simulated}, grid="y")
        places = range(len(points))
        for place, point in zip(places, points, strict=True):
            for number, member in enumerate(point["trials"]):
                shift = 0.05 * (number - (len(point["trials"]) - 1) / 2)
                whole = trials[member]["status"] == "finished"
                axis.plot(
                    place + shift,
                    100 * trials[member][metric]["value"],
                    marker="o",
                    ms=4,
                    color=INK if whole else STOPPED,
                    mfc=INK if whole else "white",
                    zorder=3,
                )
            if point["mean"]["low"] is not None:
                ends = [100 * point["mean"]["low"], 100 * point["mean"]["high"]]
                axis.plot([place, place], ends, color=MAIN, lw=5, alpha=0.25, zorder=2, solid_capstyle="butt")
        axis.plot(
            places, [100 * point["mean"]["value"] for point in points], color=MAIN, lw=1.8, marker="s", ms=5, zorder=4
        )
        axis.set_xticks(places, [shown(point["value"]) for point in points])
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
        best, whole = trial["name"] == table["best"], trial["status"] == "finished"
        colour = BEST if best else MAIN if whole else STOPPED
        axis.plot(
            range(len(heights)),
            heights,
            color=colour,
            lw=2.6 if best else 1.2,
            alpha=1 if best else 0.7,
            zorder=4 if best else 3,
        )
    for place, values in enumerate(ticks):
        if len(values) <= 12:
            for value in values:
                axis.text(
                    place, _height(value, values), f" {shown(value)}", fontsize=8, color=INK, va="center", zorder=5
                )
    for height, score in ((0.0, low), (1.0, high)):
        axis.text(len(names), height, f" {100 * score:.1f} %", fontsize=8, color=INK, va="center", zorder=5)
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
        points = [(line["step"], line[metric]) for line in trial["validations"] if line[metric] is not None]
        if not points:
            continue
        best = trial["name"] == table["best"]
        colour = BEST if best else MAIN if trial["status"] == "finished" else STOPPED
        axis.plot(
            [step for step, _ in points],
            [100 * value for _, value in points],
            color=colour,
            lw=2.4 if best else 1.2,
            marker="o",
            ms=3,
            zorder=4 if best else 3,
        )
    axis.set_xlabel("optimizer steps", fontsize=9, color=QUIET)
    axis.yaxis.set_major_formatter("{x:.0f} %")
    return as_png(figure)


def shown(value: Any) -> str:
    """A value of a parameter on an axis or in a cell."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _height(value: Any, values: Sequence[Any]) -> float:
    return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5
