"""The prior of a query (Eq. 2, 3): neighbours of both images vote, position by position."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from countryreward.data.artifacts import as_plain
from countryreward.equations import retrieval as equations
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.retrieval_config import PriorConfig, RetrievalConfig
from countryreward.retrieval.search import Candidates, Query, TwoStageSearch


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What past ads say about one pair in one market. n = 0 is no prior: log-odds exactly 0, no letter."""

    log_odds: float
    n: int
    letter: str | None
    entries_a: NDArray[np.int64]  # [n] entries of the market, best first
    entries_b: NDArray[np.int64]  # [n]
    similarity_a: NDArray[np.float64]  # [n]
    similarity_b: NDArray[np.float64]  # [n]
    weights: NDArray[np.float64]  # [n] w_i of Eq. 2
    votes: NDArray[np.float64]  # [n] s_i of Eq. 2, for A


def retrieval_hash(config: RetrievalConfig) -> str:
    """16 hex digits that name a retrieval configuration with every option in force."""
    options = {name: config.prior.option(name) for name in ("weights", "evidence", "ties", "vote")}
    return hashlib.sha256(json.dumps([as_plain(config.search), options], sort_keys=True).encode()).hexdigest()[:16]


def vote(
    evidence_a: NDArray[np.float64], evidence_b: NDArray[np.float64], config: PriorConfig
) -> tuple[float, str | None, NDArray, NDArray]:
    """Eq. 2 and 3 on the evidence of the i-th neighbours. [n], [n] -> log-odds, letter, weights [n], votes for A [n]."""
    n = len(evidence_a)
    if n == 0:
        return 0.0, None, np.zeros(0), np.zeros(0)
    ties = config.option("ties")
    weights = equations.position_weights(n, config.option("weights"))
    for_a = equations.votes(evidence_a, evidence_b, vote=config.option("vote"), ties=ties)
    for_b = equations.votes_for_b(evidence_a, evidence_b, vote=config.option("vote"), ties=ties)
    score_a, score_b = equations.preference_scores(weights, for_a, for_b)
    return equations.log_odds(weights, for_a, for_b), equations.letter(score_a, score_b, ties=ties), weights, for_a


class PriorRetriever:
    """Search and vote over one knowledge base: the CC-RAG module."""

    def __init__(self, base: KnowledgeBase, config: RetrievalConfig) -> None:
        self.base = base
        self.config = config
        self.search = TwoStageSearch(base, config.search)

    def prior(
        self,
        query: Query,
        candidates: Candidates,
        a: int,
        b: int,
        *,
        text_k: int | None = None,
        image_k: int | None = None,
    ) -> Prior:
        """The prior of images a and b of a query, from its candidates. text_k, image_k: smaller ones than the search's own."""
        positions_a = self.search.neighbours(candidates, a, (a, b), text_k=text_k, image_k=image_k)
        positions_b = self.search.neighbours(candidates, b, (a, b), text_k=text_k, image_k=image_k)
        n = min(len(positions_a), len(positions_b))
        positions_a, positions_b = positions_a[:n], positions_b[:n]
        entries_a, entries_b = candidates.entry[positions_a], candidates.entry[positions_b]
        market = self.base.market(query.market)
        values = np.zeros(0)
        if market is not None:
            evidence = market.evidence(query.as_of)
            values = evidence.lift if self.config.prior.option("evidence") == "lift" else evidence.value
        log_odds, letter, weights, votes = vote(values[entries_a], values[entries_b], self.config.prior)
        return Prior(
            log_odds=log_odds,
            n=n,
            letter=letter,
            entries_a=entries_a,
            entries_b=entries_b,
            similarity_a=candidates.similarity[a][positions_a],
            similarity_b=candidates.similarity[b][positions_b],
            weights=weights,
            votes=votes,
        )

    def priors(self, query: Query, pairs: list[tuple[int, int]]) -> list[Prior]:
        """Priors of several pairs among the images of one query, from one search."""
        candidates = self.search.candidates(query)
        return [self.prior(query, candidates, a, b) for a, b in pairs]
