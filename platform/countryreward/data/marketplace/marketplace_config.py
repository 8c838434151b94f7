"""Config of the marketplace simulator. Standard library only, so that `--help` is quick."""

import calendar
import re
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal

from countryreward.errors import UserError

LevelName = Literal["clean", "real-noise", "hard", "delivered"]
ImageFormat = Literal["JPEG", "PNG", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """How much can be seen of the truth, and how much of it depends on the market."""

    mean_ctr: float
    """Mean true CTR over all creatives and markets, as a share."""
    impressions: int
    """Median impressions of one creative in one market, all periods together; delivered: were every ad shown equally often."""
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
    # so that, were every ad of a product shown equally often, two audiences a factor e apart and mixed with sd .5 (1) would make
    # pooled rates name the better ad in .86 (.78) of pairs and rates within the audiences in .94
    "delivered": Level(mean_ctr=0.016, impressions=30_000, shared_sd=0.2, taste_scale=0.25),
}
"""The levels."""


@dataclass(kw_only=True)
class DeliveredConfig:
    """What only level `delivered` has: a platform that chooses who sees which ad, and what its export tells of that."""

    audiences: Literal["observed", "hidden"] = "observed"
    """observed: the export breaks results down by audience. hidden: it does not, as most platforms' exports."""
    randomised: float = 0.2
    """Share of products whose ads ran as a randomised test: shown equally often, everywhere and to everybody alike."""
    ad_sets: int = 2
    """Ad sets of a product in a market; every ad runs in all of them."""
    mix_sd: float = 0.75
    """Standard deviation over ads, in log-odds, of an ad's share of the second audience; unrelated to how good the ad is."""
    copy: bool = True
    """Whether ads have words, and some of them one picture with two headlines."""

    def __post_init__(self) -> None:
        if self.audiences not in ("observed", "hidden"):
            raise UserError(f"delivered.audiences: {self.audiences!r} is unknown; write observed or hidden")
        if not 0 <= self.randomised <= 1:
            raise UserError(f"delivered.randomised: {self.randomised} is not a share; write a number from 0 to 1")
        if self.ad_sets < 1:
            raise UserError(f"delivered.ad_sets: {self.ad_sets} is too small; write at least 1")
        if self.mix_sd < 0:
            raise UserError(f"delivered.mix_sd: {self.mix_sd} is negative; write 0 or more")


@dataclass(kw_only=True)
class MarketplaceConfig:
    """A simulated ad marketplace whose true click probabilities are known."""

    level: LevelName = "clean"
    """clean: many impressions, strong taste. real-noise: noise and effects of real A/B tests. hard: less of both. delivered: a
    platform chooses who sees an ad."""
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
    delivered: DeliveredConfig = field(default_factory=DeliveredConfig)
    """Options of level delivered."""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UserError(f"level: {self.level!r} is not a level; write one of {', '.join(LEVELS)}")
        if self.level != "delivered" and self.delivered != DeliveredConfig():
            raise UserError(
                f"delivered: level {self.level!r} has none of these options; leave them out, or write level: delivered"
            )
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

    def months(self) -> list[tuple[date, date]]:
        """First and last day of each month of observation."""
        year, month = map(int, self.first_month.split("-"))
        firsts = [date(year + (month - 1 + i) // 12, (month - 1 + i) % 12 + 1, 1) for i in range(self.periods)]
        return [(day, day.replace(day=calendar.monthrange(day.year, day.month)[1])) for day in firsts]

    def shaping(self) -> dict[str, Any]:
        """The options that shape the export, by which a stage knows it again: those of level delivered only at that level."""
        options = asdict(self)
        if self.level != "delivered":
            del options["delivered"]
        return options
