"""Configs of the scoring room. Standard library only."""

from dataclasses import dataclass, field

from countryreward.errors import UserError
from countryreward.retrieval.config import RetrievalConfig


@dataclass(kw_only=True)
class PriorScorerConfig:
    """How a scorer without a trained model answers."""

    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote."""
    abstain_below: float = 0.0
    """Abstain when the probability is less than this far from .5; with no evidence a scorer always abstains."""
    max_bytes: int = 20 * 2**20
    """Largest accepted image, in bytes."""
    max_pixels: int = 25_000_000
    """Largest accepted width x height."""

    def __post_init__(self) -> None:
        if not 0 <= self.abstain_below < 0.5:
            raise UserError(f"abstain_below: {self.abstain_below} must be in [0, 0.5)")


@dataclass(kw_only=True)
class RewardScorerConfig:
    """How a trained model answers."""

    abstain_below: float = 0.0
    """Abstain when the calibrated probability is less than this far from .5."""
    batch_size: int = 64
    """Pairs, and images, per forward pass."""
    max_bytes: int = 20 * 2**20
    """Largest accepted image, in bytes."""
    max_pixels: int = 25_000_000
    """Largest accepted width x height."""

    def __post_init__(self) -> None:
        if not 0 <= self.abstain_below < 0.5:
            raise UserError(f"abstain_below: {self.abstain_below} must be in [0, 0.5)")
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size} must be at least 1")
