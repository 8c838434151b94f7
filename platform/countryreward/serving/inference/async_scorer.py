"""What the HTTP routes ask: several images of one product in several markets, of anything that can answer asynchronously."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from countryreward.data.decoding import ImageError
from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Product, Scorer, Verdict


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Pairs among some images of one product, each judged in every market."""

    product: Product
    images: tuple[bytes, ...]
    """File bytes."""
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    """(position of A, position of B) in `images`."""
    markets: tuple[str, ...]
    """ISO 3166 alpha-2."""
    as_of: date | None = None
    """Only evidence that ended before this day may speak; None: all of it."""
    tenant: str = ""
    """Whose images these are: nothing that is kept of them is used for another tenant."""
    evidence: int = 5
    """Positions of evidence in each verdict, heaviest first."""
    urgent: bool = True
    """False: rows of a batch job, which wait while others ask."""


class RequestImageError(UserError):
    """One of a `ScoreRequest`'s images is not accepted. `reason` is a key of `data.quarantine.REASONS`,
    `field_value` what was found."""

    def __init__(self, position: int, refused: ImageError) -> None:
        super().__init__(f"images[{position}]: {refused.reason} ({refused.field_value}); send another image")
        self.position, self.reason, self.field_value = position, refused.reason, refused.field_value

    def __reduce__(self) -> tuple[type["RequestImageError"], tuple[int, ImageError]]:
        return RequestImageError, (self.position, ImageError(self.reason, self.field_value))


class Answering(Protocol):
    """Whatever stands behind an app, as its gate and its health see it."""

    def ready(self) -> bool:
        """Whether it can answer now."""
        ...

    def busy(self, tenant: str = "") -> float | None:
        """Seconds after which to ask again, when a new call of this tenant would wait too long; None: there is room."""
        ...


class AsyncScorer(Answering, Protocol):
    """What the app is a function of. Each image of an `ScoreRequest` is hashed, decoded and encoded at most once."""

    @property
    def markets(self) -> Sequence[str]:
        """Markets it was trained on, or knows."""
        ...

    def about(self) -> dict[str, Any]:
        """`model`, `knowledge_base` (versions or None) and whatever else /v1/models shows."""
        ...

    async def judge(self, ask: ScoreRequest) -> list[Verdict]:
        """Market by market, within it pair by pair.

        Raises `UserError` for what the asker did wrong, of them `RequestImageError` for an image.
        """
        ...


class FromScorer:
    """Any Scorer as an AsyncScorer: one call at a time, in a thread."""

    def __init__(self, scorer: Scorer, markets: Sequence[str], about: dict[str, Any] | None = None) -> None:
        self.scorer, self.markets, self._about = scorer, tuple(markets), about or {}
        self._one = asyncio.Lock()

    def about(self) -> dict[str, Any]:
        """See `AsyncScorer`."""
        return {"model": None, "knowledge_base": None} | self._about

    def ready(self) -> bool:
        """See `Answering`."""
        return True

    def busy(self, tenant: str = "") -> float | None:
        """See `Answering`."""
        return None

    async def judge(self, ask: ScoreRequest) -> list[Verdict]:
        """See `AsyncScorer`."""
        requests = [
            PairRequest(
                product=ask.product, image_a=ask.images[a], image_b=ask.images[b], market=market, as_of=ask.as_of
            )
            for market in ask.markets
            for a, b in ask.pairs
        ]
        async with self._one:
            return await asyncio.to_thread(self.scorer.score, requests)
