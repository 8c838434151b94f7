"""What the past ads of a market say about requests: images decoded and encoded for retrieval, searches shared, evidence shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from countryreward.data.creative_identity import Copy
from countryreward.data.decoding import ImageError, ImageFacts, read_image
from countryreward.errors import UserError
from countryreward.retrieval.embedding_table import product_text
from countryreward.retrieval.encoders import load_image_encoder, load_text_encoder
from countryreward.retrieval.knowledge_base import EntryEvidence, KnowledgeBase, MarketBase
from countryreward.retrieval.prior import Prior, PriorRetriever
from countryreward.retrieval.search import Query
from countryreward.scoring.contracts import Evidence, KnownResult, PastAd, Product, ScoreRequest
from countryreward.scoring.scoring_config import PriorScorerConfig


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """What retrieval keeps of an image."""

    content_hash: str
    perceptual_hash: int
    vector: NDArray[np.float32]  # [D_image]

    @classmethod
    def of(cls, facts: ImageFacts, vector: NDArray[np.float32]) -> "EncodedImage":
        """From what decoding found and what the retrieval encoder gave."""
        return cls(content_hash=facts.content_hash, perceptual_hash=int(facts.perceptual_hash, 16), vector=vector)


@dataclass(frozen=True, kw_only=True)
class MarketPair:
    """One pair of a request in one market, its images encoded."""

    product: Product
    images: tuple[EncodedImage, EncodedImage]
    market: str
    """ISO 3166 alpha-2."""
    as_of: date | None = None
    copies: tuple[Copy | None, Copy | None] = (None, None)
    """The words of the two ads; past ads are searched by picture alone."""
    known: tuple[KnownResult, ...] = ()
    """How the pair did in other markets."""

    @classmethod
    def of(cls, request: ScoreRequest, market: str, a: int, b: int, encoded: Sequence[EncodedImage]) -> "MarketPair":
        """One question of a request. encoded: the images of its creatives, in order."""
        return cls(
            product=request.product,
            images=(encoded[a], encoded[b]),
            market=market,
            as_of=request.as_of,
            copies=(request.creatives[a].copy, request.creatives[b].copy),
            known=request.known_of(a, b),
        )

    def text(self) -> str:
        """The text by which its product is searched."""
        return product_text(self.product.title, self.product.category, self.product.attributes, self.product.tags)


@dataclass(frozen=True)
class MarketPrior:
    """What retrieval gives for one pair: the query that was searched, and the prior."""

    query: Query
    prior: Prior


class PriorLookup:
    """Retrieval over one knowledge base, with the encoders that it names.

    Raises `UserError` when one of them cannot be loaded or is not the one that the base was built with.
    """

    def __init__(self, base: KnowledgeBase, config: PriorScorerConfig) -> None:
        self.base, self.config = base, config
        names, fingerprints = base.manifest.config["encoder_names"], base.manifest.config["encoders"]
        self.text_encoder, self.image_encoder = load_text_encoder(names["text"]), load_image_encoder(names["image"])
        loaded = {"text": self.text_encoder.fingerprint, "image": self.image_encoder.fingerprint}
        if loaded != fingerprints:
            raise UserError(
                f"knowledge_base: built with encoders {fingerprints}, these are {loaded}; rebuild it or restore the encoders"
            )
        self.retriever = PriorRetriever(base, config.retrieval)

    def pairs_of(self, requests: Sequence[ScoreRequest]) -> tuple[list[MarketPair], dict[str, Image.Image]]:
        """Every question of the requests in order, and their pictures by content hash.

        Each image is decoded and encoded once per call. Raises `UserError` for an image that cannot be read, no country.
        """
        questions = [request.questions() for request in requests]
        files = list(dict.fromkeys(creative.image for request in requests for creative in request.creatives))
        decoded = [self.read_image(image) for image in files]
        vectors = self.image_encoder.encode([picture for _, picture in decoded]) if decoded else ()
        images = {
            file: EncodedImage.of(facts, vector)
            for file, (facts, _), vector in zip(files, decoded, vectors, strict=True)
        }
        encoded = [[images[creative.image] for creative in request.creatives] for request in requests]
        pairs = [
            MarketPair.of(request, market, a, b, encoded_of_request)
            for request, encoded_of_request, asked in zip(requests, encoded, questions, strict=True)
            for market, a, b in asked
        ]
        return pairs, {facts.content_hash: picture for facts, picture in decoded}

    def look_up(self, pairs: Sequence[MarketPair]) -> list[MarketPrior]:
        """The prior of every pair, in order; each text is encoded once per call. Any thread."""
        if not pairs:
            return []
        texts = list(dict.fromkeys(pair.text() for pair in pairs))
        vector_of = dict(zip(texts, self.text_encoder.encode(texts), strict=True))
        priors: dict[int, MarketPrior] = {}
        for searches in shared_searches(pairs, vector_of):
            candidates = self.retriever.search.candidates_of([search.query for search in searches])
            for search, candidates_of_query in zip(searches, candidates, strict=True):
                for position, a, b in search.pairs:
                    prior = self.retriever.prior(search.query, candidates_of_query, a, b)
                    priors[position] = MarketPrior(search.query, prior)
        return [priors[position] for position in range(len(pairs))]

    def read_image(self, image: bytes, name: str = "image") -> tuple[ImageFacts, Image.Image]:
        """Decoded within the configured limits. Raises `UserError` for what cannot be."""
        try:
            return read_image(image, max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)
        except ImageError as error:
            raise UserError(f"{name}: {error}; give a whole PNG, JPEG or WEBP file") from None

    def evidence(self, found: MarketPrior, most: int | None = None) -> tuple[Evidence, ...]:
        """The past ads behind a prior, heaviest first, `most` positions of them (None: all); empty without evidence."""
        query, prior = found.query, found.prior
        market = self.base.market(query.market)
        if market is None or prior.n == 0:
            return ()
        entries = market.evidence(query.as_of)
        total = prior.weights.sum()
        return tuple(
            Evidence(
                like_a=self._past_ad(market, entries, int(prior.entries_a[i]), float(prior.similarity_a[i])),
                like_b=self._past_ad(market, entries, int(prior.entries_b[i]), float(prior.similarity_b[i])),
                weight=float(prior.weights[i] / total),
                vote=float(prior.votes[i]),
            )
            for i in range(prior.n if most is None else min(most, prior.n))
        )

    def _past_ad(self, market: MarketBase, entries: EntryEvidence, entry: int, similarity: float) -> PastAd:
        product_id, title = self.base.product(int(market.product_row[entry]))[:2]
        impressions = entries.impressions[entry]
        return PastAd(
            creative_id=str(market.creative_id[entry]),
            product_id=product_id,
            title=title,
            similarity=similarity,
            lift=float(entries.lift[entry]),
            value=float(entries.value[entry]),
            impressions=None if np.isnan(impressions) else int(impressions),
            image_row=int(market.image_row[entry]),
            headline=market.headline[entry],
        )


def open_base(knowledge_base: str | Path | KnowledgeBase) -> KnowledgeBase:
    """A knowledge base that is open already, or the folder of one."""
    return knowledge_base if isinstance(knowledge_base, KnowledgeBase) else KnowledgeBase.open(knowledge_base)


@dataclass(frozen=True)
class _Search:
    """One query and the pairs that it answers."""

    query: Query
    pairs: list[tuple[int, int, int]]
    """Position of the pair, position of its A and of its B in `query.images`."""


def shared_searches(pairs: Sequence[MarketPair], vector_of: Mapping[str, NDArray[np.float32]]) -> list[list[_Search]]:
    """One search per product, market and day, for all its pairs; those over the very same images are together.

    vector_of: of every pair's text.
    """
    positions_of: dict[tuple[str, str | None, str, date | None], list[int]] = {}
    for position, pair in enumerate(pairs):
        key = (pair.text(), pair.product.product_id, pair.market, pair.as_of)
        positions_of.setdefault(key, []).append(position)
    vectors: dict[tuple[str, ...], NDArray[np.float32]] = {}
    groups: dict[tuple[str, ...], list[_Search]] = {}
    for (text, product_id, market, as_of), positions in positions_of.items():
        images = {image.content_hash: image for position in positions for image in pairs[position].images}
        place = {name: number for number, name in enumerate(images)}
        names = tuple(images)
        if names not in vectors:
            vectors[names] = np.stack([image.vector for image in images.values()])
        query = Query(
            market=market,
            text=vector_of[text],
            images=vectors[names],
            content_hashes=names,
            perceptual_hashes=np.array([image.perceptual_hash for image in images.values()], dtype=np.uint64),
            product_id=product_id,
            as_of=as_of,
        )
        sides = [
            (position, place[a.content_hash], place[b.content_hash])
            for position in positions
            for a, b in (pairs[position].images,)
        ]
        groups.setdefault(names, []).append(_Search(query, sides))
    return list(groups.values())
