"""Several rows of one result: parts are added, copies and sums of other rows are refused.

Platforms split an ad's result over rows (by device, by region, by hour) and often write the sum beside the parts. What a row is
follows from its columns, also those that nobody mapped.
"""

import numpy as np
import pandas as pd

from countryreward.data.importers.periods import codes, days
from countryreward.data.importers.strata import HOURS, NAMED, REPEATED, ROW_IDS, Strata, is_total, plain, says_all
from countryreward.data.importers.table_files import RawTable
from countryreward.data.quarantine import RowChecks
from countryreward.data.tables import STRATA

KEY = ["creative_id", "market", "kind", *STRATA, "delivery", "period_start", "period_end"]
"""What an observation is of."""
SERIES = ["creative_id", "market", "kind", *STRATA, "delivery"]
"""What must not have two rows of one day."""
_SUMS = ("impressions", "clicks", "conversions", "value", "orders")
_ENOUGH = 100  # impressions below which equal sums say little
_AGREE = 0.02  # share by which sums of the same impressions may differ, as late clicks and rounding make them
_ROUNDING = 0.005  # the same, where a name of people is a total only if the counts say so
_CLEAR = (
    1000,
    10,
)  # impressions and clicks from which one row that equals the sum of two or more others is no coincidence


def refuse_totals(checks: RowChecks, rows: pd.DataFrame, strata: Strata) -> Strata:
    """Refuse rows that sum up others over a stratum (`total_row`), and those of a second breakdown of the same impressions
    (`repeated_impressions`); returns the strata with the totals' words blanked, and what was decided.

    rows: creative_id, market, kind, period_start, period_end, impressions, clicks, aligned with the checks. A word (All devices)
    sums up where parts of the same days are there, unless its counts are less than theirs; All of what people name (`NAMED`,
    ad sets) only where its counts are theirs. An empty cell, or a word that we do not know, does where the counts say so in all
    its rows of the file.
    """
    cells = {f"part {position}": text for position, (_, _, text) in enumerate(strata.cells())}
    if not cells or rows.empty:
        return strata
    frame = pd.DataFrame({"of": codes(rows, ["creative_id", "market", "kind"])})
    frame["first"], frame["last"] = days(rows)
    counted = checks.good & (rows["kind"] == "counts")
    for name in ("impressions", "clicks"):
        frame[name] = rows[name].where(counted).astype("float64")
    for part, text in cells.items():
        frame[part] = pd.factorize(text)[0]
    words: dict[str, pd.Series] = {}
    names: dict[str, pd.Series] = {}
    for (part, text), (stratum, header, _) in zip(cells.items(), strata.cells(), strict=True):
        others = [other for other in cells if other != part]
        by_counts = _total_by_counts(frame[counted], part, others).reindex(rows.index, fill_value=False)
        words[part] = is_total(text) | by_counts
        named = stratum == "ad_set" or plain(header) in NAMED
        names[part] = says_all(text) & ~by_counts & named
    whole = {part: words[part] | text.isna() for part, text in cells.items()}
    frame["worded"] = pd.DataFrame(words).any(axis=1)
    frame["named"] = frame["worded"] & ~pd.DataFrame({part: words[part] & ~names[part] for part in cells}).any(axis=1)
    pattern = pd.Series(0, rows.index)
    for bit, part in enumerate(cells):
        pattern += whole[part] * 2**bit
    total, told = pd.Series(False, index=rows.index), pd.Series(False, index=rows.index)
    for bits in np.unique(pattern[checks.good & (pattern > 0)]):
        fixed = [part for bit, part in enumerate(cells) if not int(bits) >> bit & 1]
        candidates, parts = frame[checks.good & (pattern == bits)], frame[checks.good & (pattern & bits == 0)]
        if len(parts):
            found, beside = _totals_of(candidates, parts, fixed, list(cells))
            total |= found.reindex(rows.index, fill_value=False)
            told |= beside.reindex(rows.index, fill_value=False)
    columns: dict[str, dict[str, pd.Series]] = {stratum: {} for stratum in strata.columns}
    for part, (stratum, name, text) in zip(cells, strata.cells(), strict=True):
        checks.refuse(total & whole[part], "total_row", name, text.fillna("(empty)"))
        blank = words[part] & ~told
        if (told & names[part]).any():
            blank &= ~names[part]
        columns[stratum][name] = text.where(~blank)
    kept = Strata(columns=columns, notes=strata.notes)
    return Strata(columns=columns, notes=(*strata.notes, *_refuse_second_breakdowns(checks, frame, kept)))


def _refuse_second_breakdowns(checks: RowChecks, frame: pd.DataFrame, strata: Strata) -> list[str]:
    """Refuse rows that tell one stratum where others tell another one of the same impressions; returns what was decided.

    Two one-dimensional reports in one file: rows by device without a gender, rows by gender without a device. Where the sums of
    both agree in most results that have both, the first in the file stays.
    """
    headers = [name for _, name, _ in strata.cells()]
    telling = pd.Series(0, frame.index)
    for bit, (_, _, text) in enumerate(strata.cells()):
        telling += text.notna() * 2**bit
    counted = frame[checks.good & frame["impressions"].notna() & (telling > 0)].assign(telling=telling)
    patterns = [int(bits) for bits in counted["telling"].unique()]
    of = ["of", "first", "last"]
    sums = counted.groupby(["telling", *of])[["impressions", "clicks"]].sum()
    notes = []
    left = list(patterns)
    for place, bits in enumerate(patterns):
        for other in patterns[place + 1 :]:
            if other not in left or bits not in left or not (bits & ~other and other & ~bits):
                continue
            shared = sums.loc[bits].index.intersection(sums.loc[other].index)
            one, two = (pd.DataFrame(sums.loc[told]).loc[shared] for told in (bits, other))
            apart = (one - two).abs() > (_AGREE * one).clip(lower=1)
            agree = (one["impressions"] >= _ENOUGH) & ~apart.any(axis=1)
            if not len(shared) or agree.mean() < 0.5:
                continue
            left.remove(other)
            rows = counted[counted["telling"] == other]
            again = pd.Series(pd.MultiIndex.from_frame(rows[of]).isin(shared), rows.index).reindex(
                frame.index, fill_value=False
            )
            names, others = (
                [name for bit, name in enumerate(headers) if told >> bit & 1] for told in (bits & ~other, other & ~bits)
            )
            checks.refuse(again, "repeated_impressions", others[0])
            notes.append(
                f"rows by {' and '.join(others)} count again what those by {' and '.join(names)} count: left out"
            )
    return notes


def _total_by_counts(counted: pd.DataFrame, part: str, others: list[str]) -> pd.Series:
    """Rows whose cell of `part` is a value that sums up the other values wherever it stands beside any, in two results with two
    others at least."""
    if counted[part].nunique() < 3:
        return pd.Series(False, index=counted.index)
    beside = counted.groupby(["of", "first", "last", *others])
    size = beside["impressions"].transform("size")
    equal = (2 * counted["impressions"] == beside["impressions"].transform("sum")) & (
        2 * counted["clicks"] == beside["clicks"].transform("sum")
    )
    telling = (size >= 3) & equal & (counted["impressions"] >= _ENOUGH)
    of_value = pd.DataFrame({"value": counted[part], "holds": equal | (size < 2), "telling": telling}).groupby("value")
    sums = of_value["holds"].transform("all") & (of_value["telling"].transform("sum") >= 2)
    return sums & (size >= 2) & (counted[part] >= 0)


def _totals_of(
    candidates: pd.DataFrame, parts: pd.DataFrame, fixed: list[str], cells: list[str]
) -> tuple[pd.Series, pd.Series]:
    """Candidates that sum up parts with the same `fixed` strata, and those with a word that stand beside parts and do not.

    With a word they do where they share a day with parts and count no less than those, or, where the word may be a name
    (`named`), where all such candidates count what their parts do. Others do where the counts of all that have parts of the same
    period are the parts' sums. cells: the columns of the strata's codes.
    """
    by = ["of", *fixed]
    both = pd.concat([candidates[by], parts[by]])
    series = codes(both, by).to_numpy()
    series_of, series_of_parts = series[: len(candidates)], series[len(candidates) :]
    shares = _share_a_day(candidates, series_of, parts, series_of_parts)
    period, counts = ["first", "last"], ["impressions", "clicks"]
    sums = parts.assign(series=series_of_parts).groupby(["series", *period])[counts].sum(min_count=1)
    beside = candidates.assign(series=series_of)[["series", *period]].join(sums, on=["series", *period])
    worded, named = candidates["worded"], candidates["named"]
    known = beside["impressions"].notna() & ~worded & candidates["impressions"].notna()
    equal = (beside[counts] == candidates[counts]).all(axis=1)
    by_counts = bool(equal[known].all()) and bool((candidates.loc[known, "impressions"] >= _ENOUGH).any())
    once = parts.assign(series=series_of_parts).drop_duplicates(
        ["series", *period, *cells, *counts]
    )  # copies count once
    within = _sums_within(candidates, series_of, once)
    missing = within - candidates[counts]
    less = (missing > (_AGREE * within).clip(lower=1)).any(axis=1)
    apart = ((candidates[counts] - within).abs() > (_ROUNDING * within).clip(lower=1)).any(axis=1)
    names = bool((~apart)[named & shares & candidates["impressions"].notna()].all())
    total = (worded & ~named & shares & ~less) | (named & shares & names) | (known & by_counts)
    return total, worded & shares & ~total


def _sums_within(candidates: pd.DataFrame, series_of: np.ndarray, parts: pd.DataFrame) -> pd.DataFrame:
    """Impressions and clicks of the parts of each candidate's series whose last day lies in its period."""
    span = 2**26  # wider than the days of `days`
    place = parts["series"].to_numpy() * span + parts["last"].to_numpy()
    order = np.argsort(place, kind="stable")
    first, last = (series_of * span + candidates[name].to_numpy() for name in ("first", "last"))
    start, end = np.searchsorted(place[order], first, side="left"), np.searchsorted(place[order], last, side="right")
    sums = {}
    for name in ("impressions", "clicks"):
        until = np.append(0, np.cumsum(parts[name].fillna(0).to_numpy()[order]))
        sums[name] = until[end] - until[start]
    return pd.DataFrame(sums, index=candidates.index)


def _share_a_day(
    candidates: pd.DataFrame, series_of: np.ndarray, parts: pd.DataFrame, series_of_parts: np.ndarray
) -> pd.Series:
    """Candidates whose period shares a day with that of a part of the same series: of its parts, more have begun by the
    candidate's last day than have ended before its first."""
    span = 2**26  # wider than the days of `days`
    begun = np.sort(series_of_parts * span + parts["first"].to_numpy())
    ended = np.sort(series_of_parts * span + parts["last"].to_numpy())
    begun_by = np.searchsorted(begun, series_of * span + candidates["last"].to_numpy(), side="right")
    ended_before = np.searchsorted(ended, series_of * span + candidates["first"].to_numpy(), side="left")
    return pd.Series(begun_by > ended_before, index=candidates.index)


def add_parts(checks: RowChecks, rows: pd.DataFrame, raw: RawTable, used: set[str]) -> pd.DataFrame:
    """The good rows with those of one key (`KEY`) added up, each in the place of the first; the checks refuse the rest.

    rows: the observations, aligned with the checks, with `source`. used: headers of the other columns of the file
    that have become part of the key. Rows that are equal in every column are copies (`duplicate_key`); a row that sums up the
    others is a `total_row`; rows that differ in a column by which platforms repeat impressions are `repeated_impressions`;
    rates, and scores without their numbers, cannot be added: `conflicting_value` unless they are equal.
    """
    key = codes(rows, KEY)
    several = checks.good & key.where(checks.good).duplicated(keep=False)
    if not several.any():
        return rows[checks.good]
    parts = rows[several].assign(key=key[several])
    others: dict[str, pd.Series] = {}
    numbering: set[str] = set()
    for name in (name for name in raw.others if name not in used):
        cells = raw.other(name)
        others[name] = cells[several]
        if numbers_rows(name, cells, rows["creative_id"]):
            numbering.add(name)

    def refuse(bad: pd.Series, reason: str, field: str, values: pd.Series | None = None) -> None:
        checks.refuse(bad.reindex(rows.index, fill_value=False), reason, field, values)

    said = [cells for name, cells in others.items() if name not in numbering]
    values = parts[["key", *(name for name in rows if name not in KEY)]]
    compared = pd.concat([values, raw.column("prompt")[several], *said], axis=1)
    compared.columns = pd.RangeIndex(compared.shape[1])
    refuse(compared.duplicated(), "duplicate_key", "creative_id")
    for name, cells in others.items():
        good = parts.loc[checks.good[parts.index], "key"]
        cell = cells[good.index]
        if plain(name) in REPEATED:
            refuse(cell.fillna("").groupby(good).transform("nunique") > 1, "repeated_impressions", name, cells)
        elif (sums := is_total(cell)).any():
            impressions = parts.loc[good.index, "impressions"].astype("float64")
            less = impressions < (1 - _AGREE) * impressions.where(~sums).groupby(good).transform("sum")
            refuse(sums & ~less & (~sums).groupby(good).transform("any"), "total_row", name, cells)
    parts = parts[checks.good[parts.index]]
    hours = [cells.notna() for name, cells in others.items() if plain(name) in HOURS]
    of_an_hour = (
        pd.DataFrame(hours, columns=several.index[several]).any() if hours else pd.Series(False, several.index[several])
    )
    refuse(_sums_of_their_key(parts) & ~of_an_hour, "total_row", "impressions")
    parts = parts[checks.good[parts.index]]
    refuse(_conflicts(parts, "rate", pd.Series(True, index=parts.index)), "conflicting_value", "rate")
    refuse(_conflicts(parts, "score", ~(parts["score_n"].fillna(0) > 0)), "conflicting_value", "score")
    parts = parts[checks.good[parts.index]]
    return pd.concat([rows[checks.good & ~several], _added(parts)[rows.columns]]).sort_index()


def numbers_rows(header: str, cells: pd.Series, creatives: pd.Series) -> bool:
    """Whether a column only numbers the file's rows: by its name, or because it counts 0, 1, 2, ... through several creatives."""
    if plain(header) in ROW_IDS:
        return True
    first = cells.iloc[0]
    if first not in ("0", "1") or creatives.nunique() < 2:
        return False
    return bool((cells == pd.Series(range(int(first), int(first) + len(cells)), index=cells.index).astype(str)).all())


def _sums_of_their_key(parts: pd.DataFrame) -> pd.Series:
    """Rows whose counts are the sums of two or more other rows of their key, with impressions and clicks enough to tell."""
    counted = parts[parts["kind"] == "counts"].astype({"impressions": "float64", "clicks": "float64"})
    of_key = counted.groupby("key")
    equal = of_key["impressions"].transform("size") >= 3
    for name, enough in zip(("impressions", "clicks"), _CLEAR, strict=True):
        equal &= (2 * counted[name] == of_key[name].transform("sum")) & (counted[name] >= enough)
    return equal.reindex(parts.index, fill_value=False)


def _conflicts(parts: pd.DataFrame, kind: str, cannot_be_added: pd.Series) -> pd.Series:
    """Rows of a kind whose keys have several values, where those cannot be added in some row of the key."""
    of_kind = parts[parts["kind"] == kind].assign(fixed=cannot_be_added)
    of_key = of_kind.groupby("key")
    return (of_key[kind].transform("nunique") > 1) & of_key["fixed"].transform("any")


def _added(parts: pd.DataFrame) -> pd.DataFrame:
    """One row per key, in the place of its first: sums (missing where a part lacks the value), pooled scores, the rest of the
    first."""
    first = ~parts["key"].duplicated()
    added = parts[first].set_index("key")
    of_key = parts.groupby("key", sort=False)
    for name in _SUMS:
        known = parts[name].notna().groupby(parts["key"], sort=False).all()
        added[name] = of_key[name].sum(min_count=1).where(known)
    pooled = _pooled_scores(parts[parts["kind"] == "score"])
    for name in pooled:
        added.loc[pooled.index, name] = pooled[name].astype(added[name].dtype)
    return added.set_index(parts.index[first])


def _pooled_scores(parts: pd.DataFrame) -> pd.DataFrame:
    """score, score_sd and score_n by key, as if computed from all ratings at once; keys without numbers of ratings are left out.

    The standard deviation (of the sample, n - 1) is missing where it is missing for any row of several ratings.
    """
    numbered = (parts["score_n"].fillna(0) > 0).groupby(parts["key"]).transform("all").astype(bool)
    parts = parts[numbered]
    n, score = parts["score_n"].astype("float64"), parts["score"].astype("float64")
    key = parts["key"]
    total = n.groupby(key).sum()
    mean = (n * score).groupby(key).sum() / total
    within = ((n - 1) * parts["score_sd"].astype("float64") ** 2).where(n > 1, 0.0)
    squares = (within + n * (score - key.map(mean)) ** 2).groupby(key).sum(min_count=1)
    squares = squares.where(within.notna().groupby(key).all())
    deviation = np.sqrt(squares / (total - 1).where(total > 1))
    return pd.DataFrame({"score": mean, "score_sd": deviation, "score_n": total})
