"""Teaching the tiny backbone to see: one process, no Ray.

Two losses: the answer's tokens (a caption of one picture, a comparison of two), and a summary: from the state of the
prompt's last token, linear heads read what the pictures show. Real backbones come with such states from their pretraining;
a judge of pairs looks from there. The heads are thrown away.

Legend: B prompts of a step, K pictures of a prompt (1 or 2), T tokens, N patches, P values of a patch, D width.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2VLForConditionalGeneration

from countryreward.models.attention import SDPA_FLOAT32
from countryreward.models.captions import (
    ATTRIBUTES,
    DESCRIBE,
    GRADES,
    Pretext,
    caption,
    comparison,
    parse_caption,
)
from countryreward.models.design_batch import IGNORED
from countryreward.models.pretrain_config import PretrainConfig
from countryreward.models.processor import PairProcessor, patches
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_prompts import PairFields, PromptBuilder, PromptWriter
from countryreward.models.tiny_backbone import describe
from countryreward.models.tokenizer import pretext_products

CHOICES = {name: words for name, words in ATTRIBUTES.items() if name not in GRADES}
"""Attributes that are a choice of words, not a grade."""
_GRADE_SD = 12**-0.5  # of a uniform number in [0, 1]

Log = Callable[[int, float, float], None]
"""step, seconds, loss."""


@dataclass(frozen=True)
class Step:
    """One step's tensors."""

    ids: Tensor  # [B, T] padded on the right
    positions: Tensor  # [3, B, T]
    labels: Tensor  # [B, T] the next token where it belongs to the answer, IGNORED elsewhere
    last: Tensor  # [B] last token of the prompt
    pixel_values: Tensor  # [N, P]
    grades: Tensor  # [B, K, grades]
    choices: Tensor  # [B, K, choices] index of the word


class Steps:
    """Steps in an order that the seed gives: one picture and its caption, then two pictures in the reward model's own prompt and
    their comparison, in turn.

    The pair's prompt is the one of `country_masked`: "this market" and no country anywhere. Its pictures show the same product,
    as in the reward model's pairs, and its text is that of a product of their category.
    """

    def __init__(self, processor: PairProcessor, pretext: Pretext, *, px: int, batch: int, seed: int) -> None:
        self.processor, self.pretext, self.tokenizer = processor, pretext, processor.tokenizer
        self.grid = (1, px // 14, px // 14)
        self.batch = max(2, min(batch, len(pretext.images)) // 2 * 2)
        self.rng = np.random.default_rng(seed)
        self._queue = {1: np.empty((0, 1), np.int64), 2: np.empty((0, 2), np.int64)}
        self.prompts = PromptBuilder(self.tokenizer, RewardOptions(strategy="none", antisymmetric="off"))
        self.products = {name: [] for name in ATTRIBUTES["category"]}
        for product in pretext_products():
            self.products[product["category"]].append(product)
        place = {name: {word: i for i, word in enumerate(words)} for name, words in CHOICES.items()}
        self.choices = np.array([[place[name][picture[name]] for name in CHOICES] for picture in pretext.answers])

    def next(self, number: int) -> Step:
        """Step `number`, from 0."""
        return self.pairs(self._draw(2)) if number % 2 else self.singles(self._draw(1).ravel())

    def _draw(self, together: int) -> np.ndarray:
        """The next `batch` pictures: [batch / together, together], each once before any comes again."""
        rows = self.batch // together
        if len(self._queue[together]) < rows:
            groups = np.arange(len(self.pretext.images) // together * together).reshape(-1, together)
            self._queue[together] = self.rng.permuted(self.rng.permutation(groups), axis=1)
        chosen, self._queue[together] = np.split(self._queue[together], [rows])
        return chosen

    def singles(self, chosen: np.ndarray) -> Step:
        """Prompt: the picture and `DESCRIBE`. Answer: its caption."""
        writer = PromptWriter(merge=2)
        start, end = self.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        writer.text([start])
        writer.image(self.processor.image_token_id, self.grid)
        writer.text([end, *self.tokenizer.encode(DESCRIBE, add_special_tokens=False)])
        ids, _, positions = writer.arrays()
        answers = [caption(self.pretext.answers[i]) for i in chosen]
        return self._step([(ids, positions)] * len(chosen), answers, chosen[:, None])

    def pairs(self, chosen: np.ndarray) -> Step:
        """Prompt: two pictures and a product of their category. Answer: their comparison. chosen: [B, 2]."""
        prompts = []
        for first, _ in chosen:
            products = self.products[self.pretext.answers[first]["category"]]
            product = products[int(self.rng.integers(len(products)))]
            fields = PairFields(
                title=product["title"],
                category=product["category"],
                attributes=product["attributes"],
                tags=product["tags"],
                market="US",
                mask_country=True,
                images=("a", "b"),
                grids=(self.grid, self.grid),
            )
            example = self.prompts.example(fields)
            prompts.append((example.ids, example.positions))
        grades = self.pretext.grades
        return self._step(prompts, [comparison(grades[a], grades[b]) for a, b in chosen], chosen)

    def _step(self, prompts: list[tuple[np.ndarray, np.ndarray]], answers: list[str], chosen: np.ndarray) -> Step:
        rows = []
        for (ids, positions), text in zip(prompts, answers, strict=True):
            answer = [*self.tokenizer.encode(f" {text}", add_special_tokens=False), self.tokenizer.eos_token_id]
            later = positions.max() + 1 + np.arange(len(answer) - 1)
            whole = np.append(ids, answer[:-1]), np.append(positions, np.tile(later, (3, 1)), axis=1)
            rows.append((*whole, len(ids), answer))
        width = max(len(ids) for ids, *_ in rows)
        ids_BT = np.full((len(rows), width), self.tokenizer.pad_token_id, np.int64)
        positions_3BT, labels_BT = np.zeros((3, len(rows), width), np.int64), np.full((len(rows), width), IGNORED)
        for b, (ids, positions, prompt_length, answer) in enumerate(rows):
            ids_BT[b, : len(ids)], positions_3BT[:, b, : len(ids)] = ids, positions
            labels_BT[b, prompt_length - 1 : prompt_length - 1 + len(answer)] = answer
        return Step(
            ids=torch.from_numpy(ids_BT),
            positions=torch.from_numpy(positions_3BT),
            labels=torch.from_numpy(labels_BT),
            last=torch.tensor([prompt_length - 1 for _, _, prompt_length, _ in rows]),
            pixel_values=patches(self.pretext.images[chosen.ravel()], self.processor),
            grades=torch.from_numpy(self.pretext.grades[chosen]).float(),
            choices=torch.from_numpy(self.choices[chosen]),
        )


def used_tokens(processor: PairProcessor) -> set[int]:
    """Ids that prompts or answers of the pretext can hold."""
    tokenizer = processor.tokenizer
    grid = (1, 2, 2)
    builder = PromptBuilder(tokenizer, RewardOptions(strategy="none", antisymmetric="off"))
    used = set(tokenizer.all_special_ids) | set(tokenizer.encode(f"{DESCRIBE} A B", add_special_tokens=False))
    for product in pretext_products():
        words = {name: product[name] for name in ("title", "category", "attributes", "tags")}
        fields = PairFields(**words, market="US", mask_country=True, images=("a", "b"), grids=(grid, grid))
        used |= set(builder.example(fields).ids.tolist())
    for name, words in ATTRIBUTES.items():
        for word in words:
            used |= set(tokenizer.encode(f" {name} {word}", add_special_tokens=False))
    return used


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
        squared_error = ((grades - (step.grades - 0.5) / _GRADE_SD) ** 2).mean()
        entropies = [
            cross_entropy(logits.flatten(0, 1), step.choices[..., i].flatten()) for i, logits in enumerate(choices)
        ]
        return squared_error + torch.stack(entropies).mean()


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
    answered = labels_BT != IGNORED
    return cross_entropy(model.lm_head(hidden_BTD[answered]).float(), labels_BT[answered])


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
    model.set_attn_implementation(SDPA_FLOAT32 if bf16 else "sdpa")
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
            batch = steps.next(step)
            hidden_BTD = states(model, batch, config.px // 14)
            last_BD = hidden_BTD[torch.arange(len(batch.last)), batch.last]
            summary = summaries[step % 2].loss(last_BD, batch)  # pyright: ignore
            loss = answer_loss(model, hidden_BTD, batch.labels) + summary
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
    captions = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        captions += [parse_caption(text) for text in describe(model, processor, list(chunk), px=images.shape[1])]
    right = {
        name: float(np.mean([read.get(name) == true[name] for read, true in zip(captions, answers, strict=True)]))
        for name in ATTRIBUTES
    }
    return {
        **right,
        "parsed": float(np.mean([bool(read) for read in captions])),
        **_compared(model, processor, pretext),
    }


def _compared(model: Qwen2VLForConditionalGeneration, processor: PairProcessor, pretext: Pretext) -> dict[str, float]:
    """Given the letters before it, which of A and B is the likelier next letter? Neighbouring pictures are the pairs."""
    px = pretext.images.shape[1]
    steps = Steps(processor, pretext, px=px, batch=2, seed=0)
    letters = [steps.tokenizer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in "AB"]
    right = []
    for first in range(0, len(pretext.images) - 1, 50):
        chosen = np.arange(first, min(first + 50, len(pretext.images) // 2 * 2)).reshape(-1, 2)
        step = steps.pairs(chosen)
        answered = (step.labels == letters[0]) | (step.labels == letters[1])
        logits = model.lm_head(states(model, step, px // 14)[answered])[:, letters]
        right.append((logits.argmax(1) == (step.labels[answered] == letters[1]).long()).view(-1, len(GRADES)))
    shares = torch.cat(right).float().mean(0).tolist() if right else [0.0] * len(GRADES)
    return {f"{name}_compared": float(share) for name, share in zip(GRADES, shares, strict=True)}
