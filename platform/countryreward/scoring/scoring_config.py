"""Configs of the scoring room. Standard library only."""

import warnings
from dataclasses import dataclass, field

from countryreward.data.data_config import ImagesConfig, expand, spellings
from countryreward.errors import UserError
from countryreward.retrieval.retrieval_config import RetrievalConfig


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


@dataclass(kw_only=True)
class TableScoring:
    """A table of pairs, and how a trained model answers it."""

    pairs: str = "docs/sample/pairs.csv"
    """The table: CSV, TSV, Parquet or JSONL, told by its ending; local or a storage URI. docs/scoring.md lists its columns."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the table's, for columns named differently."""
    constants: dict[str, str] = field(default_factory=dict)
    """Our column name -> one value for every row."""
    keep: list[str] = field(default_factory=list)
    """Other columns of the table that are copied beside every verdict, as text."""
    markets: list[str] = field(default_factory=list)
    """Markets that every row is asked for; empty: the row's own `market`, or where there is no such column all of the model's."""
    market_aliases: dict[str, str] = field(default_factory=dict)
    """Spelling in the table -> code of a country (ISO 3166) or of the model's own market, beyond codes and names."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """Where the images are; root empty: the folder `images` beside the table, or the table's own where there is none."""
    abstain_below: float = 0.0
    """Abstain when the calibrated probability is less than this far from .5."""
    batch_size: int = 64
    """Pairs, and images, per forward pass."""
    part_rows: int = 256
    """Rows of the table that are judged and written at a time; a part that is finished is not done again."""
    gpus_per_actor: float = 0.0
    """GPUs of each actor that encodes or judges, fractions allowed; 0: processors only."""

    def __post_init__(self) -> None:
        self.pairs = expand(self.pairs, "pairs")
        self.market_aliases = spellings(self.market_aliases, "market_aliases")
        RewardScorerConfig(abstain_below=self.abstain_below, batch_size=self.batch_size)  # checks both
        if self.part_rows < 1:
            raise UserError(f"part_rows: {self.part_rows} must be at least 1")
        if self.gpus_per_actor < 0:
            raise UserError(f"gpus_per_actor: {self.gpus_per_actor} must be 0 or more")
        if self.images.store != "embed":
            warnings.warn("images.store: it is ignored; scoring keeps no image", stacklevel=2)
