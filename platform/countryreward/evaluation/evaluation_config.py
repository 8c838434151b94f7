"""Options of the reports and of the rule that stops an alignment. Standard library only, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError


@dataclass(kw_only=True)
class ReportConfig:
    """What a report is made of, on which records, and where it goes."""

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
    """Name of a variant -> its priors. A model is given the first; without a model the first is the report's subject."""
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


@dataclass(kw_only=True)
class ModelReportConfig(ReportConfig):
    """A report whose subject is a trained model."""

    model: str = "runs/demo/model"
    """The model folder."""
    others: dict[str, str] = field(default_factory=dict)
    """Name -> folder of further models to compare with, such as one trained with reward.country=off."""
    features: str = "runs/demo/features"
    """Feature store of the model's tower; empty: decode and encode."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""


@dataclass(kw_only=True)
class StopRule:
    """Bounds that a round of alignment must keep (docs/method.md says why these)."""

    level: float = 0.05
    """Two-sided level of the test that the held-out judge's probability fell; half of it is the rate of false alarms a round."""
    fidelity_least: float = 0.5
    """Least mean fidelity of the ads; not applied where the reference's own ads are below it."""
    fidelity_drop: float = 0.1
    """Most that the mean fidelity may lose against the reference's ads of the same cases."""
    diversity_least: float = 0.25
    """Share of the reference's diversity within a market that must stay: below it most of two draws are nearly one design, and
    the next round has hardly a pair to learn from."""
    collapse_most: float = 0.5
    """Largest share of a market's designs that may be one and the same; not applied where the reference's is as large."""
    collapse_products: int = 10
    """Fewest products of a market for that: among few, two equal designs are no collapse."""

    def __post_init__(self) -> None:
        for name in ("level", "fidelity_least", "fidelity_drop", "diversity_least", "collapse_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name)}; write a share from 0 to 1")
        if self.collapse_products < 2:
            raise UserError(f"collapse_products: {self.collapse_products}; write 2 or more")
