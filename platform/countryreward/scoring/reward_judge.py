"""The trained model's judgement of questions whose images have been encoded, in this process or before.

Legend: n images, P patches of one, W the tower's width.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from countryreward import markets as countries
from countryreward.errors import UserError
from countryreward.models.attention import attention_implementation
from countryreward.models.pair_batch import collate
from countryreward.models.processor import PairProcessor, Picture, load_processor, pixels
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.reward_prompts import Example, PairFields, PromptBuilder
from countryreward.scoring.contracts import Product, Verdict
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.prior_scorer import NO_EVIDENCE, LookedUp, PriorScorer, Question
from countryreward.scoring.scoring_config import PriorScorerConfig, RewardScorerConfig

Features = Callable[[list[str]], torch.Tensor]
"""Content hashes -> the tower's outputs [n, P, W] of these images, in order, on the model's device."""


@dataclass(frozen=True)
class Judged:
    """The answer to one question, before it is put into words."""

    found: LookedUp
    logit: float | None
    """None: the model could not be asked; `note` says why."""
    note: str | None


@dataclass(frozen=True)
class Prepared:
    """A question before the model is asked."""

    found: LookedUp
    example: Example | None
    """None: it cannot be asked; `note` says why."""
    note: str | None

    def judged(self, logit: float | None) -> Judged:
        """With the model's logit; None where there is no example."""
        return Judged(self.found, logit, self.note)


class RewardJudge:
    """A model folder, loaded to judge. One thread at a time, but for `prepare`, `patches` and `verdict`."""

    def __init__(
        self, folder: ModelFolder, *, device: torch.device | str = "cpu", config: RewardScorerConfig | None = None
    ) -> None:
        self.folder, self.config, self.device = folder, config or RewardScorerConfig(), torch.device(device)
        self.model = load_model(folder.artifact.path, device)
        torch.nn.Module.to(self.model, device)
        self.processor = load_processor(folder.artifact.path)
        self.builder = PromptBuilder(self.processor.tokenizer, self.model.options)
        limits = PriorScorerConfig(max_bytes=self.config.max_bytes, max_pixels=self.config.max_pixels)
        if folder.retrieval:
            limits.retrieval = folder.retrieval
        self.prior = PriorScorer(folder.base, limits)
        self.px = self.model.config.image_px
        self._tokenizing = threading.Lock()  # tokenizers keep state

    def judge(self, questions: Sequence[Question], features: Features) -> list[Judged]:
        """One answer per question, in order. What cannot be asked (a prompt that is refused) has no logit."""
        prepared = self.prepare(questions)
        logits = iter(self.logits([one.example for one in prepared if one.example is not None], features))
        return [one.judged(None if one.example is None else float(next(logits))) for one in prepared]

    def prepare(self, questions: Sequence[Question]) -> list[Prepared]:
        """Everything that needs no model: past ads and prompt of every question. Threads may call it at the same time."""
        prepared: list[Prepared] = []
        for question, one in zip(questions, self.prior.look_up(questions), strict=True):
            names = (question.images[0].content_hash, question.images[1].content_hash)
            if names[0] == names[1]:
                prepared.append(Prepared(one, None, "no answer: the two images are the same file"))
                continue
            prior = one.prior if self.folder.retrieval else None
            letter, log_odds = (prior.letter, prior.log_odds) if prior else (None, 0.0)
            try:
                with self._tokenizing:
                    example = self.example(question.product, question.market, names, log_odds, letter)
                prepared.append(Prepared(one, example, self._note(one)))
            except UserError as error:
                prepared.append(Prepared(one, None, f"no answer: {error}"))
        return prepared

    def verdict(self, judged: Judged, *, evidence: int | None = None) -> Verdict:
        """The answer as a verdict. evidence: how many positions of past ads it shows; None: all that speak."""
        query, logit, note = judged.found.query, judged.logit, judged.note
        calibrated = 0.5 if logit is None else _sigmoid(logit / self.folder.temperature)
        trained = query.market in self.folder.trained_markets
        sure = bool(logit) and trained and abs(calibrated - 0.5) >= self.config.abstain_below
        heard = judged.found.prior if self.folder.retrieval else None
        return Verdict(
            market=query.market,
            probability=0.5 if logit is None else _sigmoid(logit),
            calibrated_probability=calibrated,
            choice=("A" if calibrated >= 0.5 else "B") if sure else None,
            log_odds=logit or 0.0,
            evidence=tuple(self.prior.evidence(query, heard, evidence)) if heard else (),
            past_ads=2 * heard.n if heard else 0,
            model_version=self.folder.artifact.manifest.version,
            knowledge_base_version=self.folder.base.version,
            note=note if sure or note else "not sure enough",
        )

    def encode(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """[n, P, W] on the model's device, `config.batch_size` pictures per pass."""
        size = self.config.batch_size
        parts = [
            encode_pictures(self.model, self.processor, pictures[start : start + size])
            for start in range(0, len(pictures), size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def patches(self, picture: Picture) -> torch.Tensor:
        """[P, values of a patch] float32: all that the tower needs of a picture. Threads may call it at the same time."""
        return pixels(self.processor, [picture], self.px)[0]

    def example(
        self, product: Product, market: str, names: tuple[str, str], log_odds: float, letter: str | None
    ) -> Example:
        """The prompt of one question. Raises `UserError` for one that is refused."""
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

    def logits(self, examples: Sequence[Example], features: Features) -> np.ndarray:
        """[len(examples)], in batches of prompts of like length."""
        size = self.config.batch_size
        logits = np.zeros(len(examples))
        order = np.argsort([len(example.ids) for example in examples], kind="stable")
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            logits[chosen] = self.one_pass([examples[i] for i in chosen], features)
        return logits

    @torch.inference_mode()
    def one_pass(self, examples: Sequence[Example], features: Features) -> np.ndarray:
        """[len(examples)], all in one batch."""
        batch = collate(examples, self.processor.tokenizer.pad_token_id).to(self.device)
        output = self.model(batch, features=features(batch.images) if batch.images else None)
        return output.logit.float().cpu().numpy()

    def _note(self, found: LookedUp) -> str | None:
        notes = []
        if found.query.market not in self.folder.trained_markets:
            notes.append(f"the model was not trained on {countries.name(found.query.market)}")
        if not found.prior.n:
            notes.append(NO_EVIDENCE)
        return "; ".join(notes) or None


def load_model(folder: Path, device: torch.device | str) -> CountryRewardModel:
    """The model of a folder in the precision and with the attention of `device`, still in main memory.

    Raises `UserError` for weights that cannot be read.
    """
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    attention = attention_implementation(device, dtype)
    try:
        return CountryRewardModel.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    except SafetensorError as error:
        raise UserError(f"model: the weights in {folder} cannot be read ({error}); publish the model again") from error


@torch.inference_mode()
def encode_pictures(model: CountryRewardModel, processor: PairProcessor, pictures: Sequence[Picture]) -> torch.Tensor:
    """[n, P, W]: pictures through the model's own tower in one pass, on the tower's device."""
    return encode_patches(model, pixels(processor, pictures, model.config.image_px)[0], len(pictures))


@torch.inference_mode()
def encode_patches(model: CountryRewardModel, values: torch.Tensor, images: int) -> torch.Tensor:
    """[images, P, W] from the patches of so many pictures as the image processor gives them, all together [images P, ...]."""
    side = model.config.image_px // 14
    weight = model.backbone.visual.patch_embed.proj.weight
    grid = torch.tensor([[1, side, side]] * images, device=weight.device)
    encoded = model.encode_images(values.to(weight.device, weight.dtype), grid)
    return encoded.view(images, -1, encoded.shape[-1])


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
