"""A Scorer over a Serve handle: what runs on the same Ray asks the reward replicas without HTTP and without a key."""

from collections.abc import Hashable, Sequence
from typing import Any

from countryreward.scoring.contracts import PairRequest, Verdict
from countryreward.serving.asking import Ask


class HandleScorer:
    """`HandleScorer(serve.get_app_handle("reward")).score(requests)`. Requests that differ in their market alone make one call.

    tenant: under which name the replicas keep encoded images. timeout_s: for all calls of one `score`; Ray raises `TimeoutError`.
    """

    def __init__(self, handle: Any, *, tenant: str = "ray", evidence: int = 5, timeout_s: float = 120.0) -> None:
        self.handle, self.tenant, self.evidence, self.timeout_s = handle, tenant, evidence, timeout_s

    def score(self, requests: Sequence[PairRequest]) -> list[Verdict]:
        """See `Scorer.score`. Raises `UserError` for what is wrong with a request."""
        groups: dict[Hashable, tuple[PairRequest, dict[str, list[int]]]] = {}
        for position, request in enumerate(requests):
            _, places = groups.setdefault(_but_market(request), (request, {}))
            places.setdefault(request.market_code(), []).append(position)
        calls = [self.handle.judge.remote(self._ask(first, tuple(places))) for first, places in groups.values()]
        found: list[Verdict | None] = [None] * len(requests)
        for (_, places), call in zip(groups.values(), calls, strict=True):
            for positions, verdict in zip(places.values(), call.result(timeout_s=self.timeout_s), strict=True):
                for position in positions:
                    found[position] = verdict
        return [verdict for verdict in found if verdict is not None]

    def _ask(self, first: PairRequest, markets: tuple[str, ...]) -> Ask:
        return Ask(
            product=first.product,
            images=(first.image_a, first.image_b),
            markets=markets,
            as_of=first.as_of,
            tenant=self.tenant,
            evidence=self.evidence,
        )


def _but_market(request: PairRequest) -> tuple[Hashable, ...]:
    """The same for requests that differ in their market alone."""
    product = request.product
    described = (product.title, product.category, *sorted(product.attributes.items()), *product.tags)
    return described, product.product_id, request.image_a, request.image_b, request.as_of
