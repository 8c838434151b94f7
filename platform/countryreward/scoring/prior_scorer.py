"""A Scorer from retrieval alone: the prior of CC-RAG as a verdict, with the past ads that speak for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.scoring.contracts import (
    Copy,
    PairRequest,
    Product,
    ScoreRequest,
    Verdict,
    answer_either,
    split_by_request,
)
from countryreward.scoring.prior_lookup import MarketPair, MarketPrior, PriorLookup
from countryreward.scoring.scoring_config import PriorScorerConfig
from countryreward.scoring.verdicts import NO_EVIDENCE, build_verdict

UNREAD_BY_RETRIEVAL = "the words were not read: past ads are found by picture"


class PriorScorer:
    """`PriorScorer("runs/demo/knowledge_base").compare(product, image_a, image_b, ["KR", "BR"])`.

    Raises `UserError` for a missing or altered base, an unknown market, an image that cannot be read.
    """

    def __init__(self, knowledge_base: str | Path | KnowledgeBase, config: PriorScorerConfig | None = None) -> None:
        self.config = config or PriorScorerConfig()
        is_open = isinstance(knowledge_base, KnowledgeBase)
        self.base = knowledge_base if is_open else KnowledgeBase.open(knowledge_base)
        self.lookup = PriorLookup(self.base, self.config)

    def compare(
        self,
        product: Product,
        image_a: bytes,
        image_b: bytes,
        markets: Sequence[str],
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]:
        """One pair in several markets, one verdict each. copies: the words of A and B, which retrieval does not read."""
        (verdicts,) = self.score([ScoreRequest.of_ads(product, (image_a, image_b), copies, markets=tuple(markets))])
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
        asked = split_by_request(requests, list(zip(pairs, self.lookup.look_up(pairs), strict=True)))
        return [
            [self._verdict(pair, prior, request.evidence) for pair, prior in asked_of_request]
            for request, asked_of_request in zip(requests, asked, strict=True)
        ]

    def _verdict(self, pair: MarketPair, found: MarketPrior, evidence: int | None) -> Verdict:
        notes = [] if found.prior.n else [NO_EVIDENCE]
        if any(pair.copies):
            notes.append(UNREAD_BY_RETRIEVAL)
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
            delivery=self.base.delivery,
            note="; ".join(notes) or None,
            tie=found.prior.letter,
            known_used=False if pair.known else None,
        )
