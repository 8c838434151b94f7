"""A Scorer from retrieval alone: the prior of CC-RAG as a verdict, with the past ads that speak for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.scoring.contracts import (
    PairRequest,
    Product,
    ScoreRequest,
    Verdict,
    answer_either,
    split_by_request,
)
from countryreward.scoring.prior_lookup import MarketPrior, PriorLookup
from countryreward.scoring.scoring_config import PriorScorerConfig
from countryreward.scoring.verdicts import NO_EVIDENCE, build_verdict


class PriorScorer:
    """`PriorScorer("runs/demo/knowledge_base").compare(product, image_a, image_b, ["KR", "BR"])`.

    Raises `UserError` for a missing or altered base, an unknown market, an image that cannot be read.
    """

    def __init__(self, knowledge_base: str | Path | KnowledgeBase, config: PriorScorerConfig | None = None) -> None:
        self.config = config or PriorScorerConfig()
        is_open = isinstance(knowledge_base, KnowledgeBase)
        self.base = knowledge_base if is_open else KnowledgeBase.open(knowledge_base)
        self.lookup = PriorLookup(self.base, self.config)

    def compare(self, product: Product, image_a: bytes, image_b: bytes, markets: Sequence[str]) -> list[Verdict]:
        """One pair in several markets, one verdict each."""
        (verdicts,) = self.score([ScoreRequest.of_images(product, (image_a, image_b), markets=tuple(markets))])
        return verdicts

    @overload
    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]: ...

    @overload
    def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]: ...

    def score(self, requests: Sequence[ScoreRequest] | Sequence[PairRequest], /) -> list[Verdict] | list[list[Verdict]]:
        """The verdicts of every request, in the order of its questions. Each text and each image is encoded once per call."""
        return answer_either(requests, self._verdicts)

    def _verdicts(self, requests: Sequence[ScoreRequest]) -> list[list[Verdict]]:
        pairs, _ = self.lookup.pairs_of(requests)
        priors = split_by_request(requests, self.lookup.look_up(pairs))
        return [
            [self._verdict(prior, request.evidence) for prior in priors_of_request]
            for request, priors_of_request in zip(requests, priors, strict=True)
        ]

    def _verdict(self, found: MarketPrior, evidence: int | None) -> Verdict:
        return build_verdict(
            found.query.market,
            found.prior.log_odds,
            lookup=self.lookup,
            found=found,
            evidence=evidence,
            temperature=None,
            decides=found.prior.letter is not None,
            abstain_below=self.config.abstain_below,
            model_version=None,
            note=None if found.prior.n else NO_EVIDENCE,
            tie=found.prior.letter,
        )
