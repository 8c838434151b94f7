"""Report what retrieval alone is worth, against judges that ignore the country.

python jobs/evaluate_prior.py --split=validation
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.command import run
from countryreward.data.artifacts import Artifact, publish


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
    import shlex
    import sys
    import time

    from countryreward.evaluation.build_report import build_report, open_inputs, test_rows
    from countryreward.evaluation.write_report import show_report, write_report
    from countryreward.machine import describe_machine

    started = time.monotonic()
    inputs = open_inputs(config)
    options: dict[str, Any] = {"split": config.split, "draws": config.draws, "seed": config.seed, "truth": config.truth}
    with publish(config.out, kind="report", inputs=inputs.lineage, config=options) as draft:
        report, cards = build_report(inputs, config, test_rows(inputs, config.split))
        report |= {
            "seconds": config.stages | report["seconds"] | {"report": round(time.monotonic() - started, 3)},
            "machine": describe_machine(),
            "command": shlex.join(["python", *sys.argv]),
        }
        write_report(draft, report, cards, inputs.curves)
    return show_report(config.out, report)


if __name__ == "__main__":
    run(Config, main)
