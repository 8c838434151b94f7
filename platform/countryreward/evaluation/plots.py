"""The reward report's pictures, each a PNG as bytes, narrow enough to be read on a phone; and the look that all reports share.

matplotlib loads on first use.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from countryreward.evaluation.judge_rows import CEILINGS, judge_row
from countryreward.evaluation.report_text import METRICS, Metric, is_simulated, market_name, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID = "#1d2733", "#66717f", "#e3e7ec"
MAIN, SECOND, PALE = "#1f5fa8", "#d08a1d", "#b4c0ce"
GOOD, BAD = "#2e7d5b", "#b3413a"
DASHED, DOTTED = (0, (4, 2)), (0, (1.5, 1.5))
WIDTH = 5.8  # inches; at 170 dots per inch a phone shows 10 points at about 9 pixels


def variant_bars(report: Mapping[str, Any]) -> bytes:
    """Variants x (accuracy, discordant sensitivity, discordant ordering), 95 % intervals, ceilings as dashed lines."""
    variants, ceilings = report["variants"], report["ceilings"]
    metrics = ("accuracy", "discordant_sensitivity", "discordant_ordering")
    height = 1.0 + len(metrics) * (0.62 + 0.36 * len(variants))
    figure, axes = blank_figure(height, rows=len(metrics))
    for axis, metric in zip(axes, metrics, strict=True):
        frame_axis(axis, METRICS[metric][0], report)
        for place, name in enumerate(variants):
            if variants[name][metric]["value"] is None:
                axis.text(1, place, "no data", va="center", color=QUIET, fontsize=8.5)
            else:
                bar = {"height": 0.62, "color": MAIN if place == 0 else PALE}
                interval_bar(axis, place, variants[name][metric], font={"fontsize": 9, "color": INK}, **bar)
        for key, style, colour in zip(CEILINGS, (DASHED, DOTTED), (GOOD, BAD), strict=True):
            limit = ceilings[key][metric]["value"]
            if limit is not None:
                axis.axvline(100 * limit, ls=style, color=colour, lw=1.5, zorder=3, label=name_of(key))
        labels = [name_of(name).replace(f"{name_of('country_reward')}, ", "… ") for name in variants]
        axis.set_yticks(range(len(variants)), [textwrap.fill(label, 24) for label in labels], fontsize=8.5)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.xaxis.set_major_formatter("{x:.0f} %")
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return as_png(figure)


def market_dots(report: Mapping[str, Any]) -> bytes:
    """Accuracy per market: the first variant as a bar with its interval, those that are in every plot as marks."""
    first, *others = _few(report)
    variants = report["variants"]
    table = variants[first]["per_market"]
    markets = sorted(table, key=lambda m: table[m]["accuracy"]["value"] or 0)
    figure, (axis,) = blank_figure(1.6 + 0.30 * len(markets) + 0.2 * ((len(others) + 2) // 2))
    frame_axis(axis, "Right answers by country", report)
    axis.axvline(50, color=QUIET, lw=1, zorder=1)
    for place, market in enumerate(markets):
        bar = {"height": 0.6, "color": "#b4c9e2", "label": name_of(first) if place == 0 else None}
        interval_bar(axis, place, table[market]["accuracy"], **bar)
    for number, name in enumerate(others):
        values = [variants[name]["per_market"][market]["accuracy"]["value"] for market in markets]
        points = [(100 * value, place) for place, value in enumerate(values) if value is not None]
        colour = (SECOND, "#8a929d", BAD, "#7b9e6b", "#a97bb5")[number % 5]
        axis.scatter(
            [x for x, _ in points], [y for _, y in points], label=name_of(name), s=30, marker="dsv^P"[number % 5],
            facecolor="white", edgecolor=colour, linewidth=1.4, zorder=5,
        )  # fmt: skip
    axis.set_yticks(range(len(markets)), [market_name(market) for market in markets])
    axis.set_ylim(-0.6, len(markets) - 0.4)
    axis.set_xlim(0, 100)
    axis.xaxis.set_major_formatter("{x:.0f} %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return as_png(figure)


def reliability_curves(report: Mapping[str, Any]) -> bytes:
    """Stated against observed share of A, bin by bin, with Wilson intervals; the diagonal is a promise kept."""
    figure, (axis,) = blank_figure(5.2)
    frame_axis(axis, "Is a stated probability kept?", report, grid="both")
    axis.plot([0, 100], [0, 100], color=QUIET, lw=1, ls=DASHED, zorder=1)
    axis.text(
        96, 93, "kept exactly", rotation=45, rotation_mode="anchor", transform_rotates_text=True,
        ha="right", va="top", fontsize=9, color=QUIET,
    )  # fmt: skip
    curves = {name: report["variants"][name].get("reliability") for name in _few(report)}
    curves = {name: curve for name, curve in curves.items() if curve}
    for number, (name, curve) in enumerate(curves.items()):
        x, y = [100 * b["p"] for b in curve], [100 * b["observed"] for b in curve]
        spread = [
            [100 * (b["observed"] - b["low"]) for b in curve],
            [100 * (b["high"] - b["observed"]) for b in curve],
        ]
        axis.errorbar(x, y, yerr=spread, fmt="-", marker="o", ms=4.5, lw=1.6, elinewidth=1,
                      color=(MAIN, SECOND, "#7b9e6b", "#a97bb5")[number % 4],
                      alpha=1 if number == 0 else 0.8, label=name_of(name), zorder=5 - number)  # fmt: skip
    axis.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="said: A wins with probability", ylabel="A really won")
    axis.xaxis.set_major_formatter("{x:.0f} %")
    axis.yaxis.set_major_formatter("{x:.0f} %")
    if curves:
        axis.legend(loc="upper left", frameon=False, fontsize=9)
    return as_png(figure)


def choose_k_curves(curves: Mapping[str, Mapping[str, Any]], simulated: bool = False) -> bytes:
    """Mean similarity by rank for each search stage and the k at which the drop reaches the threshold."""
    figure, axes = blank_figure(0.4 + 2.5 * len(curves), rows=len(curves))
    for axis, (stage, curve) in zip(axes, curves.items(), strict=True):
        frame_axis(axis, f"How alike is the n-th neighbour? ({stage} search)", {"simulated": simulated}, grid="y")
        ranks, similar, k = list(curve["rank"]), list(curve["mean_similarity"]), int(curve["k"])
        axis.plot(ranks, similar, color=MAIN, lw=2, zorder=3)
        if k in ranks:
            at = similar[ranks.index(k)]
            axis.plot([k, k], [min(similar), at], color=SECOND, lw=1.4, ls=(0, (3, 2)), zorder=2)
            axis.scatter([k], [at], s=46, color=SECOND, zorder=4)
            right = k <= ranks[0] + 0.65 * (ranks[-1] - ranks[0])
            axis.annotate(
                f"k = {k}: {100 * curve['threshold']:.0f} % of the drop\nover the first {curve['K']}",
                (k, at),
                xytext=(9, 12) if right else (0, 36),
                textcoords="offset points",
                ha="left" if right else "right",
                fontsize=9,
                color=INK,
            )
        axis.set(xlabel="rank of the neighbour", ylabel="mean similarity")
        axis.margins(x=0.02, y=0.18)
    return as_png(figure)


def counts_bars(counts: Mapping[str, Mapping[str, Any]], simulated: bool = False) -> bytes:
    """Kept, dropped and quarantined rows of every stage, as shares of its input."""
    figure, (axis,) = blank_figure(1.35 + 0.5 * len(counts))
    frame_axis(axis, "What became of the input rows", {"simulated": simulated})
    for place, stage in enumerate(counts.values()):
        parts = (
            ("kept", amount(stage.get("kept", stage.get("records", 0))), GOOD),
            ("dropped (no usable label)", amount(stage.get("dropped", 0)), "#d9a441"),
            ("quarantined (broken input)", amount(stage.get("quarantined", 0)), BAD),
        )
        whole, left = max(amount(stage.get("input", 0)), 1), 0.0
        for label, number, colour in parts:
            share = 100 * number / whole
            axis.barh(place, share, left=left, height=0.6, color=colour, zorder=2, label=label if place == 0 else None)
            if share > 9:
                axis.text(left + share / 2, place, f"{number:,}", ha="center", va="center", color="white", fontsize=9)
            left += share
    labels = [f"{name}\n({amount(stage.get('input', 0)):,})" for name, stage in counts.items()]
    axis.set_yticks(range(len(counts)), labels)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.xaxis.set_major_formatter("{x:.0f} %")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, columnspacing=1, handlelength=1.2)
    return as_png(figure)


def _few(report: Mapping[str, Any]) -> list[str]:
    """Variants where there is not room for all: the first, and those that are in every plot."""
    first = next(iter(report["variants"]))
    return [first, *(name for name in report["variants"] if name != first and judge_row(name).in_every_plot)]


def amount(count: Any) -> int:
    """A count given as a number or as {reason: number}."""
    return sum(int(n) for n in count.values()) if isinstance(count, Mapping) else int(count)


def blank_figure(height: float, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure as wide as all others, so many inches high, with axes one below the other."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(WIDTH, height), dpi=170, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08, hspace=0.06)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    return figure, list(axes)


def frame_axis(axis: "Axes", title: str, report: Mapping[str, Any], grid: str = "x") -> None:
    """One look for all; simulated numbers say so where they stand."""
    axis.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=7)
    if is_simulated(report):
        axis.set_title("simulated", loc="right", fontsize=8.5, color=QUIET, style="italic", pad=7)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.tick_params(length=0, labelsize=9.5, colors=INK)
    axis.grid(axis=grid, color=GRID, lw=0.8, zorder=0)  # pyright: ignore[reportArgumentType]
    axis.set_axisbelow(True)


def interval_bar(
    axis: "Axes",
    place: float,
    metric: Metric,
    *,
    height: float,
    color: str,
    label: str | None = None,
    line: float = 1.6,
    font: Mapping[str, Any] | None = None,
) -> None:
    """A share as a bar of per cent with its interval as a line; nothing where it has no value.

    line: width of the interval's. font: of the number beside it, on a white ground that a dashed line may cross; None: no number.
    """
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is None:
        return
    axis.barh(place, 100 * value, height=height, color=color, zorder=2, label=label)
    edge = value
    if low is not None and high is not None:
        axis.plot([100 * low, 100 * high], [place] * 2, color=INK, lw=line, zorder=4, solid_capstyle="butt")
        edge = high
    if font:
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        axis.text(100 * edge + 1.5, place, f"{100 * value:.0f} %", va="center", zorder=6, bbox=ground, **font)


def interval_line(
    axis: "Axes",
    at: Sequence[float],
    metrics: Sequence[Metric],
    *,
    color: str,
    marker: str,
    label: str | None,
    scale: int = 100,
) -> None:
    """Values joined by a line, each with its interval; what is None is left out."""
    points = [(x, metric) for x, metric in zip(at, metrics, strict=True) if metric["value"] is not None]
    values = [scale * (metric["value"] or 0) for _, metric in points]
    axis.plot([x for x, _ in points], values, color=color, marker=marker, ms=5, lw=1.8, label=label, zorder=4)
    for x, metric in points:
        if metric["low"] is not None and metric["high"] is not None:
            axis.plot([x, x], [scale * metric["low"], scale * metric["high"]], color=color, lw=1.3, zorder=3)


def as_png(figure: "Figure") -> bytes:
    """The finished picture, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
