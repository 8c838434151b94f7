"""A Scorer from retrieval alone: the prior of CC-RAG as a verdict, with the past ads that speak for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from countryreward.data.decoding import ImageError, ImageFacts, decode, read_image
from countryreward.errors import UserError
from countryreward.retrieval.encoders import load_image_encoder, load_text_encoder
from countryreward.retrieval.knowledge_base import EntryEvidence, KnowledgeBase, MarketBase
from countryreward.retrieval.prior import Prior, PriorRetriever
from countryreward.retrieval.search import Query
from countryreward.scoring.contracts import Evidence, PairRequest, PastAd, Product, Verdict
from countryreward.scoring.prior_queries import Question, SeenImage, searches
from countryreward.scoring.scoring_config import PriorScorerConfig

NO_EVIDENCE = "no evidence: no past ad of this market may speak"


@dataclass(frozen=True)
class LookedUp:
    """What retrieval found for one question."""

    query: Query
    prior: Prior


class PriorScorer:
    """`PriorScorer("runs/demo/knowledge_base").compare(product, image_a, image_b, ["KR", "BR"])`.

    Loads the encoders that the knowledge base names. Raises `UserError` for a missing or altered base, an unknown market, an
    image that cannot be read.
    """

    def __init__(self, knowledge_base: str | Path | KnowledgeBase, config: PriorScorerConfig | None = None) -> None:
        self.config = config or PriorScorerConfig()
        opened = isinstance(knowledge_base, KnowledgeBase)
        self.base = knowledge_base if opened else KnowledgeBase.open(knowledge_base)
        names = self.base.manifest.config["encoder_names"]
        self.text_encoder, self.image_encoder = load_text_encoder(names["text"]), load_image_encoder(names["image"])
        made_by = self.base.manifest.config["encoders"]
        mine = {"text": self.text_encoder.fingerprint, "image": self.image_encoder.fingerprint}
        if mine != made_by:
            raise UserError(
                f"knowledge_base: built with encoders {made_by}, these are {mine}; rebuild it or restore the encoders"
            )
        self.retriever = PriorRetriever(self.base, self.config.retrieval)

    def compare(self, product: Product, image_a: bytes, image_b: bytes, markets: Sequence[str]) -> list[Verdict]:
        """One pair in several markets."""
        return self.score(
            [PairRequest(product=product, image_a=image_a, image_b=image_b, market=market) for market in markets]
        )

    def score(self, requests: Sequence[PairRequest]) -> list[Verdict]:
        """See `Scorer.score`. Each text and each image is encoded once per call."""
        questions, _ = self.questions(requests)
        return [self._verdict(found) for found in self.look_up(questions)]

    def questions(self, requests: Sequence[PairRequest]) -> tuple[list[Question], dict[str, Image.Image]]:
        """The question of every request, and its pictures by content hash; each image is decoded and encoded once per call."""
        if not requests:
            return [], {}
        markets = [request.market_code() for request in requests]
        images = list(dict.fromkeys(image for request in requests for image in (request.image_a, request.image_b)))
        read = [self._read(image) for image in images]
        vectors = self.image_encoder.encode([picture for _, picture in read])
        seen = {
            image: SeenImage(
                content_hash=facts.content_hash, perceptual_hash=int(facts.perceptual_hash, 16), vector=vector
            )
            for image, (facts, _), vector in zip(images, read, vectors, strict=True)
        }
        questions = [
            Question(
                product=request.product,
                images=(seen[request.image_a], seen[request.image_b]),
                market=market,
                as_of=request.as_of,
            )
            for request, market in zip(requests, markets, strict=True)
        ]
        return questions, {facts.content_hash: picture for facts, picture in read}

    def look_up(self, questions: Sequence[Question]) -> list[LookedUp]:
        """The query that answers every question, and its prior; each text is encoded once per call."""
        if not questions:
            return []
        texts = list(dict.fromkeys(question.text() for question in questions))
        text_of = dict(zip(texts, self.text_encoder.encode(texts), strict=True))
        found: list[LookedUp | None] = [None] * len(questions)
        for together in searches(questions, text_of):
            candidates = self.retriever.search.candidates_of([search.query for search in together])
            for search, of_one in zip(together, candidates, strict=True):
                for at, a, b in search.pairs:
                    found[at] = LookedUp(search.query, self.retriever.prior(search.query, of_one, a, b))
        return [one for one in found if one is not None]

    def picture(self, image: bytes) -> Image.Image:
        """A decoded image, within the configured limits."""
        return decode(image, max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)

    def _read(self, image: bytes) -> tuple[ImageFacts, Image.Image]:
        try:
            return read_image(image, max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)
        except ImageError as refused:
            raise UserError(f"image: {refused}; give a whole PNG, JPEG or WEBP file") from None

    def _verdict(self, found: "LookedUp") -> Verdict:
        query, prior = found.query, found.prior
        probability = 1 / (1 + math.exp(-prior.log_odds))
        abstains = prior.letter is None or abs(probability - 0.5) < self.config.abstain_below
        return Verdict(
            market=query.market,
            probability=probability,
            calibrated_probability=None,
            choice=None if abstains else prior.letter,
            log_odds=prior.log_odds,
            evidence=tuple(self.evidence(query, prior)),
            past_ads=2 * prior.n,
            model_version=None,
            knowledge_base_version=self.base.version,
            note=None if prior.n else NO_EVIDENCE,
        )

    def evidence(self, query: Query, prior: Prior, most: int | None = None) -> list[Evidence]:
        """The past ads behind a prior, heaviest first, `most` positions of them; empty without evidence."""
        market = self.base.market(query.market)
        if market is None or prior.n == 0:
            return []
        known = market.evidence(query.as_of)
        total = prior.weights.sum()
        return [
            Evidence(
                like_a=self._past_ad(market, known, int(prior.entries_a[i]), float(prior.similarity_a[i])),
                like_b=self._past_ad(market, known, int(prior.entries_b[i]), float(prior.similarity_b[i])),
                weight=float(prior.weights[i] / total),
                vote=float(prior.votes[i]),
            )
            for i in range(prior.n if most is None else min(most, prior.n))
        ]

    def _past_ad(self, market: MarketBase, known: EntryEvidence, entry: int, similarity: float) -> PastAd:
        product = self.base.product(int(market.product_row[entry]))
        impressions = known.impressions[entry]
        return PastAd(
            creative_id=str(market.creative_id[entry]),
            product_id=product[0],
            title=product[1],
            similarity=similarity,
            lift=float(known.lift[entry]),
            value=float(known.value[entry]),
            impressions=None if np.isnan(impressions) else int(impressions),
            image_row=int(market.image_row[entry]),
        )
