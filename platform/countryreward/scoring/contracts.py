"""What is asked of a judge and what it answers: ScoreRequest, Verdict (contract 8), and the scorers that loops are given."""

import math
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from countryreward import markets
from countryreward.data.creative_identity import Copy
from countryreward.data.tables import DELIVERIES, OUTCOMES, RECORD_KINDS
from countryreward.errors import UserError, each_or_refusal

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True)
class Product:
    """What is advertised. Its words are kept in composed form (NFC): a title as typed and as a Mac names its file are one."""

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
        _compose(
            self,
            title=_composed(self.title),
            category=self.category and _composed(self.category),
            attributes={_composed(name): _composed(value) for name, value in self.attributes.items()},
            tags=[_composed(tag) for tag in self.tags],
            product_id=self.product_id and _composed(self.product_id),
        )


def _composed(text: str) -> str:
    """In composed form; what is no text is refused where it is used."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


def _compose(frozen: object, **fields: object) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)


@dataclass(frozen=True, kw_only=True)
class Creative:
    """One ad: a picture and, where there are some, its words. The same picture with other words is another creative."""

    image: bytes
    """PNG, JPEG or WEBP file bytes."""
    copy: Copy | None = None
    """None: an ad without words, which an empty copy is, too."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "copy", self.copy or None)


@dataclass(frozen=True, kw_only=True)
class SideResult:
    """What is known of one creative of a pair, with the fields of the observations' and votes' tables (`tables.OBSERVATIONS`)."""

    impressions: int | None = None
    clicks: int | None = None
    conversions: int | None = None
    """Of the same impressions."""
    value: float | None = None
    """Revenue of the same impressions."""
    rate: float | None = None
    """CTR as a share."""
    orders: float | None = None
    """Units sold."""
    score: float | None = None
    """Mean rating."""
    score_sd: float | None = None
    score_n: int | None = None
    votes: int | None = None
    __pydantic_config__: ClassVar = {"extra": "forbid"}  # where JSON becomes one: a misspelt field is refused

    def given(self) -> dict[str, float]:
        """The fields that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_COUNTED = ("impressions", "clicks", "conversions", "score_n", "votes")
_OF_KIND = {
    "counts": ({"impressions"}, {"clicks", "conversions", "value"}),
    "votes": ({"votes"}, set()),
    "rate": ({"rate"}, set()),
    "orders": ({"orders"}, set()),
    "score": ({"score"}, {"score_sd", "score_n"}),
}
"""Kind of evidence -> what each side must say, what it may say."""


@dataclass(frozen=True, kw_only=True)
class KnownResult:
    """How a pair of a request did in some market already: "A won in the US; shall I run it in Korea?"."""

    pair: tuple[int, int] = (0, 1)
    """(position of A, position of B) in the request's creatives, in either order of one of its pairs."""
    market: str
    """ISO 3166 code or name of a country."""
    kind: Literal["counts", "votes", "rate", "orders", "score"]
    """Kind of evidence: one of `tables.RECORD_KINDS`."""
    a: SideResult
    b: SideResult
    votes_tie: int | None = None
    """votes: voters who said neither."""
    delivery: Literal["randomised", "rotated", "optimised", "unknown"] = "unknown"
    """Who chose what customers saw: one of `tables.DELIVERIES`."""
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Raises `UserError` for what cannot be: an unknown kind, a field of another kind, more clicks than impressions.

        What stands after the semicolon of a message holds nothing that was given: services say it alone.
        """
        object.__setattr__(self, "pair", tuple(self.pair))
        if self.kind not in RECORD_KINDS:
            raise UserError(f"known.kind: {self.kind!r} is unknown; write one of {', '.join(RECORD_KINDS)}")
        if self.delivery not in DELIVERIES:
            raise UserError(f"known.delivery: {self.delivery!r} is unknown; write one of {', '.join(DELIVERIES)}")
        for side, result in (("a", self.a), ("b", self.b)):
            self._check(f"known.{side}", result.given())
        if self.votes_tie is not None:
            _number("known.votes_tie", self.votes_tie, whole=True)
            if self.kind != "votes":
                raise UserError(
                    f"known.votes_tie: it belongs to votes, not to {self.kind}; leave it out of other kinds"
                )
        if self.kind == "votes" and not (self.a.votes or self.b.votes or self.votes_tie):
            raise UserError("known: nobody has voted; leave the result out")
        if self.kind == "counts" and not self.outcomes:
            raise UserError("known: impressions alone say nothing; give clicks, conversions or value of both sides")

    @property
    def outcomes(self) -> tuple[str, ...]:
        """counts: which of clicks, conversions and value both sides tell."""
        return tuple(name for name in OUTCOMES if name in self.a.given() and name in self.b.given())

    def turned(self) -> "KnownResult":
        """The same with A and B exchanged."""
        return replace(self, pair=self.pair[::-1], a=self.b, b=self.a)

    def _check(self, side: str, given: dict[str, float]) -> None:
        needed, possible = _OF_KIND[self.kind]
        if missing := needed - given.keys():
            raise UserError(f"{side}.{min(missing)}: it is missing; a result of the kind {self.kind} needs it")
        if other := given.keys() - needed - possible:
            raise UserError(f"{side}.{min(other)}: {self.kind} have no such field; leave it out of this kind of result")
        for name, value in given.items():
            _number(f"{side}.{name}", value, whole=name in _COUNTED, negative=name == "score")
        for name in ("clicks", "conversions"):
            if given.get(name, 0) > given.get("impressions", math.inf):
                raise UserError(
                    f"{side}.{name}: {given[name]} of {given['impressions']} impressions; give at most as many as impressions"
                )
        if given.get("impressions", 1) < 1:
            raise UserError(f"{side}.impressions: 0 say nothing; give at least 1, or leave the result out")
        if given.get("rate", 0) > 1:
            raise UserError(
                f"{side}.rate: {given['rate']} is no share; write a share from 0 to 1, such as 0.031 for 3.1 %"
            )


def _number(name: str, value: Any, *, whole: bool = False, negative: bool = False) -> None:
    """Raises `UserError` unless it is a number up to 2^53 (whole: an integer) of at least 0, or of either sign."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not abs(value) <= 2**53:
        raise UserError(f"{name}: {str(value)[:40]} is none; write a {'whole' if whole else 'finite'} number")
    if value < 0 and not negative:
        raise UserError(f"{name}: {value} is below 0; write at least 0")


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Pairs among some creatives of one product, each judged in every market."""

    product: Product
    creatives: tuple[Creative, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    """(position of A, position of B) in `creatives`."""
    markets: tuple[str, ...]
    """Codes or names, of countries (ISO 3166) or of markets that were defined."""
    as_of: date | None = None
    """Only evidence that ended before this day may speak; None: all of it."""
    tenant: str = ""
    """Whose creatives these are: nothing that is kept of them is used for another tenant."""
    evidence: int | None = None
    """Positions of evidence in each verdict, heaviest first; None: all that speak."""
    urgent: bool = True
    """False: nobody waits for it, so it gives way to requests that somebody waits for."""
    known: tuple[KnownResult, ...] = ()
    """How the pairs did in other markets. A verdict says in `known_used` whether its judge read them."""

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.pairs if not all(0 <= place < len(self.creatives) for place in pair)]
        if wrong:
            raise UserError(
                f"pairs: {wrong[0]} is no pair of positions among {len(self.creatives)} creatives; count from 0"
            )
        asked = {frozenset(pair) for pair in self.pairs}
        for result in self.known:
            if frozenset(result.pair) not in asked or len(result.pair) != 2:
                raise UserError(f"known.pair: {result.pair} is none of the pairs that are asked; write one of them")
            market_code(result.market, "known.market")
        if self.evidence is not None and self.evidence < 0:
            raise UserError(f"evidence: {self.evidence} must be at least 0; None shows all")

    @classmethod
    def of_images(cls, product: Product, images: Sequence[bytes], **fields: Any) -> "ScoreRequest":
        """A request about pictures without words."""
        return cls.of_ads(product, images, [None] * len(images), **fields)

    @classmethod
    def of_ads(
        cls, product: Product, images: Sequence[bytes], copies: Sequence[Copy | None], **fields: Any
    ) -> "ScoreRequest":
        """A request about pictures, each with the words at its place in `copies`; None there: without words."""
        ads = zip(images, words_of(images, copies), strict=True)
        creatives = (Creative(image=image, copy=copy) for image, copy in ads)
        return cls(product=product, creatives=tuple(creatives), **fields)

    def market_codes(self) -> tuple[str, ...]:
        """The markets as codes. Raises `UserError` for one that is no country and no market that was defined."""
        return tuple(market_code(market) for market in self.markets)

    def known_of(self, a: int, b: int) -> tuple[KnownResult, ...]:
        """What is known of one pair, with its A as A and the market as ISO 3166 alpha-2."""
        return tuple(
            replace(result if result.pair == (a, b) else result.turned(), market=market_code(result.market))
            for result in self.known
            if result.pair in ((a, b), (b, a))
        )

    def questions(self) -> list[tuple[str, int, int]]:
        """(market code, position of A, position of B) in the order of the verdicts: market by market, within it pair by pair."""
        return [(market, a, b) for market in self.market_codes() for a, b in self.pairs]


def words_of(images: Sequence[object], copies: Sequence[Copy | None] | None) -> Sequence[Copy | None]:
    """The words of each image; None: no image has any. Raises `UserError` where there are not as many as images."""
    if copies is not None and len(copies) != len(images):
        raise UserError(
            f"copies: {len(copies)} for {len(images)} images; give one for each image, None for one without words"
        )
    return [None] * len(images) if copies is None else copies


def split_by_request(requests: Sequence[ScoreRequest], items: Sequence[ItemT]) -> list[list[ItemT]]:
    """One item per question of all requests, in order -> one list per request."""
    rest = iter(items)
    return [[next(rest) for _ in range(len(request.markets) * len(request.pairs))] for request in requests]


def market_code(market: str, field_name: str = "market") -> str:
    """The code of a code or name. Raises `UserError` when it is no country and no market that was defined."""
    code = markets.parse(market)
    if code is None:
        raise UserError(
            f"{field_name}: {market!r} is no country and no market that was defined; write an ISO 3166 code such as KR or a name"
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
    """Code or name of a country, or of a market that was defined."""
    as_of: date | None = None
    """Only evidence that ended before this day may speak; None: all of it."""

    def market_code(self) -> str:
        """The market as a code. Raises `UserError` when it is none."""
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
    headline: str | None = None
    """Of its words; None: it has none, or the knowledge base does not know them."""


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
    """ISO 3166 alpha-2, or the code of a market that was defined."""
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
    delivery: str = "unknown"
    """Who chose what customers saw of the ads that the judge learned from: one of `tables.DELIVERIES`."""
    claim: str = "won as delivered"
    """What a choice says of the ad that it names, given `delivery`: "better", or "won as delivered" (`verdicts.claim`)."""
    known_used: bool | None = None
    """Whether results of the pair in other markets were read; None: none were given."""

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
    """ISO 3166 alpha-2, or the code of a market that was defined."""
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
