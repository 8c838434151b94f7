"""What cells mean, column by column: ids, words for an empty cell, texts with parts.

Numbers and dates are in `number_columns.py` and `date_columns.py`. Every parser says which rows it could not
read and why; none raises for a cell.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

ATTRIBUTE = "attribute:"
"""Beginning of the name of a column that is one attribute of a product."""
MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "#n/a", "-", "--", "<na>", "nat", r"\n", "–", "—"})
"""Words, in small letters, that mean an empty cell."""
_NAMES = ("image_uri", "image_a", "image_b", "market")  # texts in which NA may stand for itself, beside ids
EXACT = 2.0**53
"""Above it a float64 skips whole numbers."""
_FLOAT = r"-?[0-9]+\.0+"
Cell = TypeVar("Cell")


class Parsed(NamedTuple):
    """A column's values, missing where the cell is missing or refused."""

    values: pd.Series
    refused: dict[str, pd.Series]
    """Reason of `quarantine.REASONS` -> the rows that are refused for it."""
    decided: str = ""
    """How the column was read, or why it could not be, in a sentence; empty where there was nothing to decide."""


def matches(text: pd.Series, pattern: str) -> np.ndarray:
    """Which cells the whole pattern matches; a missing cell it does not."""
    return text.str.fullmatch(pattern).fillna(False).to_numpy(dtype=bool, copy=True)


def is_id(column: str) -> bool:
    """Whether a column holds ids."""
    return column.endswith("_id") or column in ("creative_1", "creative_2")


def missing_words(column: str) -> frozenset[str]:
    """The words, in small letters, that mean an empty cell in one of our columns.

    In ids, markets and names of images every word stands for itself (NA is Namibia), in titles NA does.
    """
    if is_id(column) or column in _NAMES:
        return frozenset({""})
    return MISSING_WORDS - {"na"} if column == "title" else MISSING_WORDS


def is_missing(text: str, words: Collection[str] = MISSING_WORDS) -> bool:
    """Whether a cell's text means that it is empty."""
    return text.strip().lower() in words


def composed(text: str) -> str:
    """Text in composed form (NFC), the one form in which texts are compared."""
    return unicodedata.normalize("NFC", text)


_ROUNDED = r"[+-]?[0-9]+(?:[.,][0-9]+)?[eE]\+[0-9]+|[+-]?[0-9]\.[0-9]+[eE][0-9]+"


def is_rounded(text: str) -> bool:
    """Whether an id is written in exponent notation, which drops its last digits."""
    return re.fullmatch(_ROUNDED, text) is not None


def exact_below(kind: np.dtype) -> float:
    """The power of two from which on a type of floats may stand for another whole number: 2^24 for float32, 2^53 for float64."""
    return 2.0 ** (np.finfo(kind).nmant + 1)


def known_ids(text: pd.Series, known: Collection[str], *, bare: bool) -> pd.Series:
    """Ids of one table as another writes them, so that .0 stands at the ends of both or of neither.

    known: the other table's. bare: whether .0 was taken off here. Such an id that is known with the .0 is that one; so is one
    with it that is known without it alone; all others stay.
    """
    other = {}
    for cell in text.dropna().unique():
        if bare and f"{cell}.0" in known and re.fullmatch("-?[0-9]+", cell):
            other[cell] = f"{cell}.0"
        elif cell not in known and re.fullmatch(_FLOAT, cell) and cell.partition(".")[0] in known:
            other[cell] = cell.partition(".")[0]
    return text.replace(other) if other else text


def id_column(text: pd.Series) -> tuple[pd.Series, pd.Series, bool]:
    """Ids as they are compared, the rows whose id has lost digits, and whether .0 was taken off.

    Lost are digits of ids in exponent notation (1.2E+17), of whole floats from 2^53 on, and of a column in which every id of
    more than 15 digits ends in zeros from the 16th on, as spreadsheets leave it. A column in which every id ends in .0 was once
    numbers: the .0 goes. ="0123", as some exports write an id for spreadsheets, is 0123. Everything else stays, as leading zeros.
    """
    codes, distinct = pd.factorize(text)
    cells = pd.Series(distinct, dtype="str")
    cells = cells.str.replace('^="([^"]*)"$', r"\1", regex=True)
    lost = matches(cells, _ROUNDED)
    floats = matches(cells, _FLOAT)
    large = matches(cells, r"-?[0-9]{16,}\.0+")
    bare = bool(floats.any() and (floats | lost).all())
    lost |= np.array(
        [bool(big) and abs(float(cell)) >= EXACT for cell, big in zip(cells, large, strict=True)], dtype=bool
    )
    if bare:
        cells = cells.where(~pd.Series(floats), cells.str.replace(r"\.0+$", "", regex=True))
    long = matches(cells, "[0-9]{16,}")
    behind = "".join(cell[15:] for cell in cells[long])
    if len(behind) >= 6 and not behind.strip("0"):
        lost |= long
    filled = codes >= 0
    values = pd.Series(np.array([*cells, None], dtype=object)[codes], index=text.index, dtype="str")
    return values, pd.Series(np.append(lost, False)[codes] & filled, index=text.index), bare


def attributes(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """dict[str, str] per row from a JSON object or key=value;key=value, {} when missing; and the unreadable rows."""
    return _each(text, read_attributes, dict)


def tags(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """list[str] per row from a JSON list or a;b, [] when missing; and the unreadable rows."""
    return _each(text, read_tags, list)


def read_attributes(cell: str) -> dict[str, str] | None:
    """A cell's attributes, from a JSON object or key=value;key=value; None where it is neither."""
    if cell.lstrip().startswith("{"):
        content = _json(cell)
        if not isinstance(content, dict):
            return None
        return {composed(name): composed(plain_text(value)) for name, value in content.items() if value is not None}
    pairs = [part.partition("=") for part in cell.split(";") if part.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        return None
    return {name.strip(): value.strip() for name, _, value in pairs}


def read_tags(cell: str) -> list[str] | None:
    """A cell's tags, from a JSON list or a;b; None where it is a broken list."""
    if cell.lstrip().startswith("["):
        content = _json(cell)
        return (
            [composed(plain_text(value)) for value in content if value is not None]
            if isinstance(content, list)
            else None
        )
    return [part.strip() for part in cell.split(";") if part.strip()]


def plain_text(value: object) -> str:
    """A JSON value as text: a text itself, a whole float without .0, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def read_json(text: str) -> object:
    """A JSON text, of which NaN is a missing value. Raises ValueError for what is none, or holds half a surrogate pair."""
    content = json.loads(text, parse_constant=lambda word: None if word == "NaN" else float(word))
    if "\\u" in text:  # half a surrogate pair is JSON, but no text
        json.dumps(content, ensure_ascii=False).encode()
    return content


def _json(cell: str) -> object:
    try:
        return read_json(cell)
    except (ValueError, RecursionError):
        return None


def _each(
    text: pd.Series, parse: Callable[[str], Cell | None], empty: Callable[[], Cell]
) -> tuple[pd.Series, pd.Series]:
    cells = [empty() if not isinstance(cell, str) else parse(cell) for cell in text.to_numpy(dtype=object)]
    bad = pd.Series([cell is None for cell in cells], index=text.index, dtype=bool)
    return pd.Series(cells, index=text.index, dtype=object), bad
