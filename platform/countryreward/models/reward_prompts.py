"""One example's token ids, spliced so that no user text is ever formatted into a template (`product_text.py`).

The order: country prompt, image A and the words of its ad, image B and the words of its ad, product text, the augmentation
sentence (strategy `instruct`), instruction. The paper's `<Product Title><Product Attributes>` in the instruction names the
product text above it; it knows no words of ads, and without them the prompt is the paper's.

Legend: T tokens, S spans (country, product, image, the words of A, of B). A grid is (time, height, width) in patches, as
Qwen2-VL's processor says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from countryreward import markets
from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError
from countryreward.models.product_text import ProductText, TextPieces, check_market
from countryreward.models.reward_config import RewardOptions

SPANS = ("country", "product", "image", "copy_a", "copy_b")
"""The order of the spans in every mask. An ad without words has an empty span, which costs no penalty (Eq. 7)."""

SENTENCE = "Based on the experience, the greater probability answer is {letter}."
INSTRUCTION = (
    " market, based on the Product Title and Product Attributes compare the two e-commerce images below and select the one (A/B)"
    " that is more likely to attract consumers and drive conversions. Consider factors like visual appeal, and background design."
    " Answer strictly with a single uppercase letter (A/B) on the last line, no explanations."
)
_OTHER_LETTER = {"A": "B", "B": "A", None: None}

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PairFields:
    """What a prompt is made of: one product, two ads, one market, one prior."""

    title: str
    """As shown to customers, any language."""
    market: str
    """ISO 3166 alpha-2."""
    images: tuple[str, str]
    """Names of images A and B, such as content hashes: whoever reads a batch brings its images by these names."""
    grids: tuple[Grid, Grid]
    """Patches of images A and B."""
    copies: tuple[Copy | None, Copy | None] = (None, None)
    """The words of ads A and B; None: an ad without words."""
    category: str | None = None
    """The platform's category."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Name to value."""
    tags: Sequence[str] = ()
    """Free words."""
    log_odds: float = 0.0
    """The prior's log-odds for A; 0 without a prior."""
    letter: str | None = None
    """The prior's letter; None without a prior, or at a tie."""
    mask_country: bool = False
    """`country_masked`: "this market" in prompt and adapter. The prior is the caller's to take away as well."""
    mask_images: bool = False
    """`images_masked`: no visual token, and no words of an ad: nothing that tells A from B but the prior."""

    def swapped(self) -> "PairFields":
        """The same question with A and B exchanged: images, words, log-odds and letter."""
        return replace(
            self,
            images=self.images[::-1],
            grids=self.grids[::-1],
            copies=self.copies[::-1],
            log_odds=-self.log_odds,
            letter=_OTHER_LETTER[self.letter],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One spliced prompt."""

    ids: NDArray[np.int64]  # [T]
    spans: NDArray[np.bool_]  # [S, T]
    positions: NDArray[np.int64]  # [3, T] of the multimodal rotary embedding: time, height, width
    country: list[int]  # ids whose mean embedding drives the adapter
    augmentation: list[int]  # ids of the augmentation sentence; empty without a prior
    log_odds: float
    images: tuple[str, ...]  # in the order of the prompt; empty when masked
    grids: tuple[Grid, ...]
    swapped: "Example | None" = None  # (B, A) with the prior negated, for an antisymmetric model


class PromptBuilder:
    """`PromptBuilder(tokenizer, options).example(PairFields(...))`. One thread at a time: tokenizers keep state."""

    def __init__(self, tokenizer: Any, options: RewardOptions, *, merge: int = 2) -> None:
        """merge: side of the square of patches that become one visual token (`vision_config.spatial_merge_size`)."""
        self.tokenizer, self.options, self.merge = tokenizer, options, merge
        self.words = ProductText(tokenizer)
        self.image_id = self.words.image_id
        self._instruct = options.option("strategy") == "instruct"
        self._both_orders = options.option("antisymmetric") == "on"

    def example(self, fields: PairFields) -> Example:
        """The prompt of one pair. Raises `UserError` for a prompt that is too long, that names another market, or bad text."""
        if self.options.country == "off":
            fields = replace(fields, mask_country=True, log_odds=0.0, letter=None)
        if fields.letter not in _OTHER_LETTER:
            raise UserError(f"prior.letter: {fields.letter!r} must be A, B or nothing")
        if not np.isfinite(fields.log_odds):
            raise UserError(f"prior.log_odds: {fields.log_odds} must be a finite number; 0 stands for no prior")
        product = self.words.of(fields.title, fields.category, fields.attributes, fields.tags)
        ads = self._ads(fields)
        check_market(fields.market, product, *ads)
        example = self._splice(fields, product, ads)
        if len(example.ids) > self.options.max_length:
            raise self._too_long(example, product, *ads)
        if not self._both_orders:
            return example
        turned = fields.swapped()
        return replace(example, swapped=self._splice(turned, product, self._ads(turned)))

    def ours(self, text: str) -> list[int]:
        """Ids of a piece of the template; special tokens in it are meant."""
        return self.words.ours(text)

    def users(self, text: str, field_name: str) -> list[int]:
        """Ids of a user's text: never a special token. Raises `UserError` for text that is no UTF-8."""
        return self.words.users(text, field_name)

    def _ads(self, fields: PairFields) -> list[TextPieces]:
        """The words of A, of B."""
        copies = (None, None) if fields.mask_images else fields.copies
        return [self.words.of_copy(copy, letter) for letter, copy in zip("AB", copies, strict=True)]

    def _splice(self, fields: PairFields, product: TextPieces, ads: Sequence[TextPieces]) -> Example:
        adjective = "this" if fields.mask_country else markets.adjective(fields.market)
        alone = self.ours(" this market" if fields.mask_country else f" {adjective}")
        sentence = self.ours(f"\n{SENTENCE.format(letter=fields.letter)}") if fields.letter else []
        writer = PromptWriter(merge=self.merge)
        writer.text(self.ours("<|im_start|>user\n"))
        writer.text(alone, "country")
        for name, grid, words in zip("AB", fields.grids, ads, strict=True):
            writer.text(self.ours(f"\nImage {name}:"))
            if not fields.mask_images:
                writer.text(self.ours("<|vision_start|>"))
                writer.image(self.image_id, grid)
                writer.text(self.ours("<|vision_end|>"))
            for ids, span in words.pieces:
                writer.text(ids, span)
        for ids, span in product.pieces:
            writer.text(ids, span)
        if self._instruct:
            writer.text(sentence)
        writer.text(self.ours("\nFor"))
        writer.text(self.ours(f" {adjective}"), "country")
        writer.text(self.ours(INSTRUCTION))
        writer.text(self.ours("<|im_end|>\n<|im_start|>assistant\n"))
        ids, spans, positions = writer.arrays()
        visible = () if fields.mask_images else fields.images
        expected = sum(int(np.prod(grid)) // self.merge**2 for grid in fields.grids) if visible else 0
        assert int((ids == self.image_id).sum()) == expected == int(spans[SPANS.index("image")].sum())
        return Example(
            ids=ids,
            spans=spans,
            positions=positions,
            country=alone,
            augmentation=sentence,
            log_odds=fields.log_odds,
            images=visible,
            grids=fields.grids if visible else (),
        )

    def _too_long(self, example: Example, *texts: TextPieces) -> UserError:
        limit, total = self.options.max_length, len(example.ids)
        counts = {name: count for pieces in texts for name, count in pieces.counts.items()}
        users = sum(counts.values())
        if total - users >= limit:
            visual = int(example.spans[SPANS.index("image")].sum())
            return UserError(
                f"images: {visual} visual tokens and the template alone make {total - users} tokens, reward.max_length is"
                f" {limit}; lower image_px or raise reward.max_length"
            )
        name, count = max(counts.items(), key=lambda item: item[1])
        return UserError(
            f"{name}: {count} tokens long; the whole prompt has {total}, reward.max_length is {limit}; shorten {name}"
            f" by {total - limit} tokens or raise reward.max_length"
        )


class PromptWriter:
    """Ids, spans and rotary positions, piece by piece."""

    def __init__(self, *, merge: int) -> None:
        self.merge = merge
        # plain lists until the end: a prompt is a dozen short pieces, and an array of each took most of the time
        self._ids: list[int] = []
        self._spans: list[int] = []  # -1: none
        self._positions: list[int] = []
        self._images: list[tuple[int, NDArray[np.int64]]] = []  # where an image begins, and its positions [3, N]
        self._next = 0  # position of the next token

    def text(self, ids: Sequence[int], span: str | None = None) -> None:
        """Tokens one after another, each at a position of its own. span: one of SPANS that they belong to."""
        self._add(ids, span)
        self._positions += range(self._next, self._next + len(ids))
        self._next += len(ids)

    def image(self, image_id: int, grid: Grid) -> None:
        """As many visual tokens as a picture of `grid` has, positioned by row and column."""
        time, height, width = grid
        assert height % self.merge == width % self.merge == 0, grid
        height, width = height // self.merge, width // self.merge
        count = time * height * width
        self._images.append((len(self._ids), _image_positions(time, height, width) + self._next))
        self._add([image_id] * count, "image")
        self._positions += [0] * count
        self._next += max(height, width)

    def _add(self, ids: Sequence[int], span: str | None) -> None:
        self._ids += ids
        self._spans += [SPANS.index(span) if span else -1] * len(ids)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """All that was written: ids [T], spans [S, T], positions [3, T]."""
        ids_T, span_T, position_T = np.array([self._ids, self._spans, self._positions], dtype=np.int64)
        positions_3T = np.repeat(position_T[None], 3, axis=0)
        for start, image_3N in self._images:
            positions_3T[:, start : start + image_3N.shape[1]] = image_3N
        return ids_T.copy(), span_T[None] == _SPAN_CODES_S1, positions_3T


_SPAN_CODES_S1 = np.arange(len(SPANS))[:, None]


@lru_cache(maxsize=64)
def _image_positions(time: int, height: int, width: int) -> NDArray[np.int64]:
    return np.indices((time, height, width)).reshape(3, -1).astype(np.int64)
