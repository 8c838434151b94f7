"""Teaching the tiny backbone to describe drawn creatives: one process, no Ray, loss on the caption alone.

Steps alternate: one picture and its caption; two pictures, up to 80 tokens about a product that say nothing of the
pictures, then the comparison and both captions. The second is where a judge of pairs has to look from afterwards.

Legend: B captions of a step, V visual tokens of a picture, C tokens of a caption, T = prompt and caption, N patches, D width.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from countryreward.models.backbone import compare_ids, describe, describe_ids
from countryreward.models.captions import ATTRIBUTES, GRADES, Pretext, caption, pair_caption, parse_caption
from countryreward.models.config import PretrainConfig
from countryreward.models.processor import PairProcessor, patches
from countryreward.models.tokenizer import product_texts

IGNORED = -100
_MOST_WORDS = 80

Log = Callable[[int, float, float], None]
"""step, seconds, loss."""


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Captions with their end token, padded on the right with IGNORED. int64 [len(captions), C]."""
    rows = [[*tokenizer.encode(f" {one}"), tokenizer.eos_token_id] for one in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


def caption_loss(
    model: Qwen2VLForConditionalGeneration, prompt_BP: Tensor, pixel_values_NP: Tensor, target_BC: Tensor, side: int
) -> Tensor:
    """Mean cross-entropy of the captions' tokens. `side` is the number of patches along an edge.

    Prompts have one length and one layout and pictures one size, so positions are computed once, no mask is needed
    (padding comes last and is ignored), and the output layer sees caption positions only.
    """
    batch, length = target_BC.shape
    count = len(pixel_values_NP) // side**2
    grid = torch.tensor([[1, side, side]] * count)
    inner: Any = model.model  # transformers' annotations name tensor types that torch never returns
    pad = inner.config.text_config.pad_token_id
    ids_BT = torch.cat([prompt_BP, target_BC[:, :-1].masked_fill(target_BC[:, :-1] < 0, pad)], 1)
    image_1T = (ids_BT[:1] == model.config.image_token_id).int()
    position_31T, _ = inner.get_rope_index(ids_BT[:1], image_1T, image_grid_thw=grid[: count // batch])
    hidden_BTD = inner(
        input_ids=ids_BT,
        pixel_values=pixel_values_NP,
        image_grid_thw=grid,
        position_ids=position_31T.expand(-1, batch, -1),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden_BTD[:, -length:])
    return cross_entropy(logits.flatten(0, 1), target_BC.flatten(), ignore_index=IGNORED)


def rate_at(share: float, config: PretrainConfig) -> float:
    """Warm-up, then a cosine down to a hundredth; `share` is the part of the training that is over, 0 to 1."""
    if share < config.warm_up:
        return config.learning_rate * max(share / config.warm_up, 0.02)
    late = (share - config.warm_up) / (1 - config.warm_up)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(late, 1.0))))


class _Steps:
    """Prompts, pictures and captions of one step after the other, in an order that the seed gives."""

    def __init__(self, processor: PairProcessor, pretext: Pretext, config: PretrainConfig) -> None:
        self.processor, self.pretext = processor, pretext
        self.tokenizer, self.visual = processor.tokenizer, (config.px // 28) ** 2
        self.batch = max(2, min(config.batch, len(pretext.images)) // 2 * 2)
        self.rng, self._order = np.random.default_rng(config.seed), np.empty(0, np.int64)
        texts = [self.tokenizer.encode(text, add_special_tokens=False) for text in product_texts()]
        self.words = np.concatenate([np.array(text) for text in texts])

    def step(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts [B, P], pixel values, captions [B, C]."""
        if len(self._order) < self.batch:
            self._order = self.rng.permutation(len(self.pretext.images))
        chosen, self._order = self._order[: self.batch], self._order[self.batch :]
        pixel_values = patches(self.pretext.images[chosen], self.processor)
        answers, grades = [self.pretext.answers[i] for i in chosen], self.pretext.grades[chosen]
        if number % 2:
            prompt = torch.tensor([describe_ids(self.processor, self.visual)]).expand(self.batch, -1)
            return prompt, pixel_values, caption_ids(self.tokenizer, [caption(one) for one in answers])
        length, half = int(self.rng.integers(_MOST_WORDS + 1)), range(0, self.batch, 2)
        starts = self.rng.integers(len(self.words) - length, size=self.batch // 2)
        prompts = [
            compare_ids(self.processor, self.visual, self.words[start : start + length].tolist()) for start in starts
        ]
        said = [pair_caption(answers[i], answers[i + 1], grades[i], grades[i + 1]) for i in half]
        return torch.tensor(prompts), pixel_values, caption_ids(self.tokenizer, said)


def train(
    model: Qwen2VLForConditionalGeneration,
    processor: PairProcessor,
    pretext: Pretext,
    config: PretrainConfig,
    log: Log,
) -> int:
    """Trains in place until the time or the steps are over; returns the steps made."""
    steps = _Steps(processor, pretext, config)
    named = dict(model.named_parameters())
    decayed = [value for key, value in named.items() if value.dim() > 1 and "embed_tokens" not in key]
    others = [value for key, value in named.items() if value.dim() <= 1 or "embed_tokens" in key]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    started, step = time.monotonic(), 0
    model.train()
    while True:
        seconds = time.monotonic() - started
        share = max(seconds / (60 * config.minutes), step / config.steps if config.steps else 0.0)
        if share >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share, config)
        loss = caption_loss(model, *steps.step(step), config.px // 14)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        log(step, seconds, loss.item())


@torch.no_grad()
def accuracies(
    model: Qwen2VLForConditionalGeneration, processor: PairProcessor, pretext: Pretext, batch: int = 100
) -> dict[str, float]:
    """Share of pictures whose greedy caption says each attribute right; of pairs, whose comparison is right.

    `parsed` is the share that are captions at all; `size_compared` and the like the share of letters that are right.
    """
    model.eval()
    images, answers = pretext.images, pretext.answers
    said = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        said += [parse_caption(text) for text in describe(model, processor, list(chunk), px=images.shape[1])]
    right = {
        name: float(np.mean([one.get(name) == true[name] for one, true in zip(said, answers, strict=True)]))
        for name in ATTRIBUTES
    }
    return {**right, "parsed": float(np.mean([bool(one) for one in said])), **_compared(model, processor, pretext)}


def _compared(model: Qwen2VLForConditionalGeneration, processor: PairProcessor, pretext: Pretext) -> dict[str, float]:
    """Given the letters before it, which of A and B is the likelier next letter? Neighbouring pictures are the pairs."""
    side = pretext.images.shape[1] // 14
    writer: Any = processor.tokenizer
    letters = torch.tensor([writer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in "AB"])
    right = []
    for first in range(0, len(pretext.images) - 1, 2):
        two, grades = pretext.images[first : first + 2], pretext.grades[first : first + 2]
        said = pair_caption(pretext.answers[first], pretext.answers[first + 1], grades[0], grades[1])
        target = caption_ids(writer, [said])
        prompt = torch.tensor([compare_ids(processor, side * side // 4, [])])
        ids = torch.cat([prompt, target[:, :-1]], 1)
        logits = model(
            input_ids=ids,
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            pixel_values=patches(two, processor),
            image_grid_thw=torch.tensor([[1, side, side]] * 2),
        ).logits[0, -target.shape[1] :]
        at = [i for i, token in enumerate(target[0].tolist()) if token in letters.tolist()][: len(GRADES)]
        right.append((logits[at][:, letters].argmax(1).numpy() == 0) == (grades[0] > grades[1]))
    shares = np.mean(right, axis=0) if right else np.zeros(len(GRADES))
    return {f"{name}_compared": float(share) for name, share in zip(GRADES, shares, strict=True)}
