"""What the report shows of one product: two images, what every market says, and the past ads that speak for it."""

from dataclasses import dataclass
from typing import Literal

Letter = Literal["A", "B"]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One past ad of another product that voted in this market."""

    image: bytes  # PNG, JPEG or WebP
    title: str
    market: str  # "Japan"
    lift: str  # in words: "+18 % vs. its product's average"
    speaks_for: Letter


@dataclass(frozen=True, kw_only=True)
class MarketVerdict:
    """The answer for one market, beside what was observed there."""

    market: str  # "Japan"
    answer: Letter | None  # None: no evidence, no answer
    probability: float  # P(A)
    observed: Letter | None  # None: not observed
    evidence: int  # neighbours that voted


@dataclass(frozen=True, kw_only=True)
class FlipCard:
    """One product whose answer changes with the country."""

    title: str
    category: str
    image_a: bytes
    image_b: bytes
    markets: tuple[MarketVerdict, ...]
    neighbours: tuple[Neighbour, ...] = ()
