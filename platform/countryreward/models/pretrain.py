"""Teaching the tiny backbone to see: one process, no Ray.

Two losses: the answer's tokens (a caption of one picture, a comparison of two), and a summary: from the state of the
prompt's last token, linear heads read what the pictures show. Real backbones come with such states from their pretraining;
a judge of pairs looks from there. The heads are thrown away.

Legend: B prompts of a step, K pictures of a prompt, T tokens, N patches, P values of a patch, D width.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2VLForConditionalGeneration

from countryreward.models import attention
from countryreward.models.captions import ATTRIBUTES, GRADES, Pretext, parse_caption
from countryreward.models.pretext_steps import CHOICES, IGNORED, Step, Steps
from countryreward.models.pretrain_config import PretrainConfig
from countryreward.models.processor import PairProcessor
from countryreward.models.tiny_backbone import describe

_GRADE_SD = 12**-0.5  # of a uniform number in [0, 1]

Log = Callable[[int, float, float], None]
"""step, seconds, loss."""


class Summary(nn.Module):
    """Linear heads on the state of the prompt's last token: grades and choices of each of its pictures.

    They read it through noise (`PretrainConfig.noise`), so that what the pictures show has to fill the state and what else
    differs between them is pressed out of it: a judge then learns from fewer records.
    """

    def __init__(self, width: int, pictures: int, noise: float) -> None:
        super().__init__()
        self.pictures, self.noise = pictures, noise
        self.sizes = [len(GRADES), *(len(words) for words in CHOICES.values())]
        self.read = nn.Linear(width, pictures * sum(self.sizes))

    def forward(self, state_BD: Tensor) -> tuple[Tensor, ...]:
        """Standardised grades [B, K, grades], then the logits of each choice [B, K, words]."""
        size_B1 = state_BD.pow(2).mean(-1, keepdim=True).sqrt()
        state_BD = state_BD + self.noise * size_B1 * torch.randn_like(state_BD)
        return self.read(state_BD).float().unflatten(1, (self.pictures, -1)).split(self.sizes, dim=-1)

    def loss(self, state_BD: Tensor, step: Step) -> Tensor:
        """Mean squared error of the grades in standard deviations, plus the mean cross-entropy of the choices."""
        grades, *choices = self(state_BD)
        wrong = ((grades - (step.grades - 0.5) / _GRADE_SD) ** 2).mean()
        entropies = [
            cross_entropy(found.flatten(0, 1), step.choices[..., i].flatten()) for i, found in enumerate(choices)
        ]
        return wrong + torch.stack(entropies).mean()


def states(model: Qwen2VLForConditionalGeneration, step: Step, side: int) -> Tensor:
    """Hidden states [B, T, D]. `side`: patches along an edge. Padding comes last and attention is causal: no mask is needed."""
    inner: Any = model.model  # transformers' annotations name tensor types that torch never returns
    grid = torch.tensor([[1, side, side]] * (len(step.pixel_values) // side**2))
    return inner(
        input_ids=step.ids,
        mm_token_type_ids=(step.ids == model.config.image_token_id).int(),
        pixel_values=step.pixel_values,
        image_grid_thw=grid,
        position_ids=step.positions,
        use_cache=False,
    ).last_hidden_state


def answer_loss(model: Qwen2VLForConditionalGeneration, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens; the output layer sees their positions only."""
    asked = labels_BT != IGNORED
    return cross_entropy(model.lm_head(hidden_BTD[asked]).float(), labels_BT[asked])


def rate_at(share: float, config: PretrainConfig) -> float:
    """Warm-up, then a cosine down to a hundredth; `share` is the part of the training that is over, 0 to 1."""
    if share < config.warm_up:
        return config.learning_rate * max(share / config.warm_up, 0.02)
    late = (share - config.warm_up) / (1 - config.warm_up)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(late, 1.0))))


def train(
    model: Qwen2VLForConditionalGeneration,
    processor: PairProcessor,
    pretext: Pretext,
    config: PretrainConfig,
    log: Log,
) -> int:
    """Trains in place until the time or the steps are over; returns the steps made."""
    torch.manual_seed(config.seed)  # of the heads and of the noise
    steps = Steps(processor, pretext, px=config.px, batch=config.batch, seed=config.seed)
    width = model.config.get_text_config().hidden_size
    summaries = nn.ModuleList(Summary(width, pictures, config.noise) for pictures in (1, 2))
    named = dict(model.named_parameters())
    decayed = [value for key, value in named.items() if value.dim() > 1 and "embed_tokens" not in key]
    others = [value for key, value in named.items() if value.dim() <= 1 or "embed_tokens" in key]
    others += list(summaries.parameters())
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    started, step = time.monotonic(), 0
    model.train()
    bf16 = config.precision == "bf16"
    model.set_attn_implementation(attention.NAME if bf16 else "sdpa")
    while True:
        seconds = time.monotonic() - started
        share = max(
            seconds / (60 * config.minutes) if config.minutes else 1.0, step / config.steps if config.steps else 0.0
        )
        if share >= 1:
            model.set_attn_implementation("sdpa")
            return step
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share, config)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            made = steps.next(step)
            hidden_BTD = states(model, made, config.px // 14)
            summary = summaries[step % 2].loss(hidden_BTD[torch.arange(len(made.last)), made.last], made)  # pyright: ignore
            loss = answer_loss(model, hidden_BTD, made.labels) + summary
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
    px = pretext.images.shape[1]
    steps = Steps(processor, pretext, px=px, batch=2, seed=0)
    letters = [steps.tokenizer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in "AB"]
    right = []
    for first in range(0, len(pretext.images) - 1, 50):
        chosen = np.arange(first, min(first + 50, len(pretext.images) // 2 * 2)).reshape(-1, 2)
        step = steps.pairs(chosen)
        asked = (step.labels == letters[0]) | (step.labels == letters[1])
        logits = model.lm_head(states(model, step, px // 14)[asked])[:, letters]
        right.append((logits.argmax(1) == (step.labels[asked] == letters[1]).long()).view(-1, len(GRADES)))
    shares = torch.cat(right).float().mean(0).tolist() if right else [0.0] * len(GRADES)
    return {f"{name}_compared": float(share) for name, share in zip(GRADES, shares, strict=True)}
