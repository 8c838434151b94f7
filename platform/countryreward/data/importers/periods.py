"""Periods of observations: days as numbers, and rows of one series that share a day."""

import datetime as dt
import re
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import pandas as pd

from countryreward.data.importers.date_columns import date_columns, month_number
from countryreward.data.importers.strata import OTHERWISE, PERIOD_ENDS, PERIODS, plain, read_cells
from countryreward.data.importers.table_files import RawTable

_EVER = (-(2**24), 2**24)  # days of an observation without dates: it covers any period


def days(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """First and last day of each row since 1970; rows without dates get days before and after any other."""
    bounds = []
    for name, without in zip(("period_start", "period_end"), _EVER, strict=True):
        day = rows[name].to_numpy().astype("datetime64[D]")
        bounds.append(np.where(np.isnat(day), without, day.astype(np.int64)))
    return bounds[0], bounds[1]


def suspicious_series(series: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The series (creative and market, numbered) in which any two periods share a day."""
    order = np.lexsort((start, series))
    ordered = series[order]
    latest = pd.Series(end[order]).groupby(ordered).cummax().to_numpy()
    shares = (ordered[1:] == ordered[:-1]) & (start[order][1:] <= latest[:-1])
    return np.unique(ordered[1:][shares])


class KeptPeriods:
    """The disjoint periods of one series that have been kept."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def shares_a_day(self, start: int, end: int) -> bool:
        """Whether a kept period shares a day with start..end, both included."""
        position = bisect_left(self.ends, start)  # the first that ends on or after the start
        return position < len(self.starts) and self.starts[position] <= end

    def keep(self, start: int, end: int) -> None:
        """Keep a period that shares no day with the others."""
        position = bisect_left(self.starts, start)
        self.starts.insert(position, start)
        self.ends.insert(position, end)


class FoundPeriods(NamedTuple):
    """Periods from a column that nobody mapped."""

    headers: list[str]
    cells: pd.Series
    frame: pd.DataFrame
    """period_start, period_end"""
    refused: dict[str, pd.Series]
    """As in `Parsed`."""
    decided: str
    """As in `Parsed`."""


def found_periods(raw: RawTable) -> FoundPeriods | None:
    """Periods from a column whose header is one of days, weeks or months (`PERIODS`) and most of whose cells are dates.

    The finest such column counts; after them two columns of first and last days (`PERIOD_ENDS`). A cell is the first day (of a
    month any day, 2026-03, 202603 or March 2026; of a week also 2026-W10), or a range that says both days: 2026-03-02 -
    2026-03-08. Where there are only columns whose cells are no dates, the first refuses its rows, unless its header also means
    something else (`OTHERWISE`), it says the same in all rows, or words such as those of weekdays.
    """
    header_of = {plain(name): name for name in raw.others}
    both = [
        (header_of[one], header_of[other]) for one, other in PERIOD_ENDS.items() if {one, other} <= header_of.keys()
    ]
    named = [name for name in raw.others if plain(name) in PERIODS]
    named.sort(key=lambda name: list(PERIODS).index(plain(name)))
    unreadable = None
    for header, end_header in [*((name, "") for name in named), *both]:
        cells, unit = read_cells(raw, header), PERIODS.get(plain(header), "day")
        ends = cells.str.extract(r"^(.*\S)(?:\s+(?:-|to)\s+|\s*[–—~]\s*)(\S.*)$")
        first = _first_days(ends[0].fillna(cells), unit)
        second = read_cells(raw, end_header) if end_header else ends[1]
        texts = {"first day": first, "last day": second}
        start, end = date_columns(texts, style=raw.source.dates, option=f"{raw.field}.dates").values()
        refused = {reason: rows.copy() for reason, rows in start.refused.items()}
        for reason, rows in end.refused.items():
            refused[reason] = refused.get(reason, False) | rows
        starts = start.values
        if unit == "month":
            starts = starts.where(second.notna(), starts - pd.to_timedelta(starts.dt.day - 1, unit="D"))
        last = {"day": starts, "week": starts + pd.Timedelta(days=6), "month": starts + pd.offsets.MonthEnd(0)}[unit]
        frame = pd.DataFrame({"period_start": starts, "period_end": end.values.fillna(last)})
        headers = [header, end_header] if end_header else [header]
        found = FoundPeriods(headers, cells, frame, refused, f"{header}, {start.decided}" if start.decided else "")
        if 2 * refused.get("bad_date", pd.Series(False)).sum() < cells.notna().sum():
            return found
        if unreadable is None and plain(header) not in OTHERWISE and cells.nunique() > 1 and _means_dates(cells):
            said = f"{header}: most cells are no dates that can be read, such as {cells.dropna().iloc[0]!r}; write YYYY-MM-DD"
            nothing = pd.DataFrame({name: pd.Series(pd.NaT, cells.index, "datetime64[s]") for name in frame})
            unreadable = FoundPeriods(headers, cells, nothing, {"bad_date": cells.notna()}, said)
    return unreadable


def _first_days(cells: pd.Series, unit: str) -> pd.Series:
    """Cells of months and weeks, whose first days are written as YYYY-MM-DD; other cells as they are."""
    if unit == "day":
        return cells
    read = _first_of_month if unit == "month" else _first_of_week
    return cells.map({cell: read(cell) or cell for cell in cells.dropna().unique()}).astype("str")


def _first_of_month(cell: str) -> str:
    """2026-03, 202603, 3/2026, March 2026, Mar-26, 2026年3月 as 2026-03-01; empty for anything else."""
    if match := re.fullmatch(r"(20[0-9]{2})(?:([0-9]{2})|[-/. ]([0-9]{1,2})|[年년] ?([0-9]{1,2})[月월])", cell):
        year, month = int(match[1]), int(match[2] or match[3] or match[4])
    elif match := re.fullmatch(r"([0-9]{1,2})[-/. ](20[0-9]{2})", cell):
        year, month = int(match[2]), int(match[1])
    elif match := re.fullmatch(r"([^\W\d_]{3,12})\.?,?[ -](?:de )?(20[0-9]{2}|[1-3][0-9])", cell):
        year, month = int(match[2]) % 100 + 2000, month_number(match[1])
    else:
        return ""
    return f"{year}-{month:02}-01"


def _first_of_week(cell: str) -> str:
    """2026-W10 as 2026-03-02; empty for anything else, and for weeks that the year has not."""
    match = re.fullmatch(r"(20[0-9]{2})[- ]?W([0-9]{1,2})", cell)
    try:
        return dt.date.fromisocalendar(int(match[1]), int(match[2]), 1).isoformat() if match else ""
    except ValueError:
        return ""


def _means_dates(cells: pd.Series) -> bool:
    """Whether cells that are no dates say times nevertheless: they have digits, or are months of no year."""
    words = cells.dropna().unique()
    return any(re.search(r"\d", word) or month_number(word) for word in words)


def overlapping(frame: pd.DataFrame, good: pd.Series, series_columns: list[str]) -> pd.Series:
    """Good rows that share a day with an earlier good row of the same series, which was itself kept.

    An observation without dates covers any period. Sorting finds the few series with an overlap at all; only those are
    walked in file order.
    """
    rows = frame.loc[good]
    series = codes(rows, series_columns).to_numpy()
    start, end = days(rows)
    suspicious = suspicious_series(series, start, end)
    refused = pd.Series(False, index=frame.index)
    periods_of: dict[int, KeptPeriods] = {}
    for position in np.flatnonzero(np.isin(series, suspicious)):
        periods = periods_of.setdefault(int(series[position]), KeptPeriods())
        if periods.shares_a_day(int(start[position]), int(end[position])):
            refused.loc[rows.index[int(position)]] = True
        else:
            periods.keep(int(start[position]), int(end[position]))
    return refused


def codes(frame: pd.DataFrame, columns: list) -> pd.Series:
    """A number for each combination of the columns' values, missing ones among them."""
    return frame.groupby(columns, sort=False, dropna=False).ngroup()
