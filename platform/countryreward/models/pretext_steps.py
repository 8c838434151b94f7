"""Steps of the pretext: one picture and its caption, then two pictures in the reward model's own prompt and their comparison.

The pair's prompt is the one of `country_masked`: "this market" and no country anywhere. Its pictures show the same product, as
in the reward model's pairs, and its text is that of a product of their category.
Legend: B prompts, T tokens, K pictures of a prompt (1 or 2), N patches, P values of a patch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from countryreward.models.captions import ATTRIBUTES, DESCRIBE, GRADES, Pretext, caption, comparison
from countryreward.models.processor import PairProcessor, patches
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_prompts import PairFields, PromptBuilder, PromptWriter
from countryreward.models.tokenizer import pretext_products

IGNORED = -100
CHOICES = {name: words for name, words in ATTRIBUTES.items() if name not in GRADES}
"""Attributes that are a choice of words, not a grade."""


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
    """Steps in an order that the seed gives: single pictures and pairs in turn."""

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
        self.choices = np.array([[place[name][one[name]] for name in CHOICES] for one in pretext.answers])

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
            told = PairFields(
                title=product["title"],
                category=product["category"],
                attributes=product["attributes"],
                tags=product["tags"],
                market="US",
                mask_country=True,
                images=("a", "b"),
                grids=(self.grid, self.grid),
            )
            example = self.prompts.example(told)
            prompts.append((example.ids, example.positions))
        grades = self.pretext.grades
        return self._step(prompts, [comparison(grades[a], grades[b]) for a, b in chosen], chosen)

    def _step(self, prompts: list[tuple[np.ndarray, np.ndarray]], answers: list[str], chosen: np.ndarray) -> Step:
        rows = []
        for (ids, positions), answer in zip(prompts, answers, strict=True):
            said = [*self.tokenizer.encode(f" {answer}", add_special_tokens=False), self.tokenizer.eos_token_id]
            later = positions.max() + 1 + np.arange(len(said) - 1)
            rows.append((np.append(ids, said[:-1]), np.append(positions, np.tile(later, (3, 1)), axis=1), ids, said))
        width = max(len(row[0]) for row in rows)
        ids_BT = np.full((len(rows), width), self.tokenizer.pad_token_id, np.int64)
        positions_3BT, labels_BT = np.zeros((3, len(rows), width), np.int64), np.full((len(rows), width), IGNORED)
        for row, (whole, places, prompt, said) in enumerate(rows):
            ids_BT[row, : len(whole)], positions_3BT[:, row, : len(whole)] = whole, places
            labels_BT[row, len(prompt) - 1 : len(prompt) - 1 + len(said)] = said
        return Step(
            ids=torch.from_numpy(ids_BT),
            positions=torch.from_numpy(positions_3BT),
            labels=torch.from_numpy(labels_BT),
            last=torch.tensor([len(row[2]) - 1 for row in rows]),
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
        told = {name: product[name] for name in ("title", "category", "attributes", "tags")}
        fields = PairFields(**told, market="US", mask_country=True, images=("a", "b"), grids=(grid, grid))
        used |= set(builder.example(fields).ids.tolist())
    for name, words in ATTRIBUTES.items():
        for word in words:
            used |= set(tokenizer.encode(f" {name} {word}", add_special_tokens=False))
    return used
