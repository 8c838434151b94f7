"""Report what a trained model is worth, against retrieval alone and against everything that ignores the country.

python jobs/evaluate_reward.py --model=runs/demo/model --split=validation
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.command import run
from countryreward.data.artifacts import Artifact, publish


@dataclass(kw_only=True)
class Config:
    """Write report.json and report.html."""

    model: str = "runs/demo/model"
    """The model folder."""
    others: dict[str, str] = field(default_factory=dict)
    """Name -> folder of further models to compare with, such as one trained with reward.country=off."""
    dataset: str = "runs/demo/dataset"
    """The published dataset."""
    records: str = "runs/demo/records"
    """Its records."""
    embeddings: str = "runs/demo/embeddings"
    """Its embeddings."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """The knowledge base of the priors."""
    features: str = "runs/demo/features"
    """Feature store of the model's tower; empty: decode and encode."""
    priors: dict[str, str] = field(
        default_factory=lambda: {"prior_only": "runs/demo/priors", "prior_only_paper": "runs/demo/priors_paper"}
    )
    """Name of a variant -> its priors; the model is given the first."""
    choose_k: str = "runs/demo/choose_k"
    """Published curves of jobs/choose_k.py; empty: none."""
    truth: str = "runs/demo/export/truth.parquet"
    """True click probabilities (simulations only); empty: ceilings are estimated where there are counts."""
    out: str = "runs/demo/report"
    """Folder to publish; report.json and report.html are also put beside it."""
    split: Literal["train", "validation", "test"] = "test"
    """Which records."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
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
    from countryreward.evaluation.reward_report import judge_models
    from countryreward.evaluation.write_report import show_report, write_report
    from countryreward.machine import describe_machine

    started = time.monotonic()
    inputs = open_inputs(config)
    models = judge_models(config, inputs, test_rows(inputs, config.split))
    options: dict[str, Any] = {name: getattr(config, name) for name in ("split", "draws", "seed", "truth", "others")}
    with publish(config.out, kind="report", inputs=inputs.lineage | models.lineage, config=options) as draft:
        report, cards = build_report(inputs, config, models.rows)
        models.add_to(report)
        report |= {
            "seconds": config.stages | report["seconds"] | {"report": round(time.monotonic() - started, 3)},
            "machine": describe_machine(),
            "command": shlex.join(["python", *sys.argv]),
        }
        models.quarantine.write(draft.path)
        write_report(draft, report, cards, inputs.curves)
    return show_report(config.out, report)


if __name__ == "__main__":
    run(Config, main)
