"""A Scorer over a Serve handle: what runs on the same Ray asks the reward replicas without HTTP and without a key."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Verdict
from countryreward.serving.inference.async_scorer import ScoreRequest

_PAUSE_S = 0.5
"""Before a call is made anew."""


class HandleScorer:
    """`HandleScorer(serve.get_app_handle("reward")).score(requests)`. Requests that differ in their market alone make one call.

    A call whose replica died, or for which there was no room, is made again. tenant: under which name the replicas keep encoded
    images. timeout_s: for all calls of one `score`; then it raises `TimeoutError`.
    """

    def __init__(self, handle: Any, *, tenant: str = "ray", evidence: int = 5, timeout_s: float = 120.0) -> None:
        self.handle, self.tenant, self.evidence, self.timeout_s = handle, tenant, evidence, timeout_s

    def score(self, requests: Sequence[PairRequest]) -> list[Verdict]:
        """See `Scorer.score`. Raises `UserError` for what is wrong with a request."""
        groups: dict[Hashable, tuple[PairRequest, dict[str, list[int]]]] = {}
        for position, request in enumerate(requests):
            _, places = groups.setdefault(_but_market(request), (request, {}))
            places.setdefault(request.market_code(), []).append(position)
        until = time.monotonic() + self.timeout_s
        asks = [self._ask(first, tuple(places)) for first, places in groups.values()]
        calls = [self.handle.judge.remote(ask) for ask in asks]
        found: list[Verdict | None] = [None] * len(requests)
        for (_, places), ask, call in zip(groups.values(), asks, calls, strict=True):
            for positions, verdict in zip(places.values(), self._answer(ask, call, until), strict=True):
                for position in positions:
                    found[position] = verdict
        return [verdict for verdict in found if verdict is not None]

    def _answer(self, ask: ScoreRequest, call: Any, until: float) -> list[Verdict]:
        """The call's result; of a call made anew where its replica died or was full."""
        while True:
            try:
                return call.result(timeout_s=max(0.0, until - time.monotonic()))
            except (RayActorError, BackPressureError):
                if time.monotonic() + _PAUSE_S >= until:
                    raise TimeoutError(f"no replica answered within {self.timeout_s:g} s") from None
                time.sleep(_PAUSE_S)
                call = self.handle.judge.remote(ask)

    def _ask(self, first: PairRequest, markets: tuple[str, ...]) -> ScoreRequest:
        return ScoreRequest(
            product=first.product,
            images=(first.image_a, first.image_b),
            markets=markets,
            as_of=first.as_of,
            tenant=self.tenant,
            evidence=self.evidence,
        )


class AsyncHandleScorer:
    """The same to be awaited: an `AwaitedScorer`. Requests of one product that share images make one call, in which each image is
    encoded once, for all markets that are asked the same. Nothing is asked again: raises what Ray raises for a dead replica.
    """

    def __init__(self, handle: Any, *, tenant: str = "ray") -> None:
        self.handle, self.tenant = handle, tenant

    async def about(self) -> dict[str, Any]:
        """Versions: see `AsyncScorer.about`."""
        return await self.handle.about.remote()

    async def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]:
        """See `Scorer.score`. Raises `UserError` for what is wrong with a request."""
        groups: dict[Hashable, list[int]] = {}  # of one product and market
        for position, request in enumerate(requests):
            groups.setdefault((*_but_images(request), request.market_code()), []).append(position)
        calls: dict[Hashable, list[list[int]]] = {}  # one each: markets that are asked the same
        for positions in groups.values():
            same = (
                _but_images(requests[positions[0]]),
                tuple((requests[p].image_a, requests[p].image_b) for p in positions),
            )
            calls.setdefault(same, []).append(positions)
        asked = [
            self._ask([requests[p] for p in markets[0]], [requests[m[0]] for m in markets])
            for markets in calls.values()
        ]
        answers = await asyncio.gather(*(self._answer(ask) for ask in asked))
        found: dict[int, Verdict] = {}
        for markets, verdicts in zip(calls.values(), answers, strict=True):
            found.update(zip((p for positions in markets for p in positions), verdicts, strict=True))
        return [found[position] for position in range(len(requests))]

    async def _answer(self, ask: ScoreRequest) -> list[Verdict]:
        try:
            return await self.handle.judge.remote(ask)
        except UserError as error:
            cause = getattr(error, "cause", error)  # without the other process's traceback
            raise cause if isinstance(cause, UserError) else error from None

    def _ask(self, requests: Sequence[PairRequest], markets: Sequence[PairRequest]) -> ScoreRequest:
        """requests: of one market; markets: one of each."""
        images: dict[bytes, int] = {}
        for request in requests:
            for image in (request.image_a, request.image_b):
                images.setdefault(image, len(images))
        first = requests[0]
        return ScoreRequest(
            product=first.product,
            images=tuple(images),
            pairs=tuple((images[request.image_a], images[request.image_b]) for request in requests),
            markets=tuple(request.market_code() for request in markets),
            as_of=first.as_of,
            tenant=self.tenant,
            evidence=0,
            urgent=False,
        )


def _but_images(request: PairRequest) -> tuple[Hashable, ...]:
    """The same for requests that differ in their images and their market alone."""
    product = request.product
    described = (product.title, product.category, *sorted(product.attributes.items()), *product.tags)
    return described, product.product_id, request.as_of


def _but_market(request: PairRequest) -> tuple[Hashable, ...]:
    """The same for requests that differ in their market alone."""
    return *_but_images(request), request.image_a, request.image_b
