"""The observations table: how a creative did in a market over a period.

The checks are shared with the pair importer, whose columns carry `_a` and `_b`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from countryreward import markets
from countryreward.data.data_config import ImportConfig
from countryreward.data.importers.periods import FoundPeriods, codes, found_periods, overlapping
from countryreward.data.importers.row_parts import SERIES, add_parts, refuse_totals
from countryreward.data.importers.strata import is_total, plain, read_strata, without_settings
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import DELIVERIES, KINDS, OBSERVATIONS, STRATA
from countryreward.progress import OpenBar, no_bar

NEEDED = {"counts": ("impressions", "clicks"), "rate": ("rate",), "orders": ("orders",), "score": ("score",)}
"""Kind -> the values without which there is no such evidence."""
USED = {
    **NEEDED,
    "counts": ("impressions", "clicks", "conversions", "value"),
    "score": ("score", "score_sd", "score_n"),
}
"""Kind -> the values that are read and kept; what else stands in the row is neither."""
VALUES = ("impressions", "clicks", "conversions", "value", "rate", "orders", "score", "score_sd", "score_n")
CONTEXT = ("market", "period_start", "period_end", "kind", *STRATA, "delivery", "source", "prompt")
SORTED_BY = ["creative_id", "market", "period_start", "period_end", "kind", *STRATA, "delivery"]
DELIVERY_WORDS = {
    **{name: name for name in DELIVERIES},
    **dict.fromkeys(("randomized", "random", "a/b test", "ab test", "a/b", "split test", "experiment"), "randomised"),
    **dict.fromkeys(
        ("rotate", "rotation", "even rotation", "rotate evenly", "rotate ads evenly", "rotate indefinitely"), "rotated"
    ),
    "do not optimize: rotate ads indefinitely": "rotated",
    **dict.fromkeys(("optimized", "optimise", "optimize", "automatic", "auto", "platform"), "optimised"),
    **dict.fromkeys(("optimize for clicks", "optimize for conversions"), "optimised"),
    "optimize: prefer best performing ads": "optimised",
}
"""How files say who chose what a customer saw (lower case) -> one of `DELIVERIES`."""


class Values(NamedTuple):
    """Checked values of a table's rows."""

    frame: pd.DataFrame
    """kind and the columns of `VALUES`; missing where the row's kind does not use them."""
    not_used: dict[str, int]
    """Column -> filled cells that the kinds of their rows do not use."""
    not_told: dict[str, int]
    """Clicks, conversions and value -> rows with impressions in which their cell is empty; without clicks the row is refused."""


class Parts(NamedTuple):
    """Which part of a creative's showing each row is."""

    frame: pd.DataFrame
    """period_start, period_end and the strata."""
    recognised: dict[str, list[str]]
    """`period` or a stratum -> the file's headers that tell it, of those that nobody mapped."""
    decisions: list[str]
    """How the file was read."""

    @property
    def headers(self) -> set[str]:
        """The recognised headers."""
        return {name for names in self.recognised.values() for name in names}


def import_observations(
    config: ImportConfig, creatives: set[str], folder: Path, quarantine: Quarantine, bar: OpenBar = no_bar
) -> dict[str, Any]:
    """Write observations.parquet; returns the counts, with `decisions` (how the file was read), `recognised` (headers of strata
    and days that nobody mapped) and `not_used` (filled cells that their rows' kinds do not use) where there are any.

    creatives: the ids that were kept; an observation of any other is refused. Rows of one key are added up (`add_parts`). Of two
    rows of one series that share a day the first in the file is kept.
    """
    known = ("creative_id", *CONTEXT, *VALUES)
    required = ("creative_id", "market")
    with bar("rows read") as progress:
        raw = read_table(config.observations, field="observations", known=known, required=required, progress=progress)
    raw = raw.with_known({"creative_id": creatives})
    checks = RowChecks(
        raw.frame,
        table="observations",
        key=["creative_id", "market", "period_start", "period_end"],
        quarantine=quarantine,
    )
    raw.refuse_unreadable(checks)
    creative = raw.column("creative_id")
    unknown = ~creative.isin(creatives)
    checks.refuse(unknown & is_total(creative), "total_row", "creative_id")
    checks.refuse(creative.isna(), "missing_value", "creative_id")
    checks.refuse(unknown, "unknown_creative", "creative_id")
    market = market_column(checks, raw, config.market_aliases)
    values = value_columns(checks, raw, empty_clicks=config.empty_clicks)
    delivery = delivery_column(checks, raw, config.delivery)
    row = pd.concat([creative, market, values.frame], axis=1)
    of = pq.read_table(folder / "creatives.parquet", columns=["creative_id", "product_id"]).to_pandas()
    parts = part_columns(checks, raw, row, of.set_index("creative_id")["product_id"])
    frame = pd.concat([row, parts.frame, delivery, raw.column("source")], axis=1)
    added = add_parts(checks, frame, raw, parts.headers)
    together = int(checks.good.sum()) - len(added)
    shared = overlapping(added, pd.Series(True, index=added.index), SERIES)
    kept = added[~shared]
    checks.refuse(shared.reindex(frame.index, fill_value=False), "overlapping_period", "period_start")
    write_sorted(kept, OBSERVATIONS, folder / "observations.parquet", SORTED_BY)
    counts = tally(
        "observations",
        input=len(frame),
        kept=len(kept),
        quarantine=quarantine,
        dropped={"added_to_another_row": together} if together else None,
    )
    facts = {
        "decisions": parts.decisions,
        "recognised": parts.recognised,
        "not_used": values.not_used,
        "not_told": values.not_told,
    }
    return counts | {name: found for name, found in facts.items() if found}


def market_column(checks: RowChecks, raw: RawTable, aliases: Mapping[str, str]) -> pd.Series:
    """Codes; refuses unknown markets and rows whose prompt names other markets than the field.

    Raises `UserError` where a code is a country's, and others beside it say that it may mean something else.
    """
    text, prompt = raw.column("market"), raw.column("prompt")
    checks.refuse(text.isna(), "missing_value", "market")
    spellings = text.dropna().unique()
    markets.refuse_doubtful(spellings, aliases)
    code = text.map({spelling: markets.parse(spelling, aliases) for spelling in spellings}).astype("str")
    checks.refuse(code.isna() & is_total(text), "total_row", "market")
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


def value_columns(
    checks: RowChecks, raw: RawTable, suffix: str = "", empty_clicks: Literal["refuse", "zero"] = "refuse"
) -> Values:
    """Kind and values of the rows, checked. suffix: the side's ending in a pair file ("_a").

    Only what a row's kind uses is read: a bad rate beside good counts costs nothing. empty_clicks: `zero` takes an empty cell of
    clicks, conversions or value beside impressions for none, unless a rate above zero says otherwise.
    """
    filled = pd.DataFrame({name: raw.column(name + suffix).notna() for name in VALUES})
    parsed = {name: raw.numbers(name + suffix) for name in VALUES}
    value = {name: column.values for name, column in parsed.items()}
    named = raw.column("kind").str.strip().str.lower()
    checks.refuse(named.notna() & ~named.isin(KINDS), "unknown_kind", "kind")
    if empty_clicks == "zero":
        counts = filled["impressions"] & (named.isna() | (named == "counts"))
        counts &= filled["clicks"] | ~filled["rate"] | (value["rate"] == 0)
        for name in (name for name in ("clicks", "conversions", "value") if name + suffix in raw.frame):
            none = counts & ~filled[name]
            value[name] = value[name].mask(none, 0)
            filled[name] |= none
    # Without a kind, the most informative one whose values are all there.
    complete = {kind: filled[list(NEEDED[kind])].all(axis=1) for kind in KINDS}
    kind = named.copy()
    for candidate in KINDS:
        kind = kind.mask(kind.isna() & complete[candidate], candidate)
    only_impressions = filled["impressions"] & ~filled["clicks"]
    said = pd.Series(
        "empty beside impressions; where that means none, set source.empty_clicks to zero", checks.frame.index
    )
    half = only_impressions & (kind.isna() | (named == "counts"))
    without_clicks = int((half & checks.good).sum())
    checks.refuse(half, "missing_value", "clicks" + suffix, said)
    checks.refuse(kind.isna() & filled["clicks"] & ~filled["impressions"], "missing_value", "impressions" + suffix)
    checks.refuse(kind.isna(), "missing_value", "kind" if not suffix else f"value{suffix}")
    for candidate, names in NEEDED.items():
        for name in names:
            checks.refuse((named == candidate) & ~filled[name], "missing_value", name + suffix)
    used = {name: kind.isin([candidate for candidate in KINDS if name in USED[candidate]]) for name in VALUES}
    for name, column in parsed.items():
        for reason, rows in column.refused.items():
            checks.refuse(rows & used[name], reason, name + suffix)
        value[name] = value[name].where(used[name])
    for name in VALUES:
        if name != "score":
            checks.refuse(value[name] < 0, "negative_value", name + suffix)
    checks.refuse(value["impressions"] == 0, "zero_impressions", "impressions" + suffix)
    checks.refuse(value["clicks"] > value["impressions"], "clicks_exceed_impressions", "clicks" + suffix)
    more = value["conversions"] > value["impressions"].astype("float64")
    checks.refuse(more, "conversions_exceed_impressions", "conversions" + suffix)
    not_used = {name + suffix: int((filled[name] & ~used[name] & checks.good).sum()) for name in VALUES}
    not_told = {"clicks" + suffix: without_clicks} | {
        name + suffix: int((~filled[name] & used[name] & checks.good).sum())
        for name in ("conversions", "value")
        if name + suffix in raw.frame
    }
    frame = pd.DataFrame({"kind": kind, **value})
    return Values(frame, *({name: rows for name, rows in found.items() if rows} for found in (not_used, not_told)))


def delivery_column(checks: RowChecks, raw: RawTable, default: str) -> pd.Series:
    """One of `DELIVERIES` per row: what its cell says (`DELIVERY_WORDS`), `default` where it is empty."""
    text = raw.column("delivery")
    said = text.map({cell: DELIVERY_WORDS.get(plain(cell), "") for cell in text.dropna().unique()}).astype("str")
    checks.refuse(said == "", "unknown_delivery", "delivery")
    return said.fillna(default).rename("delivery")


def part_columns(checks: RowChecks, raw: RawTable, row: pd.DataFrame, products: pd.Series | None = None) -> Parts:
    """Period and strata of the rows, from mapped columns or from those whose header is known; refuses rows that sum up others.

    row: creative_id, market, kind and values. products: creative -> product, where `row` has creatives.
    """
    periods, found = period_columns(checks, raw)
    told = without_settings(read_strata(raw), row, products)
    if found:  # beside days a row without one is their sum
        dated = (checks.good & periods["period_start"].notna()).groupby(codes(row, ["creative_id", "market", "kind"]))
        undated = periods["period_start"].isna() & dated.transform("any")
        checks.refuse(undated, "total_row", found.headers[0], found.cells)
    strata = refuse_totals(checks, pd.concat([row, periods], axis=1), told)
    recognised = {"period": found.headers} if found else {}
    decisions = [*([found.decided] if found and found.decided else []), *strata.notes]
    frame = pd.concat([periods, strata.frame(row.index)], axis=1)
    return Parts(frame, recognised | told.recognised, raw.decisions(checks) + decisions)


def period_columns(checks: RowChecks, raw: RawTable) -> tuple[pd.DataFrame, FoundPeriods | None]:
    """`period_start` and `period_end`, days included, both or neither; and where none was mapped the column of days, weeks or
    months that they were read from (`found_periods`)."""
    names = ("period_start", "period_end")
    found = None if any(name in raw.frame for name in names) else found_periods(raw)
    if found:
        for reason, rows in found.refused.items():
            checks.refuse(rows, reason, found.headers[0], found.cells)
        start, end = (found.frame[name] for name in names)
        checks.refuse(start > end, "period_reversed", found.headers[0], found.cells)
        return found.frame, found
    parsed = {name: raw.days(name) for name in names}
    for name in names:
        for reason, rows in parsed[name].refused.items():
            checks.refuse(rows, reason, name)
    start, end = (parsed[name].values for name in names)
    checks.refuse(start.isna() & end.notna(), "missing_value", "period_start")
    checks.refuse(end.isna() & start.notna(), "missing_value", "period_end")
    checks.refuse(start > end, "period_reversed", "period_start")
    return pd.DataFrame({"period_start": start, "period_end": end}), None


def side_names(suffixes: Sequence[str] = ("_a", "_b")) -> list[str]:
    """The value columns of a pair file: impressions_a, impressions_b, ..."""
    return [name + suffix for name in VALUES for suffix in suffixes]
