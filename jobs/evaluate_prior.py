"""Report what retrieval alone is worth, against judges that ignore the country.

python jobs/evaluate_prior.py --split=validation
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from countryreward.command import run
from countryreward.data.artifacts import Artifact, open_artifact, publish, write_atomically


@dataclass(kw_only=True)
class Config:
    """Write report.json and report.html."""

    dataset: str = "runs/demo/dataset"
    """The published dataset."""
    records: str = "runs/demo/records"
    """Its records."""
    embeddings: str = "runs/demo/embeddings"
    """Its embeddings."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """The knowledge base of the priors."""
    priors: dict[str, str] = field(
        default_factory=lambda: {"prior_only": "runs/demo/priors", "prior_only_paper": "runs/demo/priors_paper"}
    )
    """Name of a variant -> its priors; the first one is the report's subject."""
    choose_k: str = "runs/demo/choose_k"
    """Published curves of jobs/choose_k.py; empty: none."""
    truth: str = "runs/demo/export/truth.parquet"
    """True click probabilities (simulations only); empty: ceilings are estimated where there are counts."""
    out: str = "runs/demo/report"
    """Folder to publish; report.json and report.html are also put beside it."""
    split: Literal["train", "validation", "test"] = "test"
    """Which records."""
    gallery: int = 6
    """How many products to show."""
    draws: int = 2000
    """Bootstrap draws."""
    seed: int = 0
    """Seed of bootstrap and shuffling."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds per stage to print in the report, beyond those found in the inputs' manifests."""


def main(config: Config) -> Artifact:
    import json
    import shlex
    import sys
    import time

    from countryreward.evaluation.flip_picture import flip_figure
    from countryreward.evaluation.html import write_html
    from countryreward.evaluation.prior_report import build_report, open_inputs
    from countryreward.evaluation.words import in_brackets
    from countryreward.machine import describe_machine

    started = time.monotonic()
    inputs = open_inputs(config)
    options: dict[str, Any] = {"split": config.split, "draws": config.draws, "seed": config.seed, "truth": config.truth}
    with publish(config.out, kind="report", inputs=inputs.lineage, config=options) as draft:
        report, cards = build_report(inputs, config)
        report |= {
            "seconds": config.stages | report["seconds"] | {"report": round(time.monotonic() - started, 3)},
            "machine": describe_machine(),
            "command": shlex.join(["python", *sys.argv]),
        }
        (draft.path / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_html(report, cards, inputs.curves, draft.path / "report.html", variant=next(iter(config.priors)))
        if cards:
            flip_figure(cards[0], draft.path / "flip.png", note="simulated clicks" if report["simulated"] else "")
        draft.counts |= report["counts"]
    artifact = open_artifact(config.out, kind="report")
    for name in ("report.json", "report.html"):
        write_atomically(Path(config.out).parent / name, (artifact.path / name).read_bytes())
    for name, metrics in report["variants"].items():
        shown = ("accuracy", "discordant_ordering", "discordant_sensitivity")
        parts = [f"{metric.replace('_', ' ')} {in_brackets(metrics[metric])}" for metric in shown]
        print(f"report: {name:<20} {'  '.join(parts)}")
    print(f"report: {report['headline']}")
    print(f"report: -> {Path(config.out).parent / 'report.html'}")
    return artifact


if __name__ == "__main__":
    run(Config, main)
