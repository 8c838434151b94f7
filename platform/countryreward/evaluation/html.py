"""report.html: one file that opens anywhere, for a marketing person first and an engineer second."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countryreward.evaluation import plots
from countryreward.evaluation import report_text as words
from countryreward.evaluation.gallery import FlipCard

THUMBNAIL = 420
"""Longest side in pixels of a picture in the gallery: the page stays small enough to mail."""


def write_html(
    report: Mapping[str, Any],
    gallery: Sequence[FlipCard],
    curves: Mapping[str, Mapping[str, Any]],
    path: Path | str,
    *,
    variant: str = "prior_only",
) -> None:
    """Write the report. No script, no font, no picture from elsewhere; everything is in the file.

    report: `evaluate`'s dict, with `counts`, `seconds`, `machine`, `versions`, `command` and, where the numbers are
    not real, `simulated: True` if the job has them. curves: {stage: {rank, mean_similarity, k, K, threshold}}.
    variant: the one the headline speaks of.
    """
    write_page(
        "report.html.j2",
        path,
        **_words(report, variant),
        **_tables(report),
        plots=_plots(report, curves),
        gallery=[_card(card) for card in gallery],
        simulated=words.is_simulated(report),
        report=report,
    )


def write_page(template: str, path: Path | str, **values: Any) -> None:
    """Fill a template of this room; text in values is escaped. A reader never sees half a page."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("countryreward.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(**values)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, target)


def _words(report: Mapping[str, Any], variant: str) -> dict[str, Any]:
    main = report["variants"][variant]
    noise, blind = report["ceilings"]["noise"], report["ceilings"]["market_blind"]

    def tile(metric: str, compare: str) -> dict[str, str]:
        found = main[metric]
        return {
            "name": words.METRICS[metric][0],
            "value": words.percent(found["value"]),
            "span": words.span(found),
            "compare": compare,
        }

    best = noise["discordant_ordering"]["value"]
    both = noise["discordant_sensitivity"]["value"]
    known = blind["accuracy"]["value"]
    return {
        "headline": words.headline(report, variant),
        "findings": words.findings(report, variant),
        "tiles": [
            tile(
                "discordant_ordering",
                "ignoring the country: 50 %"
                + ("" if best is None else f" · knowing the true click rates: {words.percent(best)}"),
            ),
            tile(
                "discordant_sensitivity",
                "ignoring the country: 0 % · a coin: 25 %"
                + ("" if both is None else f" · knowing the true click rates: {words.percent(both)}"),
            ),
            tile(
                "accuracy",
                "a coin: 50 %"
                if known is None
                else f"knowing the true click rates, country-blind: {words.percent(known)}",
            ),
        ],
        "who": words.name_of(variant),
    }


def _plots(report: Mapping[str, Any], curves: Mapping[str, Any]) -> list[dict]:
    simulated = words.is_simulated(report)
    blocks = [
        (plots.variant_bars(report), "Every judge on the three numbers that matter, with 95 % intervals."),
        (plots.market_dots(report), "Right answers country by country; the line is the 95 % interval."),
    ]
    if any(v.get("reliability") for v in report["variants"].values()):
        blocks.append((plots.reliability_curves(report), "Stated probability against what happened."))
    if curves:
        blocks.append((plots.choose_k_curves(curves, simulated), "How many neighbours to listen to, and why."))
    if report.get("counts"):
        blocks.append((plots.counts_bars(report["counts"], simulated), "Rows kept, dropped and quarantined by stage."))
    return [{"uri": data_uri(png, "image/png"), "caption": caption} for png, caption in blocks]


def _tables(report: Mapping[str, Any]) -> dict[str, Any]:
    judges = {**report["variants"], **{k: report["ceilings"][k] for k in ("noise", "market_blind")}}
    metrics = []
    for metric, (label, meaning) in words.METRICS.items():
        share = metric in words.SHARES
        cells = [words.cell(found[metric], share) if metric in found else ("–", "") for found in judges.values()]
        metrics.append({"name": label, "key": metric, "meaning": meaning, "cells": cells})
    differences = []
    for title, found in report.get("differences", {}).items():
        first, second = title.split(" - ")
        signed = found["metrics"]["accuracy"], found["metrics"]["discordant_ordering"]
        differences.append(
            {
                "title": f"{words.name_of(first)} against {words.name_of(second).lower()}",
                "cells": [points(metric) for metric in signed],
                "p": stated_p(found["p"]),
                "markets": ", ".join(
                    words.market_name(m) for m, row in found["per_market"].items() if row["p_holm"] < 0.05
                )
                or "none",
            }
        )
    return {
        "judges": [{"name": words.name_of(name), "key": name} for name in judges],
        "metrics": metrics,
        "differences": differences,
        "counts": [
            {"stage": stage, **{k: plots.amount(v) for k, v in found.items() if k != "reasons"}}
            for stage, found in report.get("counts", {}).items()
        ],
        "facts": _facts(report),
    }


def points(metric: Mapping[str, float | None]) -> tuple[str, str]:
    """(difference, interval) in percentage points, with signs."""
    if metric["value"] is None:
        return "–", ""
    span = "" if metric["low"] is None else f"{100 * metric['low']:+.1f} to {100 * (metric['high'] or 0):+.1f}"
    return f"{100 * metric['value']:+.1f}", span


def stated_p(p: float) -> str:
    """Three digits, as statistics writes it."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an engineer asks for, as (name, text)."""
    facts = [(f"number of {name.replace('_', ' ')}", f"{n:,}") for name, n in report["n"].items() if name != "unit"]
    facts.append(("intervals", f"95 %, {report['bootstrap']['draws']:,} bootstrap draws over {report['n']['unit']}s"))
    facts.append(("ceilings", report["ceilings"]["source"] or "unknown: no click counts"))
    for stage, seconds in report.get("seconds", {}).items():
        facts.append((f"seconds: {stage}", f"{seconds:.1f}"))
    for group in ("machine", "versions"):
        found = report.get(group, {})
        items = found.items() if isinstance(found, Mapping) else [(group, found)]
        facts += [(name, str(value)) for name, value in items]
    return facts


def _card(card: FlipCard) -> dict[str, Any]:
    return {
        "title": card.title if len(card.title) <= 120 else card.title[:119] + "…",
        "category": card.category,
        "image_a": _picture(card.image_a),
        "image_b": _picture(card.image_b),
        "markets": card.markets,
        "neighbours": [
            {"uri": _picture(n.image, THUMBNAIL // 2), "title": n.title, "market": n.market, "lift": n.lift}
            | {"speaks_for": n.speaks_for}
            for n in card.neighbours
        ],
    }


def _picture(data: bytes, side: int = THUMBNAIL) -> str:
    """A data URI of the picture, re-encoded as JPEG when it is larger than the page shows it."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= side and image.format in ("PNG", "JPEG", "WEBP"):
            return data_uri(data, f"image/{image.format.lower()}")
        small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(data: bytes, kind: str) -> str:
    """A picture inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
