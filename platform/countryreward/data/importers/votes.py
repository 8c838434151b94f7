"""The votes table: how many voters preferred which of two creatives, as panels, arenas and labelling tools collect it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from countryreward.data.creative_identity import with_keys
from countryreward.data.data_config import ImportConfig
from countryreward.data.importers.observations import market_column, period_columns
from countryreward.data.importers.periods import codes
from countryreward.data.importers.row_parts import numbers_rows, refuse_totals
from countryreward.data.importers.strata import ROW_IDS, Strata, is_total, plain, read_cells, read_strata
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import LISTED_PAIRS, VOTES
from countryreward.errors import UserError
from countryreward.progress import OpenBar, no_bar

SIDES = ("creative_1", "creative_2")
NUMBERS = ("votes_1", "votes_2", "votes_tie")
COLUMNS = (*SIDES, "market", "period_start", "period_end", "voter_class", *NUMBERS, "winner", "source", "prompt")
TIES = ("tie", "tied", "draw", "equal", "neither", "both")
"""What a single vote says (lower case) when it prefers neither."""
_VOTE_IDS = (
    *ROW_IDS,
    "id",
    "vote",
    "vote id",
    "annotation id",
    "judgement id",
    "judgment id",
    "answer id",
    "response id",
)
_KEY = [*SIDES, "market", "period_start", "period_end", "voter_class"]


def import_votes(config: ImportConfig, folder: Path, quarantine: Quarantine, bar: OpenBar = no_bar) -> dict[str, Any]:
    """Write votes.parquet; returns the counts. The creatives are those of creatives.parquet in the folder.

    A row is the votes on a pair (votes_1, votes_2, votes_tie) or, with `winner`, one vote. The smaller id stands first; votes of
    one pair, market, period and voter class are added, rows that sum up others refused (`refuse_totals`). Pairs that a pair file
    does not list are added to pairs.parquet. Raises `UserError` for a file that has both or neither.
    """
    with bar("votes read") as progress:
        raw = read_table(config.votes, field="votes", known=COLUMNS, required=(*SIDES, "market"), progress=progress)
    single = "winner" in raw.frame
    if single == any(name in raw.frame for name in NUMBERS[:2]):
        raise UserError(
            f"votes: {config.votes.path} has {'both' if single else 'neither'} votes_1, votes_2 "
            f"{'and' if single else 'nor'} winner, but {', '.join(raw.names)}; give the numbers of votes, or one vote a row with "
            "its winner (votes.columns maps other names)"
        )
    creatives = with_keys(pq.read_table(folder / "creatives.parquet").to_pandas()).set_index("creative_id")
    raw = raw.with_known(dict.fromkeys(SIDES, creatives.index))
    checks = RowChecks(raw.frame, table="votes", key=[*SIDES, "market"], quarantine=quarantine)
    raw.refuse_unreadable(checks)
    _check_pairs(checks, raw, creatives)
    market = market_column(checks, raw, config.market_aliases)
    numbers = _winners(checks, raw) if single else _numbers(checks, raw)
    periods, found = period_columns(checks, raw)
    frame = pd.concat(
        [*(raw.column(name) for name in (*SIDES, "voter_class", "source")), market, periods, numbers], axis=1
    )
    _refuse_copies(checks, raw, frame, single)
    turned = (frame["creative_1"] > frame["creative_2"]).fillna(False).astype(bool)
    for one, other in (SIDES, NUMBERS[:2]):
        frame = frame.assign(
            **{one: frame[one].where(~turned, frame[other]), other: frame[other].where(~turned, frame[one])}
        )
    frame["voter_class"] = _refuse_totals(checks, raw, frame)
    good = frame[checks.good]
    key = codes(good, _KEY)
    kept = good[~key.duplicated()].set_index(key[~key.duplicated()])
    for name in NUMBERS:
        kept[name] = good[name].groupby(key).sum()
    write_sorted(kept, VOTES, folder / "votes.parquet", _KEY)
    listed = _list_pairs(kept, folder)
    added = len(good) - len(kept)
    dropped = {"added_to_another_row": added} if added else None
    counts = tally("votes", input=len(frame), kept=len(kept), quarantine=quarantine, dropped=dropped)
    more = [f"{listed:,} pairs that the pair file does not list have votes and are pairs, too"] if listed else []
    days = [found.decided] if found and found.decided else []
    facts = {
        "decisions": [*raw.decisions(checks), *days, *more],
        "recognised": {"period": found.headers} if found else {},
    }
    return counts | {name: found for name, found in facts.items() if found}


def _check_pairs(checks: RowChecks, raw: RawTable, creatives: pd.DataFrame) -> None:
    """Refuse rows that do not name two different creatives of one product. creatives: `with_keys`, by creative_id."""
    for name in SIDES:
        checks.refuse(raw.column(name).isna(), "missing_value", name)
        checks.refuse(~raw.column(name).isin(creatives.index), "unknown_creative", name)
    one, other = (raw.column(name).map(creatives["product_id"]) for name in SIDES)
    checks.refuse(one != other, "different_products", "creative_2")
    one, other = (raw.column(name).map(creatives["key"]) for name in SIDES)
    checks.refuse(one == other, "same_image", "creative_2")


def _numbers(checks: RowChecks, raw: RawTable) -> pd.DataFrame:
    """Votes for the first, for the second and for neither, from their columns; empty votes_tie are none."""
    parsed = {name: raw.numbers(name) for name in NUMBERS}
    for name, column in parsed.items():
        if name != "votes_tie":
            checks.refuse(raw.column(name).isna(), "missing_value", name)
        for reason, rows in column.refused.items():
            checks.refuse(rows, reason, name)
        checks.refuse(column.values < 0, "negative_value", name)
    frame = pd.DataFrame({name: column.values for name, column in parsed.items()}).fillna({"votes_tie": 0})
    checks.refuse(frame.sum(axis=1) == 0, "no_votes", "votes_1")
    return frame


def _winners(checks: RowChecks, raw: RawTable) -> pd.DataFrame:
    """One vote a row: 1, 2, a word for neither, or the id of the creative; refuses what is none of them, or two by turns."""
    said = raw.column("winner").str.strip()
    checks.refuse(said.isna(), "missing_value", "winner")
    names = [raw.column(name).str.strip() for name in SIDES]
    won = [(said == name) | said.isin([place, f"{place}.0"]) for name, place in zip(names, ("1", "2"), strict=True)]
    tie = said.str.lower().isin(TIES) & (said != names[0]) & (said != names[1])
    checks.refuse(won[0].astype(int) + won[1] + tie != 1, "unknown_winner", "winner")
    return pd.DataFrame(dict(zip(NUMBERS, (*won, tie), strict=True))).astype("Int64")


def _refuse_totals(checks: RowChecks, raw: RawTable, frame: pd.DataFrame) -> pd.Series:
    """Refuse rows that sum up others over the voter class, or over another column with a word of totals or a header of strata;
    returns the voter class, blank where it is such a word without parts. frame: the votes, the smaller id first."""
    others = {name: cells for _, name, cells in read_strata(raw).cells()}
    others |= {
        name: cells for name in raw.others if name not in others and is_total(cells := read_cells(raw, name)).any()
    }
    classes = frame["voter_class"].str.strip()
    told = {"voter_class": classes} if classes.notna().any() else {}
    strata = Strata(columns={"voter_class": told, "other": others})
    votes = frame[list(NUMBERS)].astype("float64")
    rows = frame[["market", "period_start", "period_end"]].assign(
        creative_id=codes(frame, list(SIDES)), kind="counts", impressions=votes.sum(axis=1), clicks=votes["votes_1"]
    )
    return refuse_totals(checks, rows, strata).columns["voter_class"].get("voter_class", classes)


def _list_pairs(votes: pd.DataFrame, folder: Path) -> int:
    """Add the pairs of the votes to those that a pair file has listed; returns how many it did not list, by market."""
    path = folder / "pairs.parquet"
    if not path.exists():
        return 0
    listed = pq.read_table(path).to_pandas()
    creatives = pq.read_table(folder / "creatives.parquet", columns=["creative_id", "product_id"]).to_pandas()
    pairs = votes[[*SIDES, "market"]].drop_duplicates()
    pairs["product_id"] = pairs["creative_1"].map(creatives.set_index("creative_id")["product_id"])
    either = {
        (*sorted((one, other)), market)
        for one, other, market in listed[[*SIDES, "market"]].itertuples(index=False, name=None)
    }
    known = [row in either for row in pairs[[*SIDES, "market"]].itertuples(index=False, name=None)]
    added = pairs[~pd.Series(known, pairs.index, dtype=bool)]
    write_sorted(pd.concat([listed, added[listed.columns]]), LISTED_PAIRS, path, LISTED_PAIRS.names)
    return len(added)


def _refuse_copies(checks: RowChecks, raw: RawTable, frame: pd.DataFrame, single: bool) -> None:
    """Refuse rows that are equal in every column. Single votes may be equal, unless a column numbers them."""
    others = {name: raw.other(name) for name in raw.others}
    if single and not any(plain(name) in _VOTE_IDS for name in others):
        return
    if not single:
        others = {name: cells for name, cells in others.items() if not numbers_rows(name, cells, frame["creative_1"])}
    compared = pd.concat([frame, *others.values()], axis=1)[checks.good]
    compared.columns = pd.RangeIndex(compared.shape[1])
    checks.refuse(compared.duplicated().reindex(frame.index, fill_value=False), "duplicate_key", "creative_1")
