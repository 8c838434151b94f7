"""Questions to the prior: requests whose images have been decoded and encoded, and the searches that answer them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from countryreward.retrieval.search import Query
from countryreward.retrieval.text import product_text
from countryreward.scoring.contracts import Product


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """What retrieval keeps of an image."""

    content_hash: str
    perceptual_hash: int
    vector: NDArray[np.float32]  # [D_image]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request whose images have been decoded and encoded."""

    product: Product
    images: tuple[SeenImage, SeenImage]
    market: str
    """ISO 3166 alpha-2."""
    as_of: date | None = None

    def text(self) -> str:
        """The text by which its product is searched."""
        return product_text(self.product.title, self.product.category, self.product.attributes, self.product.tags)


@dataclass(frozen=True)
class Search:
    """One query and the questions that it answers."""

    query: Query
    pairs: list[tuple[int, int, int]]
    """Position of the question, position of its A and of its B in `query.images`."""


def searches(questions: Sequence[Question], text_of: Mapping[str, NDArray[np.float32]]) -> list[list[Search]]:
    """One search per product, market and day, for all pairs asked of it; those of the very same images are together.

    text_of: the vector of every question's text.
    """
    asked: dict[tuple[str, str | None, str, date | None], list[int]] = {}
    for position, question in enumerate(questions):
        key = (question.text(), question.product.product_id, question.market, question.as_of)
        asked.setdefault(key, []).append(position)
    vectors: dict[tuple[str, ...], NDArray[np.float32]] = {}
    together: dict[tuple[str, ...], list[Search]] = {}
    for (text, product_id, market, as_of), positions in asked.items():
        seen = {image.content_hash: image for at in positions for image in questions[at].images}
        place = {name: number for number, name in enumerate(seen)}
        names = tuple(seen)
        if names not in vectors:
            vectors[names] = np.stack([image.vector for image in seen.values()])
        query = Query(
            market=market,
            text=text_of[text],
            images=vectors[names],
            content_hashes=names,
            perceptual_hashes=np.array([image.perceptual_hash for image in seen.values()], dtype=np.uint64),
            product_id=product_id,
            as_of=as_of,
        )
        asked_pairs = [(at, questions[at].images) for at in positions]
        pairs = [(at, place[a.content_hash], place[b.content_hash]) for at, (a, b) in asked_pairs]
        together.setdefault(names, []).append(Search(query, pairs))
    return list(together.values())
