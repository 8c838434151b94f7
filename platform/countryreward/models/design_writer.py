"""The design writer (DGM of Eq. 12): Qwen2-VL writing a design for a product, its picture and a market.

Legend: B rows, T tokens, D width, V words of the vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, Qwen2VLForConditionalGeneration

from countryreward.data.design import Design
from countryreward.models.attention import attention_implementation
from countryreward.models.design_batch import IGNORED, answer_row, pictures_of, stack
from countryreward.models.design_prompt import PHRASES, DesignFields, DesignPrompt, SplicedPrompt
from countryreward.models.processor import PairProcessor, Picture
from countryreward.models.reward_config import SamplingConfig
from countryreward.models.tiny_backbone import widen
from countryreward.models.tower import backbone_folder
from countryreward.progress import quiet_loading


class DesignWriterModel:
    """Weights, processor and prompt of a writer. One thread at a time."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, processor: PairProcessor, *, px: int) -> None:
        """px: side of the square that pictures are resized to."""
        self.model, self.processor, self.px = model, processor, px
        vision: Any = model.config.vision_config
        self.prompt = DesignPrompt(processor.tokenizer, merge=vision.spatial_merge_size)
        self.grid = (1, px // vision.patch_size, px // vision.patch_size)

    @classmethod
    def load(
        cls, source: str | Path, *, px: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "DesignWriterModel":
        """From a folder or hub name of a Qwen2-VL, or the name of a preset (`tiny`: the backbone that ships)."""
        folder = backbone_folder(str(source))
        attention = attention_implementation(device, dtype)
        with quiet_loading():
            model = Qwen2VLForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, attn_implementation=attention
            )
        nn.Module.to(model, device)
        return cls(model.eval(), PairProcessor.from_pretrained(folder), px=px)

    def widen(self, seed: int) -> int:
        """Give the tokenizer `design_prompt.PHRASES` and the model an embedding for each, where they lack them; how many.

        For the tiny backbone alone: a real one knows the words.
        """
        added = widen(self.model, self.processor, PHRASES, seed)
        if added:
            self.prompt = DesignPrompt(self.processor.tokenizer, merge=self.prompt.merge)
        return added

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write everything that `load` reads into `folder`, safetensors only. weights: others than the model's own."""
        self.model.save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)

    def fields(
        self, title: str, category: str | None, attributes: Mapping[str, str], market: str, image: str
    ) -> DesignFields:
        """The prompt's fields for a picture called `image`, of the size that this writer reads."""
        return DesignFields(
            title=title, category=category, attributes=attributes, market=market, image=image, grid=self.grid
        )

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[SplicedPrompt],
        images: Mapping[str, Picture],
        seeds: Sequence[int],
        sampling: SamplingConfig,
    ) -> list[str]:
        """One answer per prompt, in order, as text without control tokens. images: by the prompts' names."""
        answers: list[str] = [""] * len(prompts)
        order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
        for start in range(0, len(order), sampling.batch_size):
            chosen = order[start : start + sampling.batch_size]
            texts = self._answers([prompts[i] for i in chosen], images, [seeds[i] for i in chosen], sampling)
            for place, text in zip(chosen, texts, strict=True):
                answers[place] = text
        return answers

    def _answers(
        self,
        prompts: Sequence[SplicedPrompt],
        images: Mapping[str, Picture],
        seeds: Sequence[int],
        sampling: SamplingConfig,
    ) -> list[str]:
        tokenizer, device = self.processor.tokenizer, self.model.device
        width = max(len(prompt.ids) for prompt in prompts)
        ids_BT = np.full((len(prompts), width), tokenizer.pad_token_id, np.int64)
        mask_BT = np.zeros((len(prompts), width), np.int64)
        for b, prompt in enumerate(prompts):
            ids_BT[b, width - len(prompt.ids) :], mask_BT[b, width - len(prompt.ids) :] = prompt.ids, 1
        pictures = pictures_of(prompts, images, self.processor, self.px)
        writer: Any = self.model  # pyright misreads transformers' generate
        answer_BT = writer.generate(
            input_ids=torch.from_numpy(ids_BT).to(device),
            attention_mask=torch.from_numpy(mask_BT).to(device),
            mm_token_type_ids=torch.from_numpy((ids_BT == self.prompt.image_id).astype(np.int32)).to(device),
            pixel_values=pictures["pixel_values"].to(device, self.model.dtype),
            image_grid_thw=pictures["image_grid_thw"].to(device),
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.prompt.end_id,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList(
                [SeededSampling(seeds, temperature=sampling.temperature, top_p=sampling.top_p)]
            ),
        )
        return tokenizer.batch_decode(answer_BT[:, width:], skip_special_tokens=True)

    @torch.inference_mode()
    def log_probs(
        self,
        prompts: Sequence[SplicedPrompt],
        designs: Sequence[Design],
        images: Mapping[str, Picture],
        *,
        batch_size: int = 64,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Natural log of the probability of each design's written form, and its tokens; the end of the answer counts."""
        sums, counts = np.zeros(len(prompts)), np.zeros(len(prompts), np.int64)
        order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [answer_row(prompts[i], self.prompt.answer(designs[i])) for i in chosen]
            batch = stack(rows, self.processor.tokenizer.pad_token_id, self.prompt.image_id)
            batch |= pictures_of([prompts[i] for i in chosen], images, self.processor, self.px)
            log_probs_BT = token_log_probs(self.model, batch)
            sums[chosen] = log_probs_BT.sum(1).double().cpu().numpy()
            counts[chosen] = (batch["next_ids"] != IGNORED).sum(1).numpy()
        return sums, counts


def token_log_probs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """log p of every token that an answer says [B, T], 0 elsewhere; float32. batch: of `stack` and `pictures_of`."""
    device = model.device
    inputs = {
        name: value.to(device) for name, value in batch.items() if name not in ("next_ids", "part", "pixel_values")
    }
    hidden_BTD = model.model(
        **inputs, pixel_values=batch["pixel_values"].to(device, model.dtype), use_cache=False
    ).last_hidden_state
    next_BT = batch["next_ids"].to(device)
    answered_BT = next_BT != IGNORED
    logits = model.lm_head(hidden_BTD[answered_BT]).float()  # [tokens of answers, V]
    log_probs_BT = torch.zeros(next_BT.shape, dtype=torch.float32, device=device)
    log_probs_BT[answered_BT] = logits.log_softmax(-1).gather(1, next_BT[answered_BT][:, None]).squeeze(1)
    return log_probs_BT


class SeededSampling(LogitsProcessor):
    """Greedy search on what this returns is sampling: Gumbel noise, one generator per row (the Gumbel-max trick).

    So a row's answer follows from its prompt and its seed, whatever batch it is in (up to rounding of the logits).
    """

    def __init__(self, seeds: Sequence[int], *, temperature: float, top_p: float) -> None:
        """temperature: 0 takes the likeliest word. top_p: words beyond this much probability are left out; 1: none is."""
        self.temperature, self.top_p = temperature, top_p
        self.draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """scores: logits [B, V]."""
        assert len(scores) == len(self.draws), "one seed per row"
        if self.temperature == 0:
            return scores
        logits_BV = scores.float() / self.temperature
        if self.top_p < 1:
            ordered, order = logits_BV.sort(dim=-1, descending=True)
            shares = ordered.softmax(-1)
            ordered[shares.cumsum(-1) - shares >= self.top_p] = -torch.inf  # the likeliest one always stays
            logits_BV = torch.empty_like(logits_BV).scatter_(1, order, ordered)
        uniform_BV = torch.stack([torch.rand(scores.shape[1], generator=draw) for draw in self.draws])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-20, 1 - 1e-7)))
        return logits_BV + noise_BV.to(scores.device)
