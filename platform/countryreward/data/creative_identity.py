"""What a creative is, in every room: one picture with one text, within a product.

Two rows of the creatives table with the same picture (by the bytes of the file) and the same words are two ads of one creative,
whose evidence is pooled. One picture with two headlines is two creatives.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable

import pandas as pd


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
    words = creatives["copy_hash"].where(creatives["copy_hash"].notna(), None).to_numpy(object)
    keys = [creative_key(image, text) for image, text in zip(creatives["content_hash"], words, strict=True)]
    keyed = creatives.assign(key=pd.Series(keys, index=creatives.index, dtype="str"))
    return keyed.assign(canonical=keyed.groupby(["product_id", "key"])["creative_id"].transform("min"))
