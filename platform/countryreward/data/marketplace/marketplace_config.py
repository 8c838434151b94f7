"""Config of the marketplace simulator. Standard library only, so that `--help` is quick."""

import re
from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError

LevelName = Literal["clean", "real-noise", "hard"]
ImageFormat = Literal["JPEG", "PNG", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """How much can be seen of the truth, and how much of it depends on the market."""

    mean_ctr: float
    """Mean true CTR over all creatives and markets, as a share."""
    impressions: int
    """Median impressions of one creative in one market, all periods together."""
    shared_sd: float
    """Standard deviation over creatives of the shared quality, in log-odds."""
    taste_scale: float
    """Log-odds per unit of taste utility (`taste.utility`, whose spread between markets is about 0.5)."""
    visible_share: float = 0.85
    """Share of the variance of the shared quality that can be seen in the picture."""
    category_share: float = 0.5
    """Share of the variance of a market's taste terms that differs from category to category."""


LEVELS: dict[str, Level] = {
    # clean is the level on which a judge can be told good from bad: nearly all that decides can be seen, and a thousand products
    # are enough to learn it
    "clean": Level(
        mean_ctr=0.03, impressions=40_000, shared_sd=0.44, taste_scale=1.0, visible_share=0.95, category_share=0.2
    ),
    # calibrated so that sampled CTRs have the Upworthy A/B tests' mean (1.6 %), median ratio (1.26), median arm (3,100)
    "real-noise": Level(mean_ctr=0.016, impressions=3_100, shared_sd=0.155, taste_scale=0.193),
    "hard": Level(mean_ctr=0.012, impressions=1_200, shared_sd=0.155, taste_scale=0.12),
}
"""The three levels."""


@dataclass(kw_only=True)
class MarketplaceConfig:
    """A simulated ad marketplace whose true click probabilities are known."""

    level: LevelName = "clean"
    """clean: many impressions, strong taste. real-noise: noise and effects of real A/B tests. hard: less of both."""
    seed: int = 0
    """Seed of the data: products, creatives, impressions, clicks."""
    world_seed: int = -1
    """Seed of the world: what each market likes in each category, and its CTR level; -1: the same as seed."""
    products: int = 1200
    """Number of products."""
    creatives_per_product: int = 4
    """Ad images per product; all pairs of them can be compared."""
    markets: list[str] = field(default_factory=lambda: ["BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA"])
    """ISO 3166 alpha-2 codes, upper case."""
    periods: int = 4
    """Months of observation."""
    first_month: str = "2025-01"
    """First month, YYYY-MM."""
    coverage: float = 1.0
    """Share of (creative, market) cells that are observed at all."""
    image_px: int = 224
    """Width and height of the drawn images, in pixels."""
    image_format: ImageFormat = "JPEG"
    """Encoding of the images; mixed: every third creative is a PNG."""
    workers: int = 2
    """Threads that draw and encode."""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UserError(f"level: {self.level!r} is not a level; write one of {', '.join(LEVELS)}")
        if self.image_format not in ("JPEG", "PNG", "mixed"):
            raise UserError(f"image_format: {self.image_format!r} is not a format; write JPEG, PNG or mixed")
        for name, least in (
            ("products", 1),
            ("creatives_per_product", 1),
            ("periods", 1),
            ("image_px", 32),
            ("workers", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is too small; write at least {least}")
        if self.seed < 0 or self.world_seed < -1:
            raise UserError(f"seed, world_seed: {self.seed}, {self.world_seed}; seeds are >= 0 (world_seed: or -1)")
        if not 0 < self.coverage <= 1:
            raise UserError(f"coverage: {self.coverage} is not a share; write a number above 0 and at most 1")
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.first_month):
            raise UserError(f"first_month: {self.first_month!r} is not a month; write YYYY-MM")
        wrong = [code for code in self.markets if not re.fullmatch("[A-Z]{2}", code)]
        if wrong or not self.markets or len(set(self.markets)) < len(self.markets):
            raise UserError(
                f"markets: {wrong or self.markets} must be different ISO 3166 alpha-2 codes such as KR, at least one"
            )

    @property
    def world(self) -> int:
        """The world seed in force."""
        return self.seed if self.world_seed == -1 else self.world_seed
