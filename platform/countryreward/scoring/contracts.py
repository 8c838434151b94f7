"""What is asked and what is answered: Product, PairRequest, Verdict (contract 8), and the Scorer every loop is given."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Protocol

from countryreward import markets
from countryreward.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Product:
    """What is advertised."""

    title: str
    """As shown to customers, any language."""
    category: str | None = None
    """The platform's category."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Name to value, such as Material: leather."""
    tags: list[str] = field(default_factory=list)
    """Free words."""
    product_id: str | None = None
    """When given, the product's own past ads never count as evidence."""

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise UserError("product.title: it is empty; write the title customers see")


@dataclass(frozen=True, kw_only=True)
class PairRequest:
    """Which of two ad images will win in a market?"""

    product: Product
    """What they advertise."""
    image_a: bytes
    """PNG, JPEG or WEBP file bytes."""
    image_b: bytes
    """PNG, JPEG or WEBP file bytes."""
    market: str
    """ISO 3166 code or name of a country."""
    as_of: date | None = None
    """Only evidence that ended before this day may speak; None: all of it."""

    def market_code(self) -> str:
        """The market as ISO 3166 alpha-2. Raises `UserError` when it is no country."""
        code = markets.parse(self.market)
        if code is None:
            raise UserError(
                f"market: {self.market!r} is no country; write an ISO 3166 code such as KR or a name such as South Korea"
            )
        return code


@dataclass(frozen=True, kw_only=True)
class PastAd:
    """One past ad that speaks in a verdict."""

    creative_id: str
    product_id: str
    title: str
    similarity: float
    """To the query image, cosine."""
    lift: float
    """Natural log of its rate over its product's rate in this market (scores: in standard deviations)."""
    value: float
    """Raw CTR, orders or score."""
    impressions: int | None
    """None where only rates, orders or scores are known."""
    image_row: int
    """Row in the knowledge base, for its thumbnail."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One position of Eq. 2: the past ad most like A beside the one most like B, their weight and their vote."""

    like_a: PastAd
    like_b: PastAd
    weight: float
    """Share of the whole vote, in [0, 1]."""
    vote: float
    """For A, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one PairRequest."""

    market: str
    """ISO 3166 alpha-2."""
    probability: float
    """P(A gets the higher CTR)."""
    calibrated_probability: float | None
    """After temperature calibration; None when the scorer has none."""
    choice: str | None
    """A, B, or None: abstained, for want of evidence or of a margin."""
    log_odds: float
    """Of the probability; 0 is no opinion."""
    evidence: tuple[Evidence, ...]
    """Past ads of this market, heaviest first; it may show fewer than speak."""
    past_ads: int
    """How many past ads speak, of both sides together; 0: no evidence."""
    model_version: str | None
    """None: retrieval alone."""
    knowledge_base_version: str | None
    note: str | None = None
    """Why there is no choice, or what to know about it; None: nothing."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Several ad images of one product in one market, best first."""

    market: str
    """ISO 3166 alpha-2."""
    order: tuple[int, ...]
    """Positions in the list of images that was given, best first."""
    win_share: tuple[float, ...]
    """Of each image as given: its mean calibrated probability of beating another one of the list; .5 for an only image."""
    verdicts: tuple[tuple[int, int, Verdict], ...]
    """(position of A, position of B, verdict) of every pair."""


class Scorer(Protocol):
    """Anything that answers pair requests: local, over HTTP, or a Serve handle. Loops are given one and never build one."""

    def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]:
        """One verdict per request, in order."""
        ...
