"""Teaching the tiny backbone to describe drawn creatives: one process, no Ray, loss on the caption alone.

Legend: B pictures of a step, V visual tokens of one, C tokens of a caption, T = prompt and caption, N patches, D width.
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

from countryreward.models.backbone import describe, describe_ids
from countryreward.models.captions import ATTRIBUTES, Answers, caption, parse_caption
from countryreward.models.config import PretrainConfig
from countryreward.models.processor import PairProcessor, patches

IGNORED = -100

Log = Callable[[int, float, float], None]
"""step, seconds, loss."""


def caption_ids(tokenizer: PreTrainedTokenizerFast, answers: Sequence[Answers]) -> Tensor:
    """Captions with their end token, padded on the right with IGNORED. int64 [len(answers), C]."""
    rows = [[*tokenizer.encode(f" {caption(one)}"), tokenizer.eos_token_id] for one in answers]
    longest = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])


def caption_loss(
    model: Qwen2VLForConditionalGeneration, prompt_T: list[int], pixel_values_NP: Tensor, target_BC: Tensor, side: int
) -> Tensor:
    """Mean cross-entropy of the captions' tokens. `side` is the number of patches along an edge.

    All pictures have one size, so positions are computed once, no mask is needed (padding comes last and is ignored), and
    the output layer sees caption positions only.
    """
    batch, length = target_BC.shape
    grid = torch.tensor([[1, side, side]] * batch)
    inner: Any = model.model  # transformers' annotations name tensor types that torch never returns
    pad = inner.config.text_config.pad_token_id
    ids_BT = torch.cat(
        [torch.tensor(prompt_T).expand(batch, -1), target_BC[:, :-1].masked_fill(target_BC[:, :-1] < 0, pad)], 1
    )
    image_1T = (ids_BT[:1] == model.config.image_token_id).int()
    position_31T, _ = inner.get_rope_index(ids_BT[:1], image_1T, image_grid_thw=grid[:1])
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


def train(
    model: Qwen2VLForConditionalGeneration,
    processor: PairProcessor,
    images: np.ndarray,
    answers: Sequence[Answers],
    config: PretrainConfig,
    log: Log,
) -> int:
    """Trains in place until the time or the steps are over; returns the steps made. images: uint8 [count, px, px, 3]."""
    side = config.px // 14
    prompt = describe_ids(processor, side * side // 4)
    targets = caption_ids(processor.tokenizer, answers)
    named = dict(model.named_parameters())
    decayed = [value for key, value in named.items() if value.dim() > 1 and "embed_tokens" not in key]
    others = [value for key, value in named.items() if value.dim() <= 1 or "embed_tokens" in key]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    rng, order, batch = np.random.default_rng(config.seed), np.empty(0, np.int64), min(config.batch, len(images))
    started, step = time.monotonic(), 0
    model.train()
    while True:
        seconds = time.monotonic() - started
        share = max(seconds / (60 * config.minutes), step / config.steps if config.steps else 0.0)
        if share >= 1:
            return step
        if len(order) < batch:
            order = rng.permutation(len(images))
        chosen, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share, config)
        target_BC = targets[torch.from_numpy(chosen)]
        loss = caption_loss(model, prompt, patches(images[chosen], processor), target_BC, side)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        log(step, seconds, loss.item())


def accuracies(
    model: Qwen2VLForConditionalGeneration,
    processor: PairProcessor,
    images: np.ndarray,
    answers: Sequence[Answers],
    batch: int = 100,
) -> dict[str, float]:
    """Share of pictures whose greedy caption says each attribute right; `parsed` is the share that are captions at all."""
    model.eval()
    said: list[Answers] = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        said += [parse_caption(text) for text in describe(model, processor, list(chunk), px=images.shape[1])]
    right = {
        name: float(np.mean([one.get(name) == true[name] for one, true in zip(said, answers, strict=True)]))
        for name in ATTRIBUTES
    }
    return {**right, "parsed": float(np.mean([bool(one) for one in said]))}
