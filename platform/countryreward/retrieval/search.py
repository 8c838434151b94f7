"""The two-stage search of Eq. 1, exact, with the leakage guards of method.md.

Exact means: the ids are those of a plain search over all entries, score descending, id ascending. FAISS proposes texts, their
scores are computed again one by one (`canonical_scores`), and more are fetched until nothing outside can belong inside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from countryreward.equations.retrieval import canonical_scores, top
from countryreward.retrieval.knowledge_base import KnowledgeBase, MarketBase
from countryreward.retrieval.retrieval_config import SearchConfig

FLOAT32_ERROR = 1e-5
"""More than FAISS's float32 inner product of unit vectors can be off by."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One product with I images, asked for one market."""

    market: str
    text: NDArray[np.float32]  # [D_text]
    images: NDArray[np.float32]  # [I, D_image]
    content_hashes: Sequence[str]  # [I]
    perceptual_hashes: NDArray[np.uint64]  # [I]
    product_id: str | None = None  # its own entries are never neighbours
    as_of: date | None = None  # only evidence that ended before


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The result of both stages for one query, before top-m: C candidate entries of the text stage's products.

    Kept with their text rank, so that any smaller k is a filter on `text_rank` and needs no second search.
    """

    product_rows: NDArray[np.int64]  # [<= k] best first
    text_similarity: NDArray[np.float64]  # [<= k]
    entry: NDArray[np.int64]  # [C] position in the market's entries
    text_rank: NDArray[np.int64]  # [C] rank of its product, from 0
    similarity: NDArray[np.float64]  # [I, C] image similarity
    leaks: NDArray[np.bool_]  # [I, C] must not speak in a pair with image i: same bytes, near-duplicate, too similar


class TwoStageSearch:
    """Searches one knowledge base."""

    def __init__(self, base: KnowledgeBase, config: SearchConfig) -> None:
        self.base = base
        self.config = config

    def candidates(self, query: Query) -> Candidates:
        """Both stages of Eq. 1 up to top-m; empty when the base knows nothing of the market."""
        return next(self.candidates_of([query]))

    def candidates_of(self, queries: Sequence[Query]) -> Iterator[Candidates]:
        """Candidates of several queries with the very same images, such as one pair in ten markets: each past image is scored
        once. Asserts that `images` is one array for all."""
        images = queries[0].images
        assert all(query.images is images for query in queries)
        stages = [self._entries(query) for query in queries]
        scores = _shared_scores(self.base.image_vectors, images, [stage.image_row for stage in stages])
        for query, stage, similarity in zip(queries, stages, scores, strict=True):
            yield Candidates(
                product_rows=stage.product_rows,
                text_similarity=stage.text_similarity,
                entry=stage.entry,
                text_rank=stage.text_rank,
                similarity=similarity,
                leaks=self._leaks(query, stage.image_row, similarity),
            )

    def _entries(self, query: Query) -> "_TextStage":
        """The text stage, and every entry of its products that was known by then."""
        market = self.base.market(query.market)
        if market is None:
            none = np.zeros(0, dtype=np.int64)
            return _TextStage(none, np.zeros(0), none, none, none)
        evidence = market.evidence(query.as_of)
        products, text_similarity = self._text_stage(market, query, evidence.living)
        entry, text_rank = _ranges(market.first_entry[products], market.entries[products])
        alive = evidence.alive[entry]
        entry, text_rank = entry[alive], text_rank[alive]
        return _TextStage(market.product_rows[products], text_similarity, entry, text_rank, market.image_row[entry])

    def neighbours(
        self,
        candidates: Candidates,
        image: int,
        against: Sequence[int],
        *,
        text_k: int | None = None,
        image_k: int | None = None,
    ) -> NDArray[np.int64]:
        """N of Eq. 1 for one image of a query: positions in `candidates`, best first, [<= m].

        `against`: the images of the pair, this one included; what leaks for one of them speaks for none. `text_k` and
        `image_k` may be smaller than the search's own.
        """
        similarity = candidates.similarity[image]
        usable = ~candidates.leaks[list(against)].any(axis=0) & (candidates.text_rank < (text_k or self.config.text_k))
        if self.config.image_min_similarity is not None:
            usable &= similarity >= self.config.image_min_similarity
        positions = np.flatnonzero(usable)
        best = top(similarity[positions], candidates.entry[positions], image_k or self.config.image_k)
        return positions[best]

    def _text_stage(
        self, market: MarketBase, query: Query, living: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Top-k products: positions in the market's product_rows, and their text similarity, best first."""
        k, total = self.config.text_k, len(market.text_rows)
        own = self.base.product_row(query.product_id)
        fetch = min(total, k + 16)
        while True:
            texts, unseen_at_most = self._fetch(market, query.text, fetch)
            scores = canonical_scores(self.base.texts[market.text_rows[texts]], query.text)
            certain = scores > unseen_at_most  # no text that was not fetched can come before these
            place, of_text = _ranges(market.first_product[texts[certain]], market.products[texts[certain]])
            position, score = market.product_order[place], scores[certain][of_text]
            usable = living[position] & (market.product_rows[position] != own)
            if self.config.text_max_similarity is not None:
                usable &= score <= self.config.text_max_similarity
            if self.config.text_min_similarity is not None:
                usable &= score >= self.config.text_min_similarity
            position, score = position[usable], score[usable]
            if len(position) >= k or fetch == total:
                best = top(score, position, k)
                return position[best], score[best]
            fetch = min(total, 2 * fetch)

    @staticmethod
    def _fetch(market: MarketBase, text: NDArray[np.float32], fetch: int) -> tuple[NDArray[np.int64], float]:
        """FAISS's best texts of the market, as positions in its index, ascending, and a bound no text outside them can exceed."""
        scores, texts = market.index.search(np.ascontiguousarray(text[None]), fetch)  # pyright: ignore[reportCallIssue]
        bound = -np.inf if fetch == len(market.text_rows) else float(scores[0, -1]) + FLOAT32_ERROR
        return np.sort(texts[0]), bound

    def _leaks(self, query: Query, rows: NDArray[np.int64], similarity: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Guards between each query image and each candidate image. [I], [C] -> [I, C]."""
        same = np.stack([rows == self.base.image_row(name) for name in query.content_hashes])
        bits = np.bitwise_count(query.perceptual_hashes[:, None] ^ self.base.perceptual[rows][None, :])
        leaks = same | (bits.astype(np.int64) <= self.config.near_duplicate_bits)
        if self.config.image_max_similarity is not None:
            leaks |= similarity > self.config.image_max_similarity
        return leaks


class _TextStage(NamedTuple):
    """What `Candidates` says before images are scored; arrays as there."""

    product_rows: NDArray[np.int64]
    text_similarity: NDArray[np.float64]
    entry: NDArray[np.int64]
    text_rank: NDArray[np.int64]
    image_row: NDArray[np.int64]  # [C]


def _shared_scores(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], row_lists: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.float64]]:
    """Scores of several lists of rows, each row scored once: [C] each -> [Q, C] each."""
    if len(row_lists) == 1:
        yield canonical_scores(vectors[row_lists[0]], queries)
        return
    rows, place = np.unique(np.concatenate(row_lists), return_inverse=True)
    scores = canonical_scores(vectors[rows], queries)
    for columns in np.split(place, np.cumsum([len(row_list) for row_list in row_lists])[:-1]):
        yield scores[:, columns]


def _ranges(first: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranges [first, first + length) one after another, and of each element the range it is in."""
    of_range = np.repeat(np.arange(len(first)), lengths)
    start = np.cumsum(lengths) - lengths
    return np.arange(len(of_range)) + (first - start)[of_range], of_range
