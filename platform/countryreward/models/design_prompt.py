"""What a design writer is asked (Eq. 12) and how its answer is read.

The prompt is the paper's, spliced as the reward model's is: the product's picture, its words, then the instruction with the
market. A design's written form (`data/design.py`) is the answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from countryreward import markets
from countryreward.data.design import LABELS, Design
from countryreward.errors import UserError
from countryreward.models.product_text import ProductText, check_market
from countryreward.models.reward_prompts import Grid, PromptWriter

ASK = (
    "\nGenerate a background design for",
    " market, based on the Product Attributes and Product Image.\nAnswer in four lines: "
    + ", ".join(LABELS.values())
    + ".",
)
"""The paper's words (section 3.2) before and after the market's adjective, and the form of the answer."""
HEADS = tuple(f"{label}:" if n == 0 else f"\n{label}:" for n, label in enumerate(LABELS.values()))
"""What stands before each field of a design's written form."""
PHRASES = (*ASK, *HEADS)
"""Fixed pieces of prompt and answer. The tiny tokenizer gives each a token of its own when a writer is first taught, so that the
market is one of few tokens; a real Qwen2-VL reads them word by word."""
LONGEST_FIELD = 400
"""Characters of a field; a longer one is cut at a word and counts as repaired."""


@dataclass(frozen=True, kw_only=True)
class DesignFields:
    """What a design writer's prompt is made of."""

    title: str
    """As shown to customers, any language."""
    market: str
    """ISO 3166 alpha-2."""
    image: str
    """Name of the product's picture, such as its content hash."""
    grid: Grid
    """Its patches."""
    category: str | None = None
    """The platform's category."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Name to value."""


@dataclass(frozen=True, eq=False)
class SplicedPrompt:
    """A design writer's prompt as T token ids, spliced so that no user text is ever formatted into a template."""

    ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [3, T] of the multimodal rotary embedding
    image: str
    grid: Grid

    def later(self, count: int) -> NDArray[np.int64]:
        """Positions [3, count] of the tokens that follow."""
        return np.tile(self.positions.max() + 1 + np.arange(count), (3, 1))


@dataclass(frozen=True)
class Reading:
    """A design as it was read from an answer."""

    design: Design | None
    """None: refused."""
    repaired: bool
    reason: str | None
    """What was mended, or why it was refused."""


class DesignPrompt:
    """`DesignPrompt(tokenizer).splice(DesignFields(...))`. One thread at a time: tokenizers keep state."""

    def __init__(self, tokenizer: Any, *, merge: int = 2, max_length: int = 2_048) -> None:
        """merge: as in `PromptBuilder`. max_length: longest accepted prompt in tokens; a longer one is an error, never cut."""
        self.tokenizer, self.merge, self.max_length = tokenizer, merge, max_length
        self.words = ProductText(tokenizer)
        self.image_id = self.words.image_id
        self.end_id: int = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def splice(self, fields: DesignFields) -> SplicedPrompt:
        """The prompt. Raises `UserError` for an empty title, words that name another market, a prompt that is too long."""
        product = self.words.of(fields.title, fields.category, fields.attributes)
        check_market(fields.market, product)
        writer = PromptWriter(merge=self.merge)
        writer.text(self.words.ours("<|im_start|>user\n"))
        writer.text(self.words.ours("<|vision_start|>"))
        writer.image(self.image_id, fields.grid)
        writer.text(self.words.ours("<|vision_end|>"))
        for ids, _ in product.pieces:
            writer.text(ids)
        for piece in (ASK[0], f" {markets.adjective(fields.market)}", ASK[1]):
            writer.text(self.words.ours(piece))
        writer.text(self.words.ours("<|im_end|>\n<|im_start|>assistant\n"))
        ids, _, positions = writer.arrays()
        if len(ids) > self.max_length:
            name, count = max(product.counts.items(), key=lambda item: item[1])
            raise UserError(
                f"{name}: {count} tokens long; the whole prompt has {len(ids)}, {self.max_length} is the most; shorten {name}"
            )
        return SplicedPrompt(ids, positions, fields.image, fields.grid)

    def answer(self, design: Design) -> list[int]:
        """Ids of a design's written form and the end of the answer. Control tokens in it are plain text."""
        ids = []
        for head, name in zip(HEADS, LABELS, strict=True):
            ids += [*self.words.ours(head), *self.words.users(f" {getattr(design, name)}", name)]
        return [*ids, self.end_id]


def words_of(title: str, category: str | None, attributes: Mapping[str, str], market: str) -> str:
    """The prompt's text in words, for people and for tables: what `DesignPrompt` splices after the picture."""
    attributes_text = "; ".join(f"{name}: {value}" for name, value in sorted(attributes.items()))
    parts = [("Title", title), ("Category", category or ""), ("Attributes", attributes_text)]
    product = "".join(f"\nProduct {name}: {text}" for name, text in parts if text)
    return f" {markets.adjective(market)}".join((product + ASK[0], ASK[1]))


def read_design(text: str) -> Reading:
    """A design from a language model's answer. Never raises.

    Repaired, and said so: text around the four lines, a field that is written twice (the first counts), a field longer than
    LONGEST_FIELD characters (cut at a word), characters that are not printable. Refused: a field that is missing.
    """
    repairs: list[str] = []
    clean = "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
    if clean != text:
        repairs.append("characters that cannot be printed")
    try:
        design = Design.parse(clean)
    except UserError as error:
        single = _first_of_each(clean)
        if single == clean:
            return Reading(None, False, str(error))
        try:
            design = Design.parse(single)
        except UserError as second:
            return Reading(None, False, str(second))
        repairs.append("a field that was written twice")
    short = {name: _cut(getattr(design, name)) for name in LABELS}
    if any(short[name] != getattr(design, name) for name in LABELS):
        design = Design(**short)
        repairs.append("a field that was too long")
    if not repairs and design.as_text() != text.strip():
        repairs.append("the form")
    return Reading(design, bool(repairs), ", ".join(repairs) or None)


_LABEL = re.compile(r"^\W*(foreground|background|colou?r[ _]tone|lighting)\W*[:：]", re.IGNORECASE)


def _first_of_each(text: str) -> str:
    """Without the lines that begin a field which was there before."""
    seen: set[str] = set()
    kept = []
    for line in text.splitlines():
        label = _LABEL.match(line)
        name = re.sub(r"[ _]+", " ", label[1].lower()).replace("colour", "color") if label else None
        if name is not None and name in seen:
            continue
        if name is not None:
            seen.add(name)
        kept.append(line)
    return "\n".join(kept)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_FIELD else text[:LONGEST_FIELD].rsplit(" ", 1)[0]
