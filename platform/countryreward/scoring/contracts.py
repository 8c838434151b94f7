"""What is asked of a judge and what it answers: ScoreRequest, Verdict (contract 8), and the scorers that loops are given."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Protocol, TypeVar, cast

from countryreward import markets
from countryreward.errors import UserError, each_or_refusal

ItemT = TypeVar("ItemT")


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
class Copy:
    """The words of an ad. No judge reads them yet; they have their place."""

    headline: str | None = None
    body: str | None = None
    call_to_action: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Creative:
    """One ad: a picture and, where there are some, its words."""

    image: bytes
    """PNG, JPEG or WEBP file bytes."""
    copy: Copy | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Pairs among some creatives of one product, each judged in every market."""

    product: Product
    creatives: tuple[Creative, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    """(position of A, position of B) in `creatives`."""
    markets: tuple[str, ...]
    """ISO 3166 codes or names of countries."""
    as_of: date | None = None
    """Only evidence that ended before this day may speak; None: all of it."""
    tenant: str = ""
    """Whose creatives these are: nothing that is kept of them is used for another tenant."""
    evidence: int | None = None
    """Positions of evidence in each verdict, heaviest first; None: all that speak."""
    urgent: bool = True
    """False: nobody waits for it, so it gives way to requests that somebody waits for."""

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.pairs if not all(0 <= place < len(self.creatives) for place in pair)]
        if wrong:
            raise UserError(
                f"pairs: {wrong[0]} is no pair of positions among {len(self.creatives)} creatives; count from 0"
            )
        if self.evidence is not None and self.evidence < 0:
            raise UserError(f"evidence: {self.evidence} must be at least 0; None shows all")

    @classmethod
    def of_images(cls, product: Product, images: Sequence[bytes], **fields: Any) -> "ScoreRequest":
        """A request about pictures without words."""
        return cls(product=product, creatives=tuple(Creative(image=image) for image in images), **fields)

    def market_codes(self) -> tuple[str, ...]:
        """The markets as ISO 3166 alpha-2. Raises `UserError` for one that is no country."""
        return tuple(market_code(market) for market in self.markets)

    def questions(self) -> list[tuple[str, int, int]]:
        """(market code, position of A, position of B) in the order of the verdicts: market by market, within it pair by pair."""
        return [(market, a, b) for market in self.market_codes() for a, b in self.pairs]


def split_by_request(requests: Sequence[ScoreRequest], items: Sequence[ItemT]) -> list[list[ItemT]]:
    """One item per question of all requests, in order -> one list per request."""
    rest = iter(items)
    return [[next(rest) for _ in range(len(request.markets) * len(request.pairs))] for request in requests]


def market_code(market: str) -> str:
    """ISO 3166 alpha-2 of a code or name. Raises `UserError` when it is no country."""
    code = markets.parse(market)
    if code is None:
        raise UserError(
            f"market: {market!r} is no country; write an ISO 3166 code such as KR or a name such as South Korea"
        )
    return code


@dataclass(frozen=True, kw_only=True)
class PairRequest:
    """One pair in one market: the request of the release before, still taken by `CountryReward.score` and the clients."""

    product: Product
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
        return market_code(self.market)


def answer_either(
    requests: Iterable[object], score: "Callable[[Sequence[ScoreRequest]], list[list[Verdict]]]"
) -> "list[Verdict] | list[list[Verdict]]":
    """The verdicts of score requests, or of pair requests one each, as the release before was asked.

    score: answers score requests. Raises `UserError` for anything else, and for both kinds together.
    """
    given = list(requests)
    kinds = {type(request) for request in given}
    if kinds == {PairRequest}:
        merged, places = merge_pairs(cast(list[PairRequest], given), stacklevel=5)
        verdicts = score(merged)
        return [verdicts[request][place] for request, place in places]
    if not kinds <= {ScoreRequest}:
        raise UserError(f"requests: {', '.join(sorted(kind.__name__ for kind in kinds))}; give ScoreRequests alone")
    return score(cast(list[ScoreRequest], given))


def merge_pairs(
    pairs: Sequence[PairRequest], *, stacklevel: int = 3
) -> tuple[list[ScoreRequest], list[tuple[int, int]]]:
    """Pair requests as score requests, those that differ in their market alone as one; with a warning that says what to write.

    Beside them, for every pair, where its verdict is: (position of the request, position among the verdicts of it).
    """
    warnings.warn("PairRequest works in this release only; ask by ScoreRequest", FutureWarning, stacklevel=stacklevel)
    groups: dict[tuple[Any, ...], tuple[PairRequest, list[str]]] = {}
    places: list[tuple[tuple[Any, ...], int]] = []
    for pair in pairs:
        key, code = (repr(pair.product), pair.image_a, pair.image_b, pair.as_of), pair.market_code()
        _, codes = groups.setdefault(key, (pair, []))
        if code not in codes:
            codes.append(code)
        places.append((key, codes.index(code)))
    number = {key: position for position, key in enumerate(groups)}
    requests = [
        ScoreRequest.of_images(pair.product, (pair.image_a, pair.image_b), markets=tuple(codes), as_of=pair.as_of)
        for pair, codes in groups.values()
    ]
    return requests, [(number[key], place) for key, place in places]


class RequestImageError(UserError):
    """One creative's image is not accepted. `position`: in `ScoreRequest.creatives`; `reason`: a key of
    `data.quarantine.REASONS`; `field_value`: what was there."""

    def __init__(self, position: int, reason: str, field_value: str) -> None:
        super().__init__(f"images[{position}]: {reason} ({field_value}); send another image")
        self.position, self.reason, self.field_value = position, reason, field_value

    def __reduce__(self) -> tuple[type["RequestImageError"], tuple[int, str, str]]:
        return RequestImageError, (self.position, self.reason, self.field_value)


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
    """The answer to one pair in one market."""

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

    @property
    def stated_probability(self) -> float:
        """P(A gets the higher CTR) as people are told it: calibrated where the scorer can, in [0, 1]."""
        return self.probability if self.calibrated_probability is None else self.calibrated_probability

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
    """Anything that answers score requests and blocks. Loops are given one and never build one."""

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        """The verdicts of every request, each in the order of `ScoreRequest.questions`.

        Raises `UserError` when one of them cannot be asked; then none is answered.
        """
        ...


class AsyncScorer(Protocol):
    """Anything that answers score requests and is awaited: in this process, over HTTP, over a Serve handle."""

    async def about(self) -> dict[str, Any]:
        """`model` and `knowledge_base`: versions, or None; and whatever else the scorer tells of itself."""
        ...

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """In the order of `ScoreRequest.questions`.

        Raises `UserError` for what is wrong with the request, of them `RequestImageError` for an image.
        """
        ...


def score_each(scorer: Scorer, requests: Sequence[ScoreRequest]) -> list[list[Verdict] | UserError]:
    """What `Scorer.score` answers, with a request that is refused refused alone: all together first, then one by one."""
    return list(each_or_refusal(scorer.score, requests))
