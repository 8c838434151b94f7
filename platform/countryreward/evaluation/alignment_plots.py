"""Pictures of the comparison of a writer's variants, each a PNG as bytes, in the report's look."""

from collections.abc import Mapping, Sequence
from typing import Any

from countryreward.evaluation.plots import (
    BAD,
    DASHED,
    GOOD,
    MAIN,
    PALE,
    QUIET,
    SECOND,
    as_png,
    blank_figure,
    frame_axis,
    interval_bar,
    interval_line,
)
from countryreward.evaluation.report_text import market_name
from countryreward.evaluation.writer_cases import judge_name

LINES = {"reward": (MAIN, "o"), "held_out": (SECOND, "s"), "truth": (GOOD, "D")}
"""Judge -> colour and marker."""
OTHER = ("#a97bb5", "^")
AGAINST = (
    ("beats_original", "share", "Preferred to the original creative (share)"),
    ("beats_reference", "probability", "Probability of beating the reference's ad (mean)"),
)
"""Question, measure, title."""
ITSELF = {"value": 0.5, "low": None, "high": None}
"""The reference against its own ad."""


def judges_by_round(table: Mapping[str, Any], last_good: str) -> bytes:
    """What every judge says of every variant, with intervals: where they part, the writer has learned to please its judge."""
    order = table["order"]
    figure, axes = blank_figure(7.2, rows=2)
    for axis, (question, measure, title) in zip(axes, AGAINST, strict=True):
        frame_axis(axis, title, table, grid="y")
        axis.axhline(50, color=QUIET, lw=1, ls=DASHED, zorder=1)
        for number, judge in enumerate(table["judges"]):
            colour, marker = LINES.get(judge, OTHER)
            metrics = [table["variants"][name][question].get(judge, {measure: ITSELF})[measure] for name in order]
            at = [place + 0.07 * (number - (len(table["judges"]) - 1) / 2) for place in range(len(order))]
            interval_line(axis, at, metrics, color=colour, marker=marker, label=judge_name(judge))
        _kept(axis, order, last_good)
        axis.set_xticks(range(len(order)), order)
        axis.yaxis.set_major_formatter("{x:.0f} %")
        axis.margins(x=0.08, y=0.12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return as_png(figure)


def market_bars(table: Mapping[str, Any], judge: str, before: str, after: str) -> bytes:
    """Share preferred to the original creative, market by market, before and after, as one judge says."""
    markets = table["markets"]
    figure, (axis,) = blank_figure(1.3 + 0.5 * len(markets))
    frame_axis(axis, judge_name(judge), table)
    for offset, (name, colour) in zip((-0.2, 0.2), ((before, PALE), (after, MAIN)), strict=True):
        per_market = table["variants"][name]["beats_original"][judge]["per_market"]
        for place, market in enumerate(markets):
            bar = {"height": 0.38, "color": colour, "label": name if place == 0 else None}
            interval_bar(axis, place + offset, per_market[market]["share"], line=1.3, font={"fontsize": 8}, **bar)
    axis.axvline(50, color=QUIET, lw=1, ls=DASHED, zorder=3)
    axis.set_yticks(range(len(markets)), [market_name(market) for market in markets])
    axis.set_ylim(len(markets) - 0.4, -0.6)
    axis.set_xlim(0, 108)
    axis.set_xticks(range(0, 101, 25))
    axis.xaxis.set_major_formatter("{x:.0f} %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return as_png(figure)


def bounds_by_round(table: Mapping[str, Any], last_good: str, fidelity_least: float) -> bytes:
    """Fidelity, diversity and the distance to the reference of every variant."""
    order = table["order"]
    figure, axes = blank_figure(9.6, rows=3)
    panels = {
        "Product fidelity of the ads": {"mean": [table["variants"][name]["fidelity"]["mean"] for name in order]},
        "How much designs differ (share of words)": {
            label: [table["variants"][name]["diversity"][spread] for name in order]
            for spread, label in (
                ("within", "within a market"),
                ("across", "between markets"),
                ("market_effect", "between less within"),
            )
        },
        "KL to the reference (nats per design)": {"": [table["variants"][name]["kl"] for name in order]},
    }
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        frame_axis(axis, title, table, grid="y")
        looks = LINES.values()
        for number, ((label, metrics), (colour, marker)) in enumerate(zip(lines.items(), looks, strict=False)):
            at = [place + 0.06 * (number - (len(lines) - 1) / 2) for place in range(len(order))]
            name = label if len(lines) > 1 else None
            interval_line(axis, at, metrics, color=colour, marker=marker, label=name, scale=1)
        _kept(axis, order, last_good)
        axis.set_xticks(range(len(order)), order)
        axis.margins(x=0.08, y=0.15)
        if len(lines) > 1 and axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best", frameon=False, fontsize=8.5)
    axes[0].axhline(fidelity_least, color=BAD, lw=1.3, ls=DASHED, zorder=1)
    axes[0].text(0, fidelity_least, "bound", color=BAD, fontsize=8.5, va="bottom", ha="center")
    return as_png(figure)


def _kept(axis: Any, order: Sequence[str], last_good: str) -> None:
    """A band behind the variant that is kept."""
    place = order.index(last_good)
    axis.axvspan(place - 0.22, place + 0.22, color="#eef3f8", zorder=0)
    axis.text(place, 1, "kept", transform=axis.get_xaxis_transform(), ha="center", va="top", fontsize=8.5, color=QUIET)
