"""What the observations say of each pair: both creatives compared where and when both were shown.

A cell of a pair is a kind, a stratum (placement, device, ad set, audience) and a stretch of days in which both of its creatives
have observations. Within a cell counts and orders are summed, scores averaged by their number of ratings, rates averaged; what
only one of the two has is left out, however much it is.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from countryreward.data.tables import COMPARABLE, KINDS, STRATA

_EVER = (-(10**6), 10**6)  # days of an observation without dates: it covers any period
_LEAST_OVERLAP = 0.5  # share of the shorter of both sides' days in a cell that they must have in common
_CHUNK = 4_000_000  # rows of observations, repeated for every pair of their creative, that are in memory at a time


@dataclass(frozen=True)
class PairCells:
    """The common cells of pairs, and why a pair has none."""

    frame: pd.DataFrame
    """pair (position in the pairs), kind, shown_1, shown_2 (impressions; ratings; 1), amount_1, amount_2 (successes, or the sum
    of the values), delivery (position in `tables.DELIVERIES`, of the less comparable side)."""
    reason: "pd.Series[str]"
    """Per pair without a cell: no_common_evidence, no_common_period or no_common_stratum; else empty."""


def common_cells(pairs: pd.DataFrame, rows: pd.DataFrame) -> PairCells:
    """The common cells of every pair.

    pairs: creative_1, creative_2, market, window; its index counts from 0. rows: creative_id, market, window, kind, the columns
    of `tables.STRATA`, period_start, period_end, delivery (position in `tables.DELIVERIES`), shown, amount.

    Strata are the finest in which the pair has a common cell: all of them; without the ad set (an ad set that holds one ad
    compares nothing); and, where all strata of a side are missing, none. Of a pair's cells of one kind those of comparable
    delivery (randomised, rotated) are kept where there are some: evidence that needs no excuse is not mixed with evidence that
    does.
    """
    rows = _coded(rows)
    frames, reasons = [], pd.Series("", index=pairs.index, dtype="str")
    for part in _chunks(pairs, rows):
        both, reason = _cells_of(part, rows)
        frames.append(both)
        reasons[reason.index] = reason
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_COLUMNS)
    return PairCells(frame, reasons)


_SUMS = ["shown", "amount"]
_COLUMNS = ["pair", "kind", "shown_1", "shown_2", "amount_1", "amount_2", "delivery"]


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with days as numbers and strata as one number for each degree of detail."""
    told = rows[list(STRATA)].notna()
    start, end = _days(rows)
    coarse = [name for name in STRATA if name != "ad_set"]
    return pd.DataFrame(
        {
            **{name: rows[name] for name in ("creative_id", "market", "window", *_SUMS, "delivery")},
            "kind": rows["kind"].map({kind: place for place, kind in enumerate(KINDS)}).astype(np.int64),
            "start": start,
            "end": end,
            "all_strata": rows.groupby(list(STRATA), dropna=False, sort=False).ngroup(),
            "without_ad_set": rows.groupby(coarse, dropna=False, sort=False).ngroup(),
            "no_strata": np.zeros(len(rows), np.int64),
            "told": told[coarse].any(axis=1),
        }
    )


def product_cells(rows: pd.DataFrame, product: np.ndarray) -> np.ndarray:
    """Which cell of its product each observation belongs to, numbered from 0 over all products. [S] -> [S].

    A cell is a stratum (without the ad set) and a run of overlapping periods. rows: the columns of `tables.STRATA`, period_start,
    period_end; product: a number per row.
    """
    coarse = [name for name in STRATA if name != "ad_set"]
    stratum = rows.groupby(coarse, dropna=False, sort=False).ngroup().to_numpy()
    start, end = _days(rows)
    order = np.lexsort((start, stratum, product))
    cell = np.empty(len(rows), np.int64)
    cell[order] = _runs(np.stack([product[order], stratum[order]]), start[order], end[order]).cumsum() - 1
    return cell


def _days(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """First and last day of each row since 1970; rows without dates get days before and after any other."""
    bounds = []
    for name, without in zip(("period_start", "period_end"), _EVER, strict=True):
        day = rows[name].to_numpy().astype("datetime64[D]")
        bounds.append(np.where(np.isnat(day), without, day.astype(np.int64)))
    return bounds[0], bounds[1]


def _runs(keys: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where, in rows sorted by keys [., S] and start, a run of overlapping periods begins. Bools [S]."""
    begins = np.ones(keys.shape[1], bool)
    begins[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    latest = pd.Series(end).groupby(begins.cumsum()).cummax().to_numpy()
    begins[1:] |= start[1:] > latest[:-1]
    return begins


def _chunks(pairs: pd.DataFrame, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Pairs in parts whose joined observations fit in memory."""
    keys = ["creative_id", "market", "window"]
    size = rows.groupby(keys, sort=False).size()
    joined = np.zeros(len(pairs))
    for side in ("1", "2"):
        index = pd.MultiIndex.from_frame(pairs[[f"creative_{side}", "market", "window"]])
        joined += size.reindex(index).fillna(0).to_numpy()
    part = (np.cumsum(joined) // _CHUNK).astype(np.int64)
    for _, group in pairs.groupby(part, sort=True):
        yield group


def _cells_of(pairs: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[str]"]:
    keys = ["creative_id", "market", "window"]
    sides = []
    for side in ("1", "2"):
        asked = pairs[[f"creative_{side}", "market", "window"]].set_axis(keys, axis=1).assign(pair=pairs.index)
        sides.append(asked.merge(rows, on=keys).drop(columns=keys).assign(side=int(side)))
    long = pd.concat(sides, ignore_index=True)
    untold = long.groupby(["pair", "side"])["told"].any().groupby("pair").min()  # False: a side tells no stratum at all
    both_have = long.groupby(["pair", "kind"])["side"].nunique() == 2
    reason = pd.Series("", index=pairs.index, dtype="str")
    frames: list[pd.DataFrame] = []
    rest = long.set_index(["pair", "kind"])
    rest = rest[both_have.reindex(rest.index).to_numpy()].reset_index()
    evidence = rest["pair"].unique()
    reason[~reason.index.isin(evidence)] = "no_common_evidence"
    for strata, by_delivery in itertools.product(("all_strata", "without_ad_set", "no_strata"), (True, False)):
        if strata == "no_strata":
            rest = rest[~rest["pair"].map(untold).astype(bool)]
        if rest.empty:
            break
        cells = _common(rest, strata, by_delivery=by_delivery)
        frames.append(cells)
        found = pd.MultiIndex.from_frame(cells[["pair", "kind"]])
        rest = rest[~pd.MultiIndex.from_frame(rest[["pair", "kind"]]).isin(found)]
    both = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*_COLUMNS])
    without = np.setdiff1d(evidence, both["pair"].to_numpy(np.int64) if len(both) else np.array([], np.int64))
    if len(without):
        left = long[long["pair"].isin(without)]
        together = _common(left, "no_strata", by_delivery=False)["pair"].unique()
        reason[reason.index.isin(without)] = "no_common_period"
        reason[reason.index.isin(together)] = "no_common_stratum"
    both["kind"] = both["kind"].map(dict(enumerate(KINDS)))
    return both[_COLUMNS], reason


def _common(long: pd.DataFrame, strata: str, *, by_delivery: bool) -> pd.DataFrame:
    """Cells in which both sides of a pair have rows: runs of overlapping periods within one stratum, without the rows that meet
    no row of the other side. by_delivery: comparable and other rows stay apart, and comparable ones alone count where there
    are."""
    comparable = (long["delivery"].to_numpy(np.int64) < len(COMPARABLE)) & by_delivery
    keys = np.stack([long["pair"], long["kind"], long[strata], comparable])
    order = np.lexsort((long["start"].to_numpy(), *keys[::-1]))
    keys, ordered = keys[:, order], long.iloc[order]
    side, start, end = (ordered[name].to_numpy(np.int64) for name in ("side", "start", "end"))
    met = _meet(keys, side, start, end)
    keys, ordered, side, start, end = keys[:, met], ordered[met], side[met], start[met], end[met]
    apart = _runs(keys, start, end) if len(ordered) else np.zeros(0, bool)
    cell = np.cumsum(apart) - 1
    first = np.flatnonzero(apart)
    columns: dict[str, np.ndarray] = {"pair": keys[0][first], "kind": keys[1][first]}
    there = np.ones(len(first), bool)
    spans = []
    for number in (1, 2):
        mine = side == number
        there &= np.bincount(cell[mine], minlength=len(first)) > 0
        for name in _SUMS:
            columns[f"{name}_{number}"] = np.bincount(
                cell[mine], ordered[name].to_numpy(np.float64)[mine], minlength=len(first)
            )
        begin, finish = np.full(len(first), _EVER[1]), np.full(len(first), _EVER[0])
        np.minimum.at(begin, cell[mine], start[mine])
        np.maximum.at(finish, cell[mine], end[mine])
        spans.append((begin, finish))
    for number in (1, 2):  # what was sold in a cell is one number a side, in however many rows it came
        orders = columns["kind"] == KINDS.index("orders")
        columns[f"shown_{number}"] = np.where(orders, 1.0, columns[f"shown_{number}"])
    (begin_1, finish_1), (begin_2, finish_2) = spans
    days = np.minimum(finish_1, finish_2) - np.maximum(begin_1, begin_2) + 1
    there &= days >= _LEAST_OVERLAP * (np.minimum(finish_1 - begin_1, finish_2 - begin_2) + 1)
    columns["delivery"] = pd.Series(ordered["delivery"].to_numpy()).groupby(cell).max().to_numpy(np.int64)
    columns["comparable"] = keys[3][first].astype(bool)
    cells = pd.DataFrame(columns)[there]
    best = cells.groupby(["pair", "kind"])["comparable"].transform("max")
    return cells[cells["comparable"] == best].drop(columns="comparable")


def _meet(keys: np.ndarray, side: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Which rows, sorted by keys [., S] and start, share a day with a row of the other side under the same keys. Bools [S]."""
    begins = np.ones(keys.shape[1], bool)
    begins[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    group = begins.cumsum()
    width = 4 * _EVER[1]
    met = np.zeros(len(side), bool)
    for mine, other in ((1, 2), (2, 1)):
        theirs, ours = side == other, side == mine
        if not theirs.any():
            continue
        place = group[theirs] * width + start[theirs]  # ascending
        latest = pd.Series(end[theirs]).groupby(group[theirs]).cummax().to_numpy()
        until = np.searchsorted(place, group[ours] * width + end[ours], side="right") - 1
        same = (until >= 0) & (group[theirs][until] == group[ours])
        met[ours] = same & (latest[until] >= start[ours])
    return met
