"""report.html of the reward: one file that opens anywhere, for a marketing person first and an engineer second."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countryreward.equations.metrics import RANKING_METRICS
from countryreward.evaluation import plots
from countryreward.evaluation import report_text as text
from countryreward.evaluation.flip_cards import FlipCard
from countryreward.evaluation.judge_rows import CEILINGS
from countryreward.evaluation.page import figures, picture_uri, write_page

THUMBNAIL = 420
"""Longest side in pixels of a picture in the gallery: the page stays small enough to mail."""
TITLE = 120
"""Most characters of a product's title."""


def write_report_page(
    report: Mapping[str, Any], gallery: Sequence[FlipCard], curves: Mapping[str, Mapping[str, Any]], path: Path | str
) -> None:
    """Write the page; its headline speaks of the report's first judge.

    report: `evaluate`'s dict, with `counts`, `seconds`, `machine`, `versions`, `command` and, where the numbers are
    not real, `simulated: True` if the job has them. curves: {stage: {rank, mean_similarity, k, K, threshold}}.
    """
    subject = next(iter(report["variants"]))
    write_page(
        "report.html.j2",
        path,
        headline=text.headline(report, subject),
        findings=text.findings(report, subject),
        tiles=_tiles(report, subject),
        who=text.name_of(subject),
        plots=figures(_plots(report, curves)),
        gallery=[_card(card) for card in gallery],
        judges=[{"name": text.name_of(name), "key": name} for name in (*report["variants"], *CEILINGS)],
        metrics=_metric_rows(report),
        differences=_difference_rows(report),
        counts=[
            {"stage": stage, **{name: plots.amount(n) for name, n in counts.items() if name != "reasons"}}
            for stage, counts in report.get("counts", {}).items()
        ],
        facts=_facts(report),
        simulated=text.is_simulated(report),
        report=report,
        command=report.get("command", ""),
    )


def _tiles(report: Mapping[str, Any], subject: str) -> list[dict[str, str]]:
    """The three numbers at the top, each with what others reach."""
    noise, blind = report["ceilings"]["noise"], report["ceilings"]["market_blind"]
    blind_accuracy = blind["accuracy"]["value"]

    def with_ceiling(metric: str) -> str:
        value = noise[metric]["value"]
        return "" if value is None else f" · knowing the true click rates: {text.percent(value)}"

    compared = {
        "discordant_ordering": "ignoring the country: 50 %" + with_ceiling("discordant_ordering"),
        "discordant_sensitivity": "ignoring the country: 0 % · a coin: 25 %" + with_ceiling("discordant_sensitivity"),
        "accuracy": "a coin: 50 %"
        if blind_accuracy is None
        else f"knowing the true click rates, country-blind: {text.percent(blind_accuracy)}",
    }
    metrics = report["variants"][subject]
    return [
        {
            "name": text.METRICS[name][0],
            "value": text.percent(metrics[name]["value"]),
            "span": text.span(metrics[name]),
            "compare": compare,
        }
        for name, compare in compared.items()
    ]


def _plots(report: Mapping[str, Any], curves: Mapping[str, Any]) -> list[tuple[bytes, str]]:
    """Pictures with their captions; a part that the report lacks has none."""
    simulated = text.is_simulated(report)
    pictures = [
        (plots.variant_bars(report), "Every judge on the three numbers that matter, with 95 % intervals."),
        (plots.market_dots(report), "Right answers country by country; the line is the 95 % interval."),
    ]
    if any(judge.get("reliability") for judge in report["variants"].values()):
        pictures.append((plots.reliability_curves(report), "Stated probability against what happened."))
    if curves:
        pictures.append((plots.choose_k_curves(curves, simulated), "How many neighbours to listen to, and why."))
    if report.get("counts"):
        pictures.append(
            (plots.counts_bars(report["counts"], simulated), "Rows kept, dropped and quarantined by stage.")
        )
    return pictures


def _metric_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per metric with a cell per judge and ceiling."""
    judges = [*report["variants"].values(), *(report["ceilings"][name] for name in CEILINGS)]
    return [
        {
            "name": name,
            "meaning": meaning,
            "cells": [
                text.cell(judge[metric], metric in RANKING_METRICS) if metric in judge else ("–", "")
                for judge in judges
            ],
        }
        for metric, (name, meaning) in text.METRICS.items()
    ]


def _difference_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per comparison of two judges."""
    rows = []
    for title, difference in report.get("differences", {}).items():
        first, second = title.split(" - ")
        significant = [text.market_name(m) for m, row in difference["per_market"].items() if row["p_holm"] < 0.05]
        rows.append(
            {
                "title": f"{text.name_of(first)} against {text.name_of(second).lower()}",
                "cells": [text.points(difference["metrics"][name]) for name in ("accuracy", "discordant_ordering")],
                "p": text.stated_p(difference["p"]),
                "markets": ", ".join(significant) or "none",
            }
        )
    return rows


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an engineer asks for, as (name, text)."""
    facts = [(f"number of {name.replace('_', ' ')}", f"{n:,}") for name, n in report["n"].items() if name != "unit"]
    facts.append(("intervals", f"95 %, {report['bootstrap']['draws']:,} bootstrap draws over {report['n']['unit']}s"))
    facts.append(("ceilings", report["ceilings"]["source"] or "unknown: no click counts"))
    for stage, seconds in report.get("seconds", {}).items():
        facts.append((f"seconds: {stage}", f"{seconds:.1f}"))
    for group in ("machine", "versions"):
        values = report.get(group, {})
        items = values.items() if isinstance(values, Mapping) else [(group, values)]
        facts += [(name, str(value)) for name, value in items]
    return facts


def _card(card: FlipCard) -> dict[str, Any]:
    """A card with its pictures as the page shows them."""
    return {
        "title": text.shorten(card.title, TITLE),
        "category": card.category,
        "image_a": picture_uri(card.image_a, THUMBNAIL),
        "image_b": picture_uri(card.image_b, THUMBNAIL),
        "markets": card.markets,
        "neighbours": [(picture_uri(neighbour.image, THUMBNAIL // 2), neighbour) for neighbour in card.neighbours],
    }
