"""CountryReward: a judge, its knowledge base and its calibration, asked from Python. No Ray.

judge = CountryReward.from_pretrained("runs/demo/model")
judge.score(Product(title="Oak desk lamp"), "a.jpg", "b.jpg", markets=["KR", "BR"])

Legend: n images, P patches of one, W the tower's width.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
from PIL import Image

from countryreward import markets as countries
from countryreward.errors import UserError
from countryreward.judges.base import ImageFeatures, JudgeQuestion, all_logits, encode_pictures, load_judge
from countryreward.scoring.contracts import (
    Copy,
    PairRequest,
    Product,
    Ranking,
    ScoreRequest,
    Verdict,
    answer_either,
    split_by_request,
    words_of,
)
from countryreward.scoring.frames import score_frame
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.prior_lookup import MarketPair, MarketPrior, PriorLookup
from countryreward.scoring.probe import run_probe
from countryreward.scoring.scoring_config import PriorScorerConfig, RewardScorerConfig
from countryreward.scoring.verdicts import NO_EVIDENCE, UNREAD_COPY, build_verdict, rankings

ImageLike = bytes | str | Path
"""File bytes, or the path of a file."""


@dataclass(frozen=True, kw_only=True)
class PreparedPair:
    """A pair in a market, ready for the judge."""

    market: str
    """ISO 3166 alpha-2."""
    found: MarketPrior | None
    """What retrieval gave; None: the judge reads no past ads."""
    prepared: Any
    """The question in the judge's own form; None: it cannot be asked, and `note` says why."""
    note: str | None
    known_used: bool | None = None
    """As in `Verdict`."""


class CountryReward:
    """Answers which of two creatives will win, market by market: a Scorer.

    One thread at a time, but for `prepare` and `verdict`.
    """

    def __init__(
        self, folder: ModelFolder, *, device: torch.device | str = "cpu", config: RewardScorerConfig | None = None
    ) -> None:
        self.folder, self.config = folder, config or RewardScorerConfig()
        self.judge = load_judge(folder.artifact.path, device)
        limits = PriorScorerConfig(max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)
        if folder.retrieval:
            limits.retrieval = folder.retrieval
        self.lookup = PriorLookup(folder.base, limits)
        self.reads_prior = folder.retrieval is not None and self.judge.reads_prior
        self._tokenizing = threading.Lock()  # tokenizers keep state

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        knowledge_base: str | Path | None = None,
        device: torch.device | str = "cpu",
        config: RewardScorerConfig | None = None,
    ) -> "CountryReward":
        """Load a model folder, every file checked against its hash.

        knowledge_base: a newer one than the model's own; it must have the same encoders and schema. Raises `UserError` naming
        the file that is missing or altered.
        """
        return cls(ModelFolder.open(folder, knowledge_base), device=device, config=config)

    @property
    def markets(self) -> list[str]:
        """Markets it was trained on."""
        return list(self.folder.trained_markets)

    @property
    def version(self) -> str:
        """The version verdicts name."""
        return self.folder.artifact.manifest.version

    @overload
    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]: ...

    @overload
    def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]: ...

    @overload
    def score(
        self,
        product: Product | str,
        image_a: ImageLike,
        image_b: ImageLike,
        *,
        markets: Sequence[str] | None = None,
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]: ...

    def score(
        self,
        product: Product | str | Sequence[ScoreRequest] | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict] | list[list[Verdict]]:
        """One verdict per market (default: all of the training); of requests, the verdicts of each in the order of its questions.

        copies: the words of ad A and of ad B. Each image is decoded and encoded once per call. Raises `UserError` for an image
        that cannot be read, no country, an empty title. A market that the model cannot judge gets a verdict without a choice
        whose note says why.
        """
        if not isinstance(product, Product | str):
            return answer_either(product, self._verdicts)
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        files = [self._bytes(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        chosen = tuple(self.markets if markets is None else _list_of(markets))
        (verdicts,) = self._verdicts([ScoreRequest.of_ads(_product(product), files, copies, markets=chosen)])
        return verdicts

    def rank(
        self,
        product: Product | str,
        images: Sequence[ImageLike],
        markets: Sequence[str] | None = None,
        *,
        copies: Sequence[Copy | None] | None = None,
    ) -> list[Ranking]:
        """Several images of one product, best first, per market: every pair is judged, each image encoded once.

        copies: the words of each image's ad.
        """
        if not images:
            raise UserError("images: the list is empty; give at least one image")
        files = [self._bytes(image, f"images[{i}]") for i, image in enumerate(images)]
        chosen = self.markets if markets is None else _list_of(markets)
        pairs = tuple(itertools.combinations(range(len(files)), 2))
        words = words_of(files, copies)
        request = ScoreRequest.of_ads(_product(product), files, words, pairs=pairs, markets=tuple(chosen))
        (verdicts,) = self._verdicts([request])
        return rankings(request, verdicts)

    def score_frame(self, pairs: pd.DataFrame, markets: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of pairs in, a table of answers out: `scoring.frames.score_frame` says which columns."""
        return score_frame(self, pairs, markets)

    def probe_deviation(self) -> float:
        """Largest |logit - the logit training got| over probe.parquet, with its stored priors.

        About 1e-5 where training computed in float32 (training.json says), a few hundredths where it computed in bfloat16;
        `scoring.probe.tolerance` says how much is too much. Raises `UserError` where a logit is not finite.
        """
        return run_probe(self.judge, self.folder).deviation

    def prepare(self, pairs: Sequence[MarketPair]) -> list[PreparedPair]:
        """Everything that needs no model: past ads and prompt of every pair. Threads may call it at the same time."""
        priors = self.lookup.look_up(pairs) if self.reads_prior else [None] * len(pairs)
        prepared = [self._prepare(pair, found) for pair, found in zip(pairs, priors, strict=True)]
        return [
            replace(one, known_used=False) if pair.known else one for one, pair in zip(prepared, pairs, strict=True)
        ]

    def encode(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """[n, P, W] on the judge's device, `config.batch_size` pictures per pass."""
        return encode_pictures(self.judge, pictures, self.config.batch_size)

    def logits(self, prepared: Sequence[PreparedPair], features: ImageFeatures) -> list[float | None]:
        """Of every pair in order, in batches of like cost; None where the judge cannot be asked."""
        questions = [pair.prepared for pair in prepared if pair.prepared is not None]
        logits = iter(all_logits(self.judge, questions, features, self.config.batch_size))
        return [None if pair.prepared is None else float(next(logits)) for pair in prepared]

    def verdict(self, pair: PreparedPair, logit: float | None, evidence: int | None = None) -> Verdict:
        """The answer to one pair. evidence: how many positions of past ads it shows; None: all that speak."""
        return build_verdict(
            pair.market,
            logit,
            lookup=self.lookup,
            found=pair.found,
            evidence=evidence,
            temperature=self.folder.temperature,
            decides=pair.market in self.folder.trained_markets,
            abstain_below=self.config.abstain_below,
            model_version=self.version,
            note=pair.note,
            unsure_note="not sure enough",
            delivery=self.folder.delivery,
            known_used=pair.known_used,
        )

    def _verdicts(self, requests: Sequence[ScoreRequest]) -> list[list[Verdict]]:
        pairs, pictures = self.lookup.pairs_of(requests)
        encoded = dict(zip(pictures, self.encode(list(pictures.values())), strict=True))
        prepared = self.prepare(pairs)
        logits = self.logits(prepared, lambda names: torch.stack([encoded[name] for name in names]))
        answers = split_by_request(requests, list(zip(prepared, logits, strict=True)))
        return [
            [self.verdict(pair, logit, request.evidence) for pair, logit in answers_of_request]
            for request, answers_of_request in zip(requests, answers, strict=True)
        ]

    def _prepare(self, pair: MarketPair, found: MarketPrior | None) -> PreparedPair:
        product, images = pair.product, (pair.images[0].content_hash, pair.images[1].content_hash)
        copies = pair.copies if self.folder.reads_copy else (None, None)
        unread = copies != pair.copies
        if images[0] == images[1] and copies[0] == copies[1]:
            words = " with the same words" if copies[0] else f"; {UNREAD_COPY}" if unread else ""
            note = f"no answer: the two images are the same file{words}"
            return PreparedPair(market=pair.market, found=found, prepared=None, note=note)
        question = JudgeQuestion(
            title=product.title,
            category=product.category,
            attributes=product.attributes,
            tags=product.tags,
            market=pair.market,
            images=images,
            copies=copies,
            log_odds=found.prior.log_odds if found else 0.0,
            letter=found.prior.letter if found else None,
        )
        try:
            with self._tokenizing:
                prepared = self.judge.prepare(question)
        except UserError as error:
            return PreparedPair(market=pair.market, found=found, prepared=None, note=f"no answer: {error}")
        notes = []
        if pair.market not in self.folder.trained_markets:
            notes.append(f"the model was not trained on {countries.name(pair.market)}")
        if found and not found.prior.n:
            notes.append(NO_EVIDENCE)
        if unread:
            notes.append(UNREAD_COPY)
        return PreparedPair(market=pair.market, found=found, prepared=prepared, note="; ".join(notes) or None)

    def _bytes(self, image: ImageLike, name: str) -> bytes:
        if isinstance(image, bytes):
            return image
        if not isinstance(image, str | Path):
            raise UserError(f"{name}: {image!r} is neither file bytes nor a path; give a PNG, JPEG or WEBP file")
        try:
            with open(image, "rb") as handle:
                return handle.read(self.config.max_bytes + 1)
        except OSError as error:
            raise UserError(
                f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file"
            ) from None


def _product(product: Product | str) -> Product:
    return Product(title=product) if isinstance(product, str) else product


def _list_of(markets: Sequence[str]) -> Sequence[str]:
    if isinstance(markets, str):  # a text is a sequence of letters
        raise UserError(f"markets: {markets!r} is one text; give a list, such as [{markets!r}]")
    return markets
