"""The paper's judge: Qwen2-VL is shown both pictures of a pair and its head gives one logit (`models/reward_model.py`).

Legend: n images or questions, P patches of an image, W the tower's width, O orders in which a pair is asked, D a state's width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from countryreward.errors import UserError
from countryreward.judges.base import ImageFeatures, JudgeQuestion
from countryreward.models.attention import attention_implementation
from countryreward.models.pair_batch import collate
from countryreward.models.processor import PairProcessor, Picture, load_processor, pixels
from countryreward.models.reward_model import CountryRewardModel, RewardOutput
from countryreward.models.reward_prompts import Example, PairFields, PromptBuilder


class PairwiseJudge:
    """CountryRewardModel as a `Judge`; its prepared questions are spliced prompts (`Example`)."""

    kind = "pairwise"

    def __init__(self, model: CountryRewardModel, processor: PairProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self.builder = PromptBuilder(processor.tokenizer, model.options)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", *, encode_only: bool = False) -> "PairwiseJudge":
        """Of a model folder, in the precision and with the attention that fit `device`. encode_only: the tower alone."""
        model = load_model(folder, device)
        if encode_only:
            model.backbone.set_submodule("language_model", torch.nn.Identity())
        torch.nn.Module.to(model.backbone.visual if encode_only else model, device)
        return cls(model, load_processor(folder))

    @property
    def reads_prior(self) -> bool:
        """Not with strategy `none`, and not when the model was never told the country."""
        return self.model.options.option("strategy") != "none" and self.model.options.country == "on"

    @property
    def device(self) -> torch.device:
        """Where the tower's weights are."""
        return self.model.backbone.visual.patch_embed.proj.weight.device

    def patches(self, picture: Picture) -> torch.Tensor:
        """[P, values of a patch] float32, as the image processor gives them. Any thread."""
        return pixels(self.processor, [picture], self.model.config.image_px)[0]

    @torch.inference_mode()
    def encode_patches(self, patches: torch.Tensor, images: int) -> torch.Tensor:
        """[images P, values of a patch] -> the tower's outputs [images, P, W]."""
        side = self.model.config.image_px // 14
        weight = self.model.backbone.visual.patch_embed.proj.weight
        grid = torch.tensor([[1, side, side]] * images, device=weight.device)
        encoded = self.model.encode_images(patches.to(weight.device, weight.dtype), grid)
        return encoded.view(images, -1, encoded.shape[-1])

    def prepare(self, question: JudgeQuestion) -> Example:
        """The prompt. Raises `UserError` for one that is refused: too long, or its title names another market."""
        side = self.model.config.image_px // 14
        grids = ((1, side, side), (1, side, side))
        return self.builder.example(PairFields(**vars(question), grids=grids))

    def tokens(self, prepared: Example) -> int:
        """Tokens of the prompt, of both orders where both are asked."""
        return len(prepared.ids) * (2 if prepared.swapped is not None else 1)

    def images(self, prepared: Example) -> tuple[str, ...]:
        """Content hashes of A and B; none where pictures are masked."""
        return tuple(prepared.images)

    def logits(self, prepared: Sequence[Example], features: ImageFeatures) -> NDArray[np.float32]:
        """[n], in one forward pass."""
        logit_B = self._forward(prepared, features).logit
        assert logit_B is not None
        return logit_B.float().cpu().numpy()

    def states(self, prepared: Sequence[Example], features: ImageFeatures) -> NDArray[np.float32]:
        """[n, O, D]: the final states of the last tokens; O = 2 for an antisymmetric model: (A, B), then (B, A)."""
        state_RD = self._forward(prepared, features, states=True).state
        assert state_RD is not None
        return state_RD.unflatten(0, (-1, len(prepared))).transpose(0, 1).float().cpu().numpy()

    def save(self, folder: Path) -> None:
        """config.json, model.safetensors and the processor's files."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @torch.inference_mode()
    def _forward(self, prepared: Sequence[Example], features: ImageFeatures, *, states: bool = False) -> RewardOutput:
        batch = collate(prepared, self.processor.tokenizer.pad_token_id).to(self.device)
        return self.model(batch, features=features(batch.images) if batch.images else None, states=states)


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
