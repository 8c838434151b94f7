"""Columns of text to columns of values. Every parser says which rows it could not read; none raises for a cell."""

import json
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NOT_FINITE = r"[+-]?(?:nan|inf|infinity)"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ]00:00(?::00(?:\.0+)?)?(?:Z|\+00:00)?)?"
_EXACT = 2.0**53  # above it a float64 skips whole numbers
Cell = TypeVar("Cell")


class Parsed(NamedTuple):
    """values: missing where the cell is missing or bad. The masks are false for missing cells."""

    values: pd.Series
    wrong_type: pd.Series
    not_finite: pd.Series


def numbers(text: pd.Series) -> Parsed:
    """float64 from text such as 12, 0.5, 1.6e-2; NaN and infinity (also by overflow) are told apart from other text."""
    stripped = text.str.strip()
    is_number = _matches(stripped, _NUMBER)
    not_finite = _matches(stripped.str.lower(), _NOT_FINITE)
    values = np.full(len(text), np.nan)
    values[is_number] = stripped[is_number].to_numpy(dtype=object).astype(np.float64)
    not_finite |= np.isinf(values)
    values[~np.isfinite(values)] = np.nan
    return Parsed(pd.Series(values, index=text.index), text.notna() & ~is_number & ~not_finite, not_finite)


def integers(text: pd.Series) -> Parsed:
    """Int64 from text; 5.0 is an integer, 5.5 and what float64 cannot hold exactly are of the wrong type."""
    parsed = numbers(text)
    whole = parsed.values.isna() | ((parsed.values % 1 == 0) & (parsed.values.abs() <= _EXACT))
    return Parsed(parsed.values.where(whole).astype("Int64"), parsed.wrong_type | ~whole, parsed.not_finite)


def dates(text: pd.Series) -> Parsed:
    """Days from YYYY-MM-DD, or a time stamp at midnight, as datetime64[s]; `wrong_type` marks what is no date."""
    stripped = text.str.strip()
    is_date = _matches(stripped, _DATE)
    days = pd.to_datetime(stripped.str[:10].where(is_date), format="%Y-%m-%d", errors="coerce").astype("datetime64[s]")
    return Parsed(days, text.notna() & days.isna(), pd.Series(False, index=text.index))


def attributes(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """dict[str, str] per row from a JSON object or key=value;key=value, {} when missing; and the unreadable rows."""
    return _each(text, _attributes, dict)


def tags(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """list[str] per row from a JSON list or a;b, [] when missing; and the unreadable rows."""
    return _each(text, _tags, list)


def _matches(text: pd.Series, pattern: str) -> pd.Series:
    return text.str.fullmatch(pattern).fillna(False).astype(bool)


def _each(
    text: pd.Series, parse: Callable[[str], Cell | None], empty: Callable[[], Cell]
) -> tuple[pd.Series, pd.Series]:
    cells = [empty() if not isinstance(cell, str) else parse(cell) for cell in text.to_numpy(dtype=object)]
    bad = pd.Series([cell is None for cell in cells], index=text.index, dtype=bool)
    return pd.Series(cells, index=text.index, dtype=object), bad


def _attributes(cell: str) -> dict[str, str] | None:
    if cell.lstrip().startswith("{"):
        content = _json(cell)
        if not isinstance(content, dict):
            return None
        return {name: _plain(value) for name, value in content.items() if value is not None}
    pairs = [part.partition("=") for part in cell.split(";") if part.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        return None
    return {name.strip(): value.strip() for name, _, value in pairs}


def _tags(cell: str) -> list[str] | None:
    if cell.lstrip().startswith("["):
        content = _json(cell)
        return [_plain(value) for value in content if value is not None] if isinstance(content, list) else None
    return [part.strip() for part in cell.split(";") if part.strip()]


def _json(cell: str) -> object:
    try:
        content = json.loads(cell)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
        return content
    except (ValueError, RecursionError):
        return None


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
