"""Columns of dates. Whether the day or the month comes first is decided for all of a file's: `date_columns` has the rules."""

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from countryreward.data.importers.parsing import Parsed

DateStyle = Literal["auto", "iso", "day-first", "month-first"]

DATES = ("period_start", "period_end")
"""Our columns of dates."""
_MONTHS = (
    "january januar jan janvier enero gennaio gen janeiro januari tammikuu styczeń stycznia leden ledna ocak января январь",
    "february februar feb février fév févr febrero febbraio fevereiro fev februari helmikuu luty lutego únor února şubat "
    "февраля февраль",
    "march märz mär mrz mar mars marzo março maart maaliskuu marzec marca březen března mart марта март",
    "april apr avril avr abril abr aprile huhtikuu kwiecień kwietnia duben dubna nisan апреля апрель",
    "may mai mayo maggio mag maio mei maj toukokuu maja květen května mayıs мая май",
    "june juni jun juin junio giugno giu junho kesäkuu czerwiec czerwca červen června haziran июня июнь",
    "july juli jul juillet juil julio luglio lug julho heinäkuu lipiec lipca červenec července temmuz июля июль",
    "august aug août agosto ago augustus augusti elokuu sierpień sierpnia srpen srpna ağustos августа август",
    "september sep sept septembre septiembre settembre set setembro syyskuu wrzesień września září eylül сентября сентябрь",
    "october oktober oct okt octobre octubre ottobre ott outubro out lokakuu październik października říjen října ekim "
    "октября октябрь",
    "november nov novembre noviembre novembro marraskuu listopad listopada listopadu kasım ноября ноябрь",
    "december dezember dec dez décembre déc diciembre dic dicembre dezembro desember joulukuu grudzień grudnia prosinec "
    "prosince aralık декабря декабрь",
)
"""Names of the months, 1 to 12: English, German, French, Spanish, Italian, Portuguese, Dutch, the Nordic languages, Polish,
Czech, Turkish and Russian, short ones where they are common. No word stands for two months."""
_MONTH_OF = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
_WORD = r"([^\W\d_]{3,12})"
_MIDNIGHT = r"(?:[T ]+(?:0?0:00(?::00(?:\.0+)?)?|12:00(?::00)? ?AM))?(?: ?(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?"
_YEAR_FIRST = re.compile(
    rf"(?:([0-9]{{4}})(?:-([0-9]{{1,2}})-|/([0-9]{{1,2}})/|\. ?([0-9]{{1,2}})\. ?|[年년] ?([0-9]{{1,2}})[月월] ?)"
    rf"([0-9]{{1,2}})[.日일]?|"
    rf"((?:19|20)[0-9]{{2}})([0-9]{{2}})([0-9]{{2}})){_MIDNIGHT}"
)
_NUMERIC = re.compile(
    rf"([0-9]{{1,2}})(?:/([0-9]{{1,2}})/|-([0-9]{{1,2}})-|\. ?([0-9]{{1,2}})\. ?)([0-9]{{4}}|[0-9]{{2}}){_MIDNIGHT}"
)
_DAY_NAMED = re.compile(rf"([0-9]{{1,2}})(?:st|nd|rd|th|er|º|\.)?[ -]?(?:de )?{_WORD}\.?,?[ -]?(?:de )?([0-9]{{4}})")
_MONTH_NAMED = re.compile(rf"{_WORD}\.? ?([0-9]{{1,2}})(?:st|nd|rd|th)?,? ([0-9]{{4}})")
_SERIAL = re.compile(r"(4[0-9]{4}|5[0-4][0-9]{3})(?:\.0+)?")  # 2009 to 2050
_SHORT_YEARS = range(10, 40)
"""What two digits can be as a year, of this century; other numbers are days or months."""


class _Day(NamedTuple):
    """A date cell: the day itself, or two numbers of which one is the day and the other the month."""

    day: dt.date | None = None
    first: int = 0
    second: int = 0
    year: int = 0
    dotted: bool = False
    short: bool = False
    """Whether the year has two digits."""


def date_columns(
    texts: Mapping[str, pd.Series], *, style: DateStyle = "auto", option: str = "dates"
) -> dict[str, Parsed]:
    """Days as datetime64[s], of all date columns of one file together.

    Read are 2026-03-01, 2026/3/1, 20260301, `Mar 1, 2026`, `1 March 2026` (months
    in the languages of `_MONTHS`), 2026年3月1日, and day and month as numbers (1.3.2026, 3/1/2026,
    3-1-2026), each also with a time of midnight, and serial numbers of spreadsheets (46082) where all of
    a column are. A year of two digits is one of
    2010 to 2039; it stands last, or first where only that makes dates of all such cells, and `ambiguous_date` where both
    do. style: `iso` takes dates with the year first alone; `day-first` and
    `month-first` say it of day and month as numbers; `auto` infers it from the cells of all the columns: a number above 12 is
    no month. Where none is, points mean day first, and anything else is refused (`ambiguous_date`) unless day and month are the
    same number; where both orders are shown, too. option: what it is called in the configuration.
    """
    factored = {name: pd.factorize(text) for name, text in texts.items()}
    cells: dict[str, list[_Day | None]] = {}
    for name, (_, distinct) in factored.items():
        serial = all(_SERIAL.fullmatch(str(cell)) for cell in distinct)
        cells[name] = [_serial(str(cell)) if serial else _day(str(cell)) for cell in distinct]
    cells = _with_years(cells, style)
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
                if cell.short or (order == "unclear" and cell.first != cell.second):
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
            orders_of = (
                "year first or last" if any(cell and cell.short for cell in cells[name]) else "day first or month first"
            )
            example = f"refused: {example!r} can be {orders_of}; set {option} to day-first or month-first"
        if wrong.any():
            refused["bad_date"] = wrong
        parsed[name] = Parsed(pd.Series(by_row, index=index), refused, f"{name}: {example}" if example else "")
    return parsed


def _with_years(cells: dict[str, list[_Day | None]], style: DateStyle) -> dict[str, list[_Day | None]]:
    """The cells with the whole years of those of two digits; `short` stays where the year can stand first or last."""
    short = [cell for column in cells.values() for cell in column if cell and cell.short]
    if not short:
        return cells
    told = style in ("day-first", "month-first")
    last = all(_last_year(cell) for cell in short)
    first = all(_first_year(cell) for cell in short) and not told

    def whole(cell: _Day | None) -> _Day | None:
        if cell is None or not cell.short or (first and last):
            return cell
        if first:
            return _Day(day=_first_year(cell))
        return cell._replace(year=2000 + cell.year, short=False) if _last_year(cell) else None

    return {name: [whole(cell) for cell in column] for name, column in cells.items()}


def _last_year(cell: _Day) -> dt.date | None:
    """A day on which a cell of two-digit numbers can be, its year last."""
    year = 2000 + cell.year
    days = (_date(year, cell.first, cell.second), _date(year, cell.second, cell.first))
    return (days[0] or days[1]) if cell.year in _SHORT_YEARS else None


def _first_year(cell: _Day) -> dt.date | None:
    """The day of a cell of two-digit numbers, its year first."""
    return _date(2000 + cell.first, cell.second, cell.year) if cell.first in _SHORT_YEARS else None


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
        short = len(match[5]) == 2
        return _Day(first=first, second=second, year=year, dotted=match[4] is not None, short=short)
    if match := _DAY_NAMED.fullmatch(cell):
        day = _date(int(match[3]), month_number(match[2]), int(match[1]))
        return _Day(day=day) if day else None
    if match := _MONTH_NAMED.fullmatch(cell):
        day = _date(int(match[3]), month_number(match[1]), int(match[2]))
        return _Day(day=day) if day else None
    return None


def _serial(text: str) -> _Day:
    return _Day(day=dt.date(1899, 12, 30) + dt.timedelta(days=int(text[:5])))


def month_number(name: str) -> int:
    """1 to 12 for the name of a month, whole or its first letters (`_MONTHS`); 0 for another word."""
    return _MONTH_OF.get(unicodedata.normalize("NFC", name).lower(), 0)


def _date(year: int, month: int, day: int) -> dt.date | None:
    try:
        return dt.date(year, month, day)
    except ValueError:
        return None
