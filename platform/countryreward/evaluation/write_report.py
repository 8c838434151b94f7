"""Publishing a report: report.json, report.html and the flip picture, also beside the folder; a summary on the terminal."""

import json
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import Artifact, Draft, open_artifact, write_atomically
from countryreward.evaluation.flip_picture import flip_figure
from countryreward.evaluation.gallery import FlipCard
from countryreward.evaluation.html import write_html
from countryreward.evaluation.report_text import in_brackets

SHOWN = ("accuracy", "discordant_ordering", "discordant_sensitivity")


def write_report(draft: Draft, report: dict[str, Any], cards: list[FlipCard], curves: dict[str, Any]) -> None:
    """Write the files of a report artifact."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (draft.path / "report.json").write_text(text, encoding="utf-8")
    write_html(report, cards, curves, draft.path / "report.html", variant=next(iter(report["variants"])))
    if cards:
        flip_figure(cards[0], draft.path / "flip.png", note="simulated clicks" if report["simulated"] else "")
    draft.counts |= report["counts"]


def show_report(out: str, report: dict[str, Any]) -> Artifact:
    """Put copies beside a published report and print it in short."""
    artifact = open_artifact(out, kind="report")
    for name in ("report.json", "report.html"):
        write_atomically(Path(out).parent / name, (artifact.path / name).read_bytes())
    for name, metrics in report["variants"].items():
        parts = [f"{metric.replace('_', ' ')} {in_brackets(metrics[metric])}" for metric in SHOWN]
        print(f"report: {name:<20} {'  '.join(parts)}")
    print(f"report: {report['headline']}")
    print(f"report: -> {Path(out).parent / 'report.html'}")
    return artifact
