"""Periods of observations: days as numbers, and rows of one series that share a day."""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import pandas as pd

from countryreward.data.importers.date_columns import date_columns
from countryreward.data.importers.strata import PERIOD_ENDS, PERIODS, plain, read_cells
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
    month also 2026-03 or March 2026), or a range that says both days: 2026-03-02 - 2026-03-08.
    """
    header_of = {plain(name): name for name in raw.others}
    both = [
        (header_of[one], header_of[other]) for one, other in PERIOD_ENDS.items() if {one, other} <= header_of.keys()
    ]
    named = [name for name in raw.others if plain(name) in PERIODS]
    named.sort(key=lambda name: list(PERIODS).index(plain(name)))
    for header, end_header in [*((name, "") for name in named), *both]:
        cells, unit = read_cells(raw, header), PERIODS.get(plain(header), "day")
        ends = cells.str.extract(r"^(.*\S)(?:\s+(?:-|to)\s+|\s*[–—~]\s*)(\S.*)$")
        first = ends[0].fillna(cells)
        second = read_cells(raw, end_header) if end_header else ends[1]
        if unit == "month":
            first = first.str.replace(r"^([0-9]{4}-[0-9]{1,2})$", r"\1-01", regex=True)
            first = first.str.replace(r"^([A-Za-z]{3,9}\.?,? ?[0-9]{4})$", r"1 \1", regex=True)
        texts = {"first day": first, "last day": second}
        start, end = date_columns(texts, style=raw.source.dates, option=f"{raw.field}.dates").values()
        refused = {reason: rows.copy() for reason, rows in start.refused.items()}
        for reason, rows in end.refused.items():
            refused[reason] = refused.get(reason, False) | rows
        if 2 * refused.get("bad_date", pd.Series(False)).sum() >= cells.notna().sum():
            continue
        last = {
            "day": start.values,
            "week": start.values + pd.Timedelta(days=6),
            "month": start.values + pd.offsets.MonthEnd(0),
        }[unit]
        frame = pd.DataFrame({"period_start": start.values, "period_end": end.values.fillna(last)})
        headers = [header, end_header] if end_header else [header]
        return FoundPeriods(headers, cells, frame, refused, f"{header}, {start.decided}" if start.decided else "")
    return None


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
