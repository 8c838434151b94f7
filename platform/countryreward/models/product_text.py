"""A product's words, and an ad's, as token ids, so that no user text is ever formatted into a template.

Pieces of the template are ours and may hold special tokens. User fields are tokenised by themselves with special tokens split,
so a title that spells out `<|image_pad|>` gives ordinary ids.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from countryreward import markets
from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError

_CONTROL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_CACHED = 20_000  # product texts kept tokenised


@dataclass(frozen=True)
class TextPieces:
    """A product's text, or an ad's, tokenised once."""

    pieces: list[tuple[list[int], str | None]]
    """Ids and their span (that of its fields, or none), in order."""
    counts: dict[str, int]
    """Tokens by field."""
    named: list[tuple[str, str, set[str]]]
    """Fields that name markets, with their text and those markets."""


class ProductText:
    """Token ids of the template's pieces, of fields, whole products and ads. One thread at a time: tokenizers keep state."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises `UserError` for a tokenizer that lacks Qwen2-VL's special tokens."""
        self.tokenizer = tokenizer
        self._added = set(tokenizer.get_added_vocab().values())
        vocabulary = tokenizer.get_vocab()
        for token in _CONTROL:
            if token not in vocabulary or token not in tokenizer.get_added_vocab():
                raise UserError(
                    f"tokenizer: it lacks the special token {token}; take the tokenizer of a Qwen2-VL model"
                )
        self.image_id: int = vocabulary["<|image_pad|>"]
        self._ours: dict[str, list[int]] = {}
        self._products: dict[tuple, TextPieces] = {}
        self._copies: dict[tuple[Copy, str], TextPieces] = {}

    def ours(self, text: str) -> list[int]:
        """Ids of a piece of the template; special tokens in it are meant."""
        if text not in self._ours:
            self._ours[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ours[text]

    def users(self, text: str, field_name: str) -> list[int]:
        """Ids of a user's text: never a special token. Raises `UserError` for text that is no UTF-8 (lone surrogates)."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{field_name}: character {error.start} is no Unicode ({error.reason}); write valid UTF-8"
            ) from None
        ids = self._split(text)
        if not self._added.isdisjoint(ids):  # added tokens that are not special, in tokenizers that have such
            ids = [token for letter in text for token in self._split(letter)]
            assert self._added.isdisjoint(ids), f"a single character is an added token in {field_name}"
        return ids

    def of(
        self, title: str, category: str | None, attributes: Mapping[str, str], tags: Sequence[str] = ()
    ) -> TextPieces:
        """Title, category, attributes and tags, each announced; what is empty is left out. Raises `UserError` for no title."""
        pairs, words = tuple(sorted(attributes.items())), tuple(tags)
        key = (title, category, pairs, words)
        if key in self._products:
            return self._products[key]
        if not title.strip():
            raise UserError("title: it is empty; write the title customers see")
        texts = {
            "title": ("\nProduct Title:", title, "product"),
            "category": ("\nProduct Category:", category or "", None),
            "attributes": ("\nProduct Attributes:", "; ".join(f"{name}: {value}" for name, value in pairs), "product"),
            "tags": ("\nProduct Tags:", ", ".join(words), None),
        }
        if len(self._products) >= _CACHED:
            self._products.clear()
        self._products[key] = self._announced(texts)
        return self._products[key]

    def of_copy(self, copy: Copy | None, letter: str) -> TextPieces:
        """The words of the ad named A or B, each field announced; what is empty is left out. Their span: copy_a or copy_b."""
        if not copy:
            return TextPieces([], {}, [])
        if (copy, letter) not in self._copies:
            side = letter.lower()
            texts = {
                f"headline_{side}": (f"\nHeadline {letter}:", copy.headline or "", f"copy_{side}"),
                f"body_{side}": (f"\nText {letter}:", copy.body or "", f"copy_{side}"),
                f"call_to_action_{side}": (f"\nCall to Action {letter}:", copy.call_to_action or "", f"copy_{side}"),
                f"tags_{side}": (f"\nTags {letter}:", ", ".join(copy.tags), f"copy_{side}"),
            }
            if len(self._copies) >= _CACHED:
                self._copies.clear()
            self._copies[copy, letter] = self._announced(texts)
        return self._copies[copy, letter]

    def _announced(self, texts: Mapping[str, tuple[str, str, str | None]]) -> TextPieces:
        """texts: name of the field -> its announcement, the text (composed here: NFC), the text's span."""
        found = TextPieces([], {}, [])
        for name, (announced, written, span) in texts.items():
            if not written:
                continue
            text = unicodedata.normalize("NFC", written)
            ids = self.users(f" {text}", name)
            found.pieces.extend([(self.ours(announced), None), (ids, span)])
            found.counts[name] = len(ids)
            named = markets.named_in(f"{announced} {text}")
            if named:
                found.named.append((name, text, named))
        return found

    def _split(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def check_market(market: str, *texts: TextPieces) -> None:
    """A prompt must not name another market than its field (Figure 2 of the paper does). Raises `UserError`."""
    own = markets.may_be_named(market)
    for name, text, named in (found for pieces in texts for found in pieces.named):
        if not named <= own:
            raise UserError(
                f"{name}: {text[:80]!r} names the market {', '.join(sorted(named - own))}, but market is {market};"
                " correct one of them or leave the record out"
            )
