"""The observations table: how a creative did in a market over a period.

The checks are shared with the pair importer, whose columns carry `_a` and `_b`.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from countryreward import markets
from countryreward.data.data_config import TableSource
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import KINDS, OBSERVATIONS

NEEDED = {"counts": ("impressions", "clicks"), "rate": ("rate",), "orders": ("orders",), "score": ("score",)}
"""Kind -> the values without which there is no such evidence."""
VALUES = ("impressions", "clicks", "rate", "orders", "score", "score_sd", "score_n")
CONTEXT = ("market", "period_start", "period_end", "kind", "source", "prompt")
SORTED_BY = ["creative_id", "market", "period_start", "period_end"]
_EVER = (-(2**40), 2**40)  # days of an observation without dates: it covers any period


def import_observations(
    source: TableSource, aliases: Mapping[str, str], creatives: set[str], folder: Path, quarantine: Quarantine
) -> dict[str, Any]:
    """Write observations.parquet; returns the counts.

    creatives: the ids that were kept; an observation of any other is refused. Of two rows with one key or a shared day
    the first in the file is kept.
    """
    required = ("creative_id", "market")
    raw = read_table(source, field="observations", known=("creative_id", *CONTEXT, *VALUES), required=required)
    checks = RowChecks(raw.frame, table="observations", key=SORTED_BY, quarantine=quarantine)
    raw.refuse_unreadable(checks)
    creative = raw.column("creative_id")
    checks.refuse(creative.isna(), "missing_value", "creative_id")
    checks.refuse(~creative.isin(creatives), "unknown_creative", "creative_id")
    market = market_column(checks, raw, aliases)
    values = value_columns(checks, raw)
    periods = period_columns(checks, raw)
    frame = pd.concat([creative, market, periods, values, raw.column("source")], axis=1)
    checks.refuse(frame[SORTED_BY].where(checks.good).duplicated() & checks.good, "duplicate_key", "creative_id")
    checks.refuse(overlapping(frame, checks.good), "overlapping_period", "period_start")
    kept = frame.loc[checks.good]
    write_sorted(kept, OBSERVATIONS, folder / "observations.parquet", SORTED_BY)
    return tally("observations", input=len(frame), kept=len(kept), quarantine=quarantine)


def market_column(checks: RowChecks, raw: RawTable, aliases: Mapping[str, str]) -> pd.Series:
    """Codes; refuses unknown markets and rows whose prompt names other markets than the field.

    Raises `UserError` where a code is a country's, and others beside it say that it may mean something else.
    """
    text, prompt = raw.column("market"), raw.column("prompt")
    checks.refuse(text.isna(), "missing_value", "market")
    spellings = text.dropna().unique()
    markets.refuse_doubtful(spellings, aliases)
    code = text.map({spelling: markets.parse(spelling, aliases) for spelling in spellings}).astype("str")
    checks.refuse(code.isna(), "unknown_market", "market")
    if prompt.notna().any():
        named = {spelling: markets.named_in(spelling) for spelling in prompt.dropna().unique()}
        own = {field: {field, *markets.parents(field)} for field in code.dropna().unique()}
        other = [
            isinstance(spelling, str) and bool(named[spelling]) and named[spelling].isdisjoint(own.get(field, ()))
            for spelling, field in zip(prompt.to_numpy(dtype=object), code.to_numpy(dtype=object), strict=True)
        ]
        checks.refuse(pd.Series(other, index=code.index, dtype=bool), "market_mismatch", "prompt")
    return code.rename("market")


def value_columns(checks: RowChecks, raw: RawTable, suffix: str = "") -> pd.DataFrame:
    """`kind` and the seven value columns, checked. suffix: the side's ending in a pair file ("_a")."""
    text = {name: raw.column(name + suffix) for name in VALUES}
    filled = pd.DataFrame(text).notna()
    named = raw.column("kind").str.strip().str.lower()
    checks.refuse(named.notna() & ~named.isin(KINDS), "unknown_kind", "kind")
    # Without a kind, the most informative one whose values are all there.
    complete = {kind: filled[list(NEEDED[kind])].all(axis=1) for kind in KINDS}
    kind = named.copy()
    for candidate in KINDS:
        kind = kind.mask(kind.isna() & complete[candidate], candidate)
    only_half = filled["impressions"] ^ filled["clicks"]
    for name in ("impressions", "clicks"):
        checks.refuse(kind.isna() & only_half & ~filled[name], "missing_value", name + suffix)
    checks.refuse(kind.isna(), "missing_value", "kind" if not suffix else f"value{suffix}")
    for candidate, names in NEEDED.items():
        for name in names:
            checks.refuse((named == candidate) & ~filled[name], "missing_value", name + suffix)
    parsed = {name: raw.numbers(name + suffix) for name in VALUES}
    for name, column in parsed.items():
        for reason, rows in column.refused.items():
            checks.refuse(rows, reason, name + suffix)
    value = {name: column.values for name, column in parsed.items()}
    for name in VALUES:
        if name != "score":
            checks.refuse(value[name] < 0, "negative_value", name + suffix)
    checks.refuse(value["impressions"] == 0, "zero_impressions", "impressions" + suffix)
    checks.refuse(value["clicks"] > value["impressions"], "clicks_exceed_impressions", "clicks" + suffix)
    return pd.DataFrame({"kind": kind, **value})


def period_columns(checks: RowChecks, raw: RawTable) -> pd.DataFrame:
    """`period_start` and `period_end`, days included; both or neither."""
    names = ("period_start", "period_end")
    parsed = {name: raw.days(name) for name in names}
    for name in names:
        for reason, rows in parsed[name].refused.items():
            checks.refuse(rows, reason, name)
    start, end = (parsed[name].values for name in names)
    checks.refuse(start.isna() & end.notna(), "missing_value", "period_start")
    checks.refuse(end.isna() & start.notna(), "missing_value", "period_end")
    checks.refuse(start > end, "period_reversed", "period_start")
    return pd.DataFrame({"period_start": start, "period_end": end})


def overlapping(frame: pd.DataFrame, good: pd.Series) -> pd.Series:
    """Good rows that share a day with an earlier good row of the same creative and market, which was itself kept.

    An observation without dates covers any period. Sorting finds the few series with an overlap at all; only those are
    walked in file order.
    """
    rows = frame.loc[good]
    series = rows.groupby(["creative_id", "market"], sort=False).ngroup().to_numpy()
    start, end = days(rows)
    suspicious = suspicious_series(series, start, end)
    refused = pd.Series(False, index=frame.index)
    periods_of: dict[int, KeptPeriods] = {}
    for position in np.flatnonzero(np.isin(series, suspicious)):
        periods = periods_of.setdefault(int(series[position]), KeptPeriods())
        if periods.shares_a_day(int(start[position]), int(end[position])):
            refused.iloc[int(rows.index[int(position)])] = True
        else:
            periods.keep(int(start[position]), int(end[position]))
    return refused


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


def side_names(suffixes: Sequence[str] = ("_a", "_b")) -> list[str]:
    """The value columns of a pair file: impressions_a, impressions_b, ..."""
    return [name + suffix for name in VALUES for suffix in suffixes]
