"""What a creative is, in every room: one picture with one text, within a product.

Two rows of the creatives table with the same picture (by the bytes of the file) and the same words are two ads of one creative,
whose evidence is pooled. One picture with two headlines is two creatives.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from countryreward.data.tables import COPY, CREATIVES
from countryreward.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The words of an ad, in composed form (NFC) with white space joined; a text without words is None."""

    headline: str | None = None
    body: str | None = None
    call_to_action: str | None = None
    tags: tuple[str, ...] = ()
    """Of the ad, not of its product; any list of texts is taken."""
    __pydantic_config__: ClassVar = {"extra": "forbid"}  # where JSON becomes one, such as in a form

    def __post_init__(self) -> None:
        """Raises `UserError` for what is no text."""
        if isinstance(self.tags, str) or not isinstance(self.tags, Iterable):
            raise UserError(f"tags: {self.tags!r} is no list of texts; write them as a list")
        object.__setattr__(self, "tags", tuple(text for tag in self.tags if (text := _composed(tag, "tags"))))
        for name in ("headline", "body", "call_to_action"):
            object.__setattr__(self, name, _composed(getattr(self, name), name) or None)

    def __bool__(self) -> bool:
        """Whether there are any words."""
        return bool(self.headline or self.body or self.call_to_action or self.tags)

    @property
    def hash(self) -> str | None:
        """As `copy_hash`: equal where the words are."""
        return copy_hash(self.headline, self.body, self.call_to_action, self.tags)


def _composed(text: Any, name: str) -> str:
    """Raises `UserError` for what is no text, or holds a character that is no Unicode (a lone surrogate)."""
    if not isinstance(text, str | None):
        raise UserError(f"{name}: {text!r} is no text; write it as text")
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: {text!r} holds a character that is no Unicode; write UTF-8") from None
    return " ".join(unicodedata.normalize("NFC", text or "").split())


COPY_TYPE = pa.struct([CREATIVES.field(name) for name in COPY])
"""A `Copy` in a Parquet file; null: none."""


def stored_copy(words: Mapping[Any, Any] | None) -> Copy | None:
    """words: cells by the names of `tables.COPY`, or null, as a table gives them back; what is no text and no list is missing."""
    given: dict[str, Any] = {
        name: cell for name, cell in (words or {}).items() if isinstance(cell, str | list | tuple | np.ndarray)
    }
    return Copy(**given) or None


def copies_of(creatives: pd.DataFrame) -> dict[str, Copy]:
    """creative_id -> its words, of the rows of the creatives table (`tables.CREATIVES`) that have some."""
    worded = creatives.loc[creatives["copy_hash"].notna(), ["creative_id", *COPY]]
    found = {row.pop("creative_id"): stored_copy(row) for row in worded.to_dict("records")}
    return {creative_id: copy for creative_id, copy in found.items() if copy}


def copy_hash(
    headline: str | None, body: str | None, call_to_action: str | None, tags: Iterable[str] = ()
) -> str | None:
    """SHA-256, 16 hex digits, of an ad's words in composed form (NFC) with white space joined; None where there are none."""
    words = [" ".join(unicodedata.normalize("NFC", text or "").split()) for text in (headline, body, call_to_action)]
    listed = [text for tag in tags if (text := " ".join(unicodedata.normalize("NFC", tag).split()))]
    if not any(words) and not listed:
        return None
    return hashlib.sha256(json.dumps([*words, listed], ensure_ascii=False).encode()).hexdigest()[:16]


def creative_key(content_hash: str, copy_hash: str | None) -> str:
    """What tells a creative from the others of its product: the picture's hash, and the words' where there are some."""
    return f"{content_hash}+{copy_hash}" if copy_hash else content_hash


def with_keys(creatives: pd.DataFrame) -> pd.DataFrame:
    """The creatives table (`tables.CREATIVES`) with `key` (`creative_key`) and `canonical`: of a product's rows with one key the
    smallest creative_id, which stands for all of them. A table without the column copy_hash has no words."""
    if "copy_hash" not in creatives:
        creatives = creatives.assign(copy_hash=None)
    words = ("+" + creatives["copy_hash"].astype("str")).fillna("")
    keyed = creatives.assign(key=creatives["content_hash"].astype("str") + words)
    return keyed.assign(canonical=keyed.groupby(["product_id", "key"])["creative_id"].transform("min"))
