"""CountryReward: the trained model, its knowledge base and its calibration, asked from Python. No Ray.

judge = CountryReward.from_pretrained("runs/demo/model")
judge.score(Product(title="Oak desk lamp"), "a.jpg", "b.jpg", markets=["KR", "BR"])
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pandas as pd
import torch
from PIL import Image

from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Product, Ranking, Verdict
from countryreward.scoring.frames import score_frame
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.probe import run_probe
from countryreward.scoring.ranking import ranking
from countryreward.scoring.reward_judge import Features, RewardJudge
from countryreward.scoring.scoring_config import RewardScorerConfig

ImageLike = bytes | str | Path
"""File bytes, or the path of a file."""


class CountryReward:
    """Answers which of two ad images will win, market by market. A Scorer. One thread at a time."""

    def __init__(
        self, folder: ModelFolder, *, device: torch.device | str = "cpu", config: RewardScorerConfig | None = None
    ) -> None:
        self.reward = RewardJudge(folder, device=device, config=config)
        self.folder, self.config, self.device = folder, self.reward.config, self.reward.device
        self.model, self.processor, self.px = self.reward.model, self.reward.processor, self.reward.px
        self.builder, self.prior = self.reward.builder, self.reward.prior

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
        return [ranking(market, len(files), [(a, b, next(verdicts)) for a, b in pairs]) for market in asked]

    def score_frame(self, pairs: pd.DataFrame, markets: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of pairs in, a table of answers out (scoring/frames.py)."""
        return score_frame(self, pairs, markets)

    def probe_deviation(self) -> float:
        """Largest |logit - the logit training got| over probe.parquet, with its stored priors.

        About 1e-5 where training computed in float32 (training.json says), a few hundredths where it computed in bfloat16;
        `scoring.probe.tolerance` says how much is too much. Raises `UserError` where a logit is not finite.
        """
        return run_probe(self.reward).deviation

    def _judge(self, requests: list[PairRequest]) -> list[Verdict]:
        questions, pictures = self.prior.questions(requests)
        return [self.reward.verdict(judged) for judged in self.reward.judge(questions, self._encoded(pictures))]

    def _encoded(self, pictures: dict[str, Image.Image]) -> Features:
        """Every picture through the tower, once."""
        encoded = dict(zip(pictures, self.reward.encode(list(pictures.values())), strict=True))
        return lambda names: torch.stack([encoded[name] for name in names])

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
