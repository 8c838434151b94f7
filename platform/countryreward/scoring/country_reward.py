"""CountryReward: the trained model, its knowledge base and its calibration, asked from Python. No Ray.

judge = CountryReward.from_pretrained("runs/demo/model")
judge.score(Product(title="Oak desk lamp"), "a.jpg", "b.jpg", markets=["KR", "BR"])
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image

from countryreward import markets as countries
from countryreward.errors import UserError
from countryreward.models.batch import collate
from countryreward.models.country_reward import CountryRewardModel, attention_implementation
from countryreward.models.processor import load_processor, pixels
from countryreward.models.prompts import Example, PairFields, PromptBuilder
from countryreward.retrieval.prior import Prior
from countryreward.scoring.config import PriorScorerConfig, RewardScorerConfig
from countryreward.scoring.contracts import PairRequest, Product, Ranking, Verdict
from countryreward.scoring.frames import score_frame
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.prior_scorer import NO_EVIDENCE, LookedUp, PriorScorer

ImageLike = bytes | str | Path
"""File bytes, or the path of a file."""


class CountryReward:
    """Answers which of two ad images will win, market by market. A Scorer. One thread at a time."""

    def __init__(
        self, folder: ModelFolder, *, device: torch.device | str = "cpu", config: RewardScorerConfig | None = None
    ) -> None:
        self.folder, self.config = folder, config or RewardScorerConfig()
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        attention = attention_implementation(device, dtype)
        place = folder.artifact.path
        self.model = CountryRewardModel.from_pretrained(place, dtype=dtype, attn_implementation=attention)
        torch.nn.Module.to(self.model.eval(), device)
        self.device = torch.device(device)
        self.processor = load_processor(place)
        self.builder = PromptBuilder(self.processor.tokenizer, self.model.options)
        limits = PriorScorerConfig(max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)
        if folder.retrieval:
            limits.retrieval = folder.retrieval
        self.prior = PriorScorer(folder.base, limits)
        self.px = self.model.config.image_px

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
    def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]: ...

    @overload
    def score(
        self,
        product: Product | str,
        image_a: ImageLike,
        image_b: ImageLike,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict]: ...

    def score(
        self,
        product: Product | str | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """One verdict per market (default: all of the training), or per request when a list of requests is given.

        Each image is decoded and encoded once per call. Raises `UserError` for an image that cannot be read, no country, an
        empty title. A market that the model cannot judge gets a verdict without a choice whose note says why.
        """
        if not isinstance(product, Product | str):
            return self._judge(list(product))
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        named = _product(product)
        pair = [self._bytes(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        return self._judge(
            [
                PairRequest(product=named, image_a=pair[0], image_b=pair[1], market=market)
                for market in (self.markets if markets is None else markets)
            ]
        )

    def rank(
        self, product: Product | str, images: Sequence[ImageLike], markets: Sequence[str] | None = None
    ) -> list[Ranking]:
        """Several images of one product, best first, per market: every pair is judged, each image encoded once."""
        if not images:
            raise UserError("images: the list is empty; give at least one image")
        named = _product(product)
        files = [self._bytes(image, f"images[{i}]") for i, image in enumerate(images)]
        pairs = list(itertools.combinations(range(len(files)), 2))
        asked = [_code(market) for market in (self.markets if markets is None else markets)]
        verdicts = iter(
            self._judge(
                [
                    PairRequest(product=named, image_a=files[a], image_b=files[b], market=market)
                    for market in asked
                    for a, b in pairs
                ]
            )
        )
        rankings = []
        for market in asked:
            wins = np.full((len(files), len(files)), np.nan)
            judged = [(a, b, next(verdicts)) for a, b in pairs]
            for a, b, verdict in judged:
                wins[a, b] = verdict.calibrated_probability
                wins[b, a] = 1 - wins[a, b]
            shares = np.nanmean(wins, axis=1) if pairs else np.full(len(files), 0.5)
            order = np.argsort(-shares, kind="stable")
            rankings.append(
                Ranking(
                    market=market,
                    order=tuple(int(i) for i in order),
                    win_share=tuple(float(share) for share in shares),
                    verdicts=tuple(judged),
                )
            )
        return rankings

    def score_frame(self, pairs: pd.DataFrame, markets: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of pairs in, a table of answers out (scoring/frames.py)."""
        return score_frame(self, pairs, markets)

    def probe_deviation(self) -> float:
        """Largest |logit - the logit training got| over probe.parquet, with its stored priors.

        About 1e-5 where training computed in float32 (training.json says), a few hundredths where it computed in bfloat16.
        """
        rows = pq.read_table(self.folder.artifact.path / "probe.parquet").to_pylist()
        pictures = {data: self.prior.picture(data) for row in rows for data in (row["image_a"], row["image_b"])}
        examples, names = [], {data: str(number) for number, data in enumerate(pictures)}
        for row in rows:
            product = Product(
                title=row["title"],
                category=row["category"],
                attributes=dict(row["attributes"] or ()),
                tags=row["tags"] or [],
            )
            pair = (names[row["image_a"]], names[row["image_b"]])
            examples.append(self._example(product, row["market"], pair, row["log_odds"], row["letter"]))
        logits = self._logits(examples, {names[data]: picture for data, picture in pictures.items()})
        return float(np.abs(logits - np.array([row["logit"] for row in rows])).max(initial=0.0))

    def _judge(self, requests: list[PairRequest]) -> list[Verdict]:
        found = self.prior.look_up(requests)
        pictures: dict[str, Image.Image] = {}
        examples: list[Example | None] = []
        notes: list[str | None] = []
        for request, one in zip(requests, found, strict=True):
            names = (one.query.content_hashes[0], one.query.content_hashes[1])
            pictures |= dict(zip(names, one.pictures, strict=True))
            prior = one.prior if self.folder.retrieval else None
            letter = prior.letter if prior else None
            if names[0] == names[1]:
                examples.append(None)
                notes.append("no answer: the two images are the same file")
                continue
            try:
                log_odds = prior.log_odds if prior else 0.0
                examples.append(self._example(request.product, one.query.market, names, log_odds, letter))
                notes.append(self._note(one))
            except UserError as error:
                examples.append(None)
                notes.append(f"no answer: {error}")
        asked = [example for example in examples if example is not None]
        logits = iter(self._logits(asked, pictures))
        return [
            self._verdict(one, None if example is None else float(next(logits)), note)
            for one, example, note in zip(found, examples, notes, strict=True)
        ]

    def _example(
        self, product: Product, market: str, names: tuple[str, str], log_odds: float, letter: str | None
    ) -> Example:
        side = self.px // 14
        return self.builder.example(
            PairFields(
                title=product.title,
                category=product.category,
                attributes=product.attributes,
                tags=product.tags,
                market=market,
                images=names,
                grids=((1, side, side), (1, side, side)),
                log_odds=log_odds,
                letter=letter,
            )
        )

    def _note(self, found: LookedUp) -> str | None:
        notes = []
        if found.query.market not in self.folder.trained_markets:
            notes.append(f"the model was not trained on {countries.name(found.query.market)}")
        if not found.prior.n:
            notes.append(NO_EVIDENCE)
        return "; ".join(notes) or None

    @torch.inference_mode()
    def _logits(self, examples: list[Example], pictures: dict[str, Image.Image]) -> np.ndarray:
        """[len(examples)], each picture through the tower once."""
        names, size = list(pictures), self.config.batch_size
        features: dict[str, torch.Tensor] = {}
        for start in range(0, len(names), size):
            part = names[start : start + size]
            values, grid = pixels(self.processor, [pictures[name] for name in part], self.px)
            values = values.to(self.device, self.model.dtype)
            encoded = self.model.encode_images(values, grid.to(self.device))
            features |= dict(zip(part, encoded.view(len(part), -1, encoded.shape[-1]), strict=True))
        logits = np.zeros(len(examples))
        order = np.argsort([len(example.ids) for example in examples], kind="stable")
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = collate([examples[i] for i in chosen], self.processor.tokenizer.pad_token_id).to(self.device)
            stacked = torch.stack([features[name] for name in batch.images]) if batch.images else None
            output = self.model(batch, features=stacked)
            logits[chosen] = output.logit.float().cpu().numpy()
        return logits

    def _verdict(self, found: LookedUp, logit: float | None, note: str | None) -> Verdict:
        calibrated = 0.5 if logit is None else _sigmoid(logit / self.folder.temperature)
        trained = found.query.market in self.folder.trained_markets
        sure = bool(logit) and trained and abs(calibrated - 0.5) >= self.config.abstain_below
        prior: Prior | None = found.prior if self.folder.retrieval else None
        return Verdict(
            market=found.query.market,
            probability=0.5 if logit is None else _sigmoid(logit),
            calibrated_probability=calibrated,
            choice=("A" if calibrated >= 0.5 else "B") if sure else None,
            log_odds=logit or 0.0,
            evidence=tuple(self.prior.evidence(found.query, prior)) if prior else (),
            model_version=self.version,
            knowledge_base_version=self.folder.base.version,
            note=note if sure or note else "not sure enough",
        )

    def _bytes(self, image: ImageLike, name: str) -> bytes:
        if isinstance(image, bytes):
            return image
        try:
            with open(image, "rb") as handle:
                return handle.read(self.config.max_bytes + 1)
        except OSError as error:
            raise UserError(
                f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file"
            ) from None


def _product(product: Product | str) -> Product:
    return Product(title=product) if isinstance(product, str) else product


def _code(market: str) -> str:
    return PairRequest(product=Product(title="-"), image_a=b"", image_b=b"", market=market).market_code()


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
