"""Columns of dates. Whether the day or the month comes first is decided for all of a file's: `date_columns` has the rules."""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from countryreward.data.importers.parsing import Parsed

DateStyle = Literal["auto", "iso", "day-first", "month-first"]

DATES = ("period_start", "period_end")
"""Our columns of dates."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAMES = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MIDNIGHT = r"(?:[T ]+(?:0?0:00(?::00(?:\.0+)?)?|12:00(?::00)? ?AM))?(?:Z|[+]00:?00)?"
_YEAR_FIRST = re.compile(
    rf"(?:([0-9]{{4}})(?:-([0-9]{{1,2}})-|/([0-9]{{1,2}})/|\. ?([0-9]{{1,2}})\. ?)([0-9]{{1,2}})\.?|"
    rf"((?:19|20)[0-9]{{2}})([0-9]{{2}})([0-9]{{2}})){_MIDNIGHT}"
)
_NUMERIC = re.compile(
    rf"([0-9]{{1,2}})(?:/([0-9]{{1,2}})/|-([0-9]{{1,2}})-|\. ?([0-9]{{1,2}})\. ?)([0-9]{{4}}){_MIDNIGHT}"
)
_DAY_NAMED = re.compile(r"([0-9]{1,2})(?:st|nd|rd|th|\.)?[ -]?([A-Za-z]{3,9})\.?,?[ -]?([0-9]{4})")
_MONTH_NAMED = re.compile(r"([A-Za-z]{3,9})\.? ?([0-9]{1,2})(?:st|nd|rd|th)?,? ([0-9]{4})")


class _Day(NamedTuple):
    """A date cell: the day itself, or two numbers of which one is the day and the other the month."""

    day: dt.date | None = None
    first: int = 0
    second: int = 0
    year: int = 0
    dotted: bool = False


def date_columns(
    texts: Mapping[str, pd.Series], *, style: DateStyle = "auto", option: str = "dates"
) -> dict[str, Parsed]:
    """Days as datetime64[s], of all date columns of one file together.

    Read are 2026-03-01, 2026/3/1, 20260301, `Mar 1, 2026`, `1 March 2026`, and day and month as numbers (1.3.2026, 3/1/2026,
    3-1-2026), each also with a time of midnight. style: `iso` takes dates with the year first alone; `day-first` and
    `month-first` say it of day and month as numbers; `auto` infers it from the cells of all the columns: a number above 12 is
    no month. Where none is, points mean day first, and anything else is refused (`ambiguous_date`) unless day and month are the
    same number; where both orders are shown, too. option: what it is called in the configuration.
    """
    factored = {name: pd.factorize(text) for name, text in texts.items()}
    cells = {name: [_day(str(cell)) for cell in distinct] for name, (_, distinct) in factored.items()}
    orders = {dotted: _order(cells.values(), style, dotted=dotted) for dotted in (True, False)}
    parsed = {}
    for name, (codes, distinct) in factored.items():
        days: list[dt.date | None] = []
        unclear = np.zeros(len(distinct), dtype=bool)
        example = ""
        for place, cell in enumerate(cells[name]):
            day = cell.day if cell is not None else None
            if cell is not None and day is None and style != "iso":
                order = orders[cell.dotted]
                if order == "unclear" and cell.first != cell.second:
                    unclear[place] = True
                    example = example or str(distinct[place])
                else:
                    month_first = order == "month-first"
                    month, number = (cell.first, cell.second) if month_first else (cell.second, cell.first)
                    day = _date(cell.year, month, number)
                    if style == "auto" and not example and day and cell.first != cell.second:
                        example = f"{distinct[place]!r} is read as {day.isoformat()}"
            if style == "iso" and cell is not None and not _YEAR_FIRST.fullmatch(str(distinct[place]).strip()):
                day = None
            days.append(day)
        refused = {}
        values = np.array([np.datetime64(day, "s") if day else np.datetime64("NaT", "s") for day in days], "M8[s]")
        by_row = np.append(values, np.datetime64("NaT", "s"))[codes]
        index = texts[name].index
        unclear_rows = pd.Series(np.append(unclear, False)[codes], index=index)
        wrong = pd.Series(np.isnat(by_row) & (codes >= 0), index=index) & ~unclear_rows
        if unclear.any():
            refused["ambiguous_date"] = unclear_rows
            example = f"refused: {example!r} can be day first or month first; set {option} to day-first or month-first"
        if wrong.any():
            refused["bad_date"] = wrong
        parsed[name] = Parsed(pd.Series(by_row, index=index), refused, f"{name}: {example}" if example else "")
    return parsed


def _order(columns: Iterable[list[_Day | None]], style: DateStyle, *, dotted: bool) -> str:
    """day-first, month-first or unclear, for dates with points between their numbers or for the others."""
    if style in ("day-first", "month-first"):
        return style
    cells = [cell for column in columns for cell in column if cell and cell.day is None and cell.dotted is dotted]
    cells = [
        cell for cell in cells if _date(cell.year, cell.first, cell.second) or _date(cell.year, cell.second, cell.first)
    ]
    day_first = any(cell.first > 12 for cell in cells)
    month_first = any(cell.second > 12 for cell in cells)
    if day_first and month_first:
        return "unclear"
    if month_first:
        return "month-first"
    return "day-first" if day_first or dotted else "unclear"


def _day(text: str) -> _Day | None:
    cell = re.sub("[\u200e\u200f]", "", re.sub("[\u00a0\u2009\u202f]", " ", text)).strip()
    if match := _YEAR_FIRST.fullmatch(cell):
        parts = [part for part in match.groups() if part]
        day = _date(*(int(part) for part in parts))
        return _Day(day=day) if day else None
    if match := _NUMERIC.fullmatch(cell):
        first, second, year = (int(part) for part in match.groups() if part)
        return _Day(first=first, second=second, year=year, dotted=match[4] is not None)
    if match := _DAY_NAMED.fullmatch(cell):
        day = _date(int(match[3]), _month(match[2]), int(match[1]))
        return _Day(day=day) if day else None
    if match := _MONTH_NAMED.fullmatch(cell):
        day = _date(int(match[3]), _month(match[1]), int(match[2]))
        return _Day(day=day) if day else None
    return None


def _month(name: str) -> int:
    """1 to 12 for an English month, whole or its first letters; 0 for another word."""
    word = name.lower()
    short = "sep" if word == "sept" else word
    if short in _MONTHS:
        return _MONTHS.index(short) + 1
    return _MONTH_NAMES.index(word) + 1 if word in _MONTH_NAMES else 0


def _date(year: int, month: int, day: int) -> dt.date | None:
    try:
        return dt.date(year, month, day)
    except ValueError:
        return None
