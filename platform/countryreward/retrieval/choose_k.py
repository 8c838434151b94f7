"""Appendix F: choosing k for the text stage and m for the image stage from mean similarity by rank."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.equations.retrieval import choose_k
from countryreward.errors import UserError
from countryreward.retrieval.bulk_priors import queries
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.retrieval_config import SearchConfig
from countryreward.retrieval.search import TwoStageSearch


@dataclass(frozen=True)
class DecayCurve:
    """Mean similarity by rank of one stage, and the k it leads to."""

    mean_similarity: NDArray[np.float64]  # [K]
    k: int
    threshold: float
    queries: int

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return {
            "rank": list(range(1, len(self.mean_similarity) + 1)),
            "mean_similarity": [round(float(value), 6) for value in self.mean_similarity],
            "k": self.k,
            "K": len(self.mean_similarity),
            "threshold": self.threshold,
            "queries": self.queries,
        }


def decay_curves(
    records: pd.DataFrame,
    source: Embeddings,
    base: KnowledgeBase,
    *,
    text_list: int,
    image_list: int,
    threshold: float,
    most_queries: int,
    seed: int = 0,
) -> dict[str, DecayCurve]:
    """Curves of both stages over up to `most_queries` queries (product x market) of `records`.

    The image stage is measured within the text stage's first `text_list` products. K is the list length asked for, or the
    length that nine lists of ten reach where a market holds less; it is part of the result because k depends on it. Raises
    `UserError` where no query finds another product's ads.
    """
    search = TwoStageSearch(base, SearchConfig(text_k=text_list, image_k=image_list))
    embedded = source.images["content_hash"]  # images that failed are absent
    records = records[records["hash_a"].isin(embedded) & records["hash_b"].isin(embedded)]
    groups = records[["product_id", "market"]].drop_duplicates()
    chosen = groups.sample(n=min(most_queries, len(groups)), random_state=seed)
    text_lists, image_lists = [], []
    for query, _, _ in queries(records.merge(chosen, on=["product_id", "market"]), source):
        candidates = search.candidates(query)
        if len(candidates.entry) == 0:
            continue
        text_lists.append(candidates.text_similarity)
        for image in range(len(query.images)):
            positions = search.neighbours(candidates, image, (image,))
            if len(positions):
                image_lists.append(candidates.similarity[image][positions])
    if not text_lists or not image_lists:
        raise UserError(f"records: {_no_list(chosen, base)}")
    return {
        "text": _curve(text_lists, threshold),
        "image": _curve(image_lists, threshold),
    }


def _no_list(queried: pd.DataFrame, base: KnowledgeBase) -> str:
    """Why no query found a neighbour. queried: product_id and market of each query."""
    if queried.empty:
        return "there is no training record with embedded pictures, so there is no list to choose k from"
    found = [base.market(market) for market in sorted(queried["market"].unique())]
    if max(len(market.product_rows) if market else 0 for market in found) < 2:
        return (
            "no training product finds another product's ads in the knowledge base, which holds at most one product in each"
            " market; it takes at least two training products in a market"
        )
    return (
        f"none of {len(queried):,} training queries may use another product's ads: the guards of the search (docs/method.md)"
        " leave none of them"
    )


def _curve(lists: list[NDArray[np.float64]], threshold: float) -> DecayCurve:
    # A list much shorter than the others would cut the curve for all: the shortest tenth is left out.
    length = int(np.quantile([len(values) for values in lists], 0.1))
    full = [values[:length] for values in lists if len(values) >= length]
    mean = np.mean(full, axis=0)
    return DecayCurve(
        mean_similarity=mean, k=choose_k(mean, threshold=threshold), threshold=threshold, queries=len(full)
    )
