"""A ready-made pair file into the same tables: each row is two ads of a product, a market and both values."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.data_config import ImagesConfig, ImportConfig
from countryreward.data.importers.observations import (
    CONTEXT,
    SORTED_BY,
    VALUES,
    delivery_column,
    market_column,
    part_columns,
    side_names,
    value_columns,
)
from countryreward.data.importers.periods import KeptPeriods, codes, days, suspicious_series
from countryreward.data.importers.products import DESCRIPTION, copy_columns, write_creatives, write_products
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import COPY, LISTED_PAIRS, OBSERVATIONS, STRATA
from countryreward.errors import UserError
from countryreward.progress import OpenBar, ShowProgress, no_bar

SIDES = ("a", "b")
_COPY = tuple(f"{name}_{side}" for name in COPY for side in SIDES)
_KNOWN = ("product_id", *DESCRIPTION, "image_a", "image_b", *_COPY, *CONTEXT, *side_names())


def import_pairs(config: ImportConfig, folder: Path, quarantine: Quarantine, bar: OpenBar = no_bar) -> dict[str, Any]:
    """Write all tables and pairs.parquet from a pair file; returns the counts by table.

    A creative is a product with an image and words: its id is product_id + "/" + image, and where there are words "+" and their
    hash. Rows of products, creatives and observations stand for the first pair row they occur in.
    """
    required = ("product_id", "image_a", "image_b", "market")
    with bar("rows read") as progress:
        raw = read_table(config.pairs, field="pairs", known=_KNOWN, required=required, progress=progress)
    if not any(name in raw.frame for name in side_names()):
        raise UserError(
            f"pairs: {config.pairs.path} has no values of the two images, only {', '.join(raw.names)}; a winner alone is no "
            "evidence: give impressions_a/_b and clicks_a/_b, or rate, orders or score with _a and _b "
            "(pairs.columns maps other names)"
        )
    checks = RowChecks(
        raw.frame, table="pairs_file", key=["product_id", "image_a", "image_b", "market"], quarantine=quarantine
    )
    raw.refuse_unreadable(checks)
    for name in ("product_id", "image_a", "image_b"):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    creatives = {side: _creatives(checks, raw, side) for side in SIDES}
    a, b = (creatives[side]["creative_id"] for side in SIDES)
    checks.refuse(a == b, "same_image", "image_b")
    market = market_column(checks, raw, config.market_aliases)
    values = {side: value_columns(checks, raw, f"_{side}", config.empty_clicks) for side in SIDES}
    delivery = delivery_column(checks, raw, config.delivery)
    parts = part_columns(
        checks, raw, pd.concat([(a + "\0" + b).rename("creative_id"), market, values["a"].frame], axis=1)
    )
    shared = pd.concat([market, parts.frame, delivery, raw.column("source")], axis=1)

    counts: dict[str, Any] = {"products": _import_products(raw, checks, folder)}
    with bar("images read") as progress:
        counts["creatives"] = _import_creatives(creatives, checks, config.images, folder, progress)
    sides = {side: pd.concat([creatives[side]["creative_id"], shared, values[side].frame], axis=1) for side in SIDES}
    _refuse_conflicts(checks, sides)

    repeated = _repeated(sides, checks.good)
    kept = checks.good & ~repeated
    both = pd.concat([sides["a"].loc[kept], sides["b"].loc[kept]]).sort_index(
        kind="stable"
    )  # rows in file order, a before b
    observations = both.drop_duplicates(SORTED_BY)
    write_sorted(observations, OBSERVATIONS, folder / "observations.parquet", SORTED_BY)
    listed = {"product_id": raw.column("product_id"), "creative_1": a, "creative_2": b, "market": market}
    pairs = pd.DataFrame(listed).loc[kept].drop_duplicates()
    write_sorted(pairs, LISTED_PAIRS, folder / "pairs.parquet", LISTED_PAIRS.names)
    counts["observations"] = tally(
        "observations",
        input=len(both),
        kept=len(observations),
        quarantine=quarantine,
        dropped={"repeated": len(both) - len(observations)},
    )
    counts["pairs_file"] = tally(
        "pairs_file",
        input=len(raw.frame),
        kept=int(kept.sum()),
        quarantine=quarantine,
        dropped={"repeated": int(repeated.sum())},
    )
    facts = {
        "decisions": parts.decisions,
        "recognised": parts.recognised,
        "not_used": values["a"].not_used | values["b"].not_used,
        "not_told": values["a"].not_told | values["b"].not_told,
    }
    counts["pairs_file"] |= {name: found for name, found in facts.items() if found}
    return counts


def _creatives(checks: RowChecks, raw: RawTable, side: str) -> pd.DataFrame:
    """The creative of one side in each row: its id, product, image and words."""
    image, words = raw.column(f"image_{side}").rename("image_uri"), copy_columns(checks, raw, f"_{side}")
    named = raw.column("product_id") + "/" + image + ("+" + words["copy_hash"]).fillna("")
    return pd.concat([named.rename("creative_id"), raw.column("product_id"), image, words], axis=1)


def _import_products(raw: RawTable, checks: RowChecks, folder: Path) -> dict[str, Any]:
    """The first row of each product describes it; without a title its id is its title."""
    first = raw.frame.loc[checks.good].drop_duplicates("product_id")
    frame = first.assign(row=first.index).reset_index(drop=True)
    frame["title"] = frame["title"].fillna(frame["product_id"]) if "title" in frame else frame["product_id"]
    product_checks = RowChecks(frame, table="products", key="product_id", quarantine=checks.quarantine)
    counts, kept = write_products(replace(raw, frame=frame), product_checks, folder)
    checks.refuse(~raw.column("product_id").isin(kept), "unknown_product", "product_id")
    return counts


def _import_creatives(
    creatives: Mapping[str, pd.DataFrame],
    checks: RowChecks,
    images: ImagesConfig,
    folder: Path,
    progress: ShowProgress,
) -> dict[str, Any]:
    """One creative per product, image and words; pair rows of a refused one are refused."""
    both = pd.concat([creatives[side].loc[checks.good].assign(row=lambda frame: frame.index) for side in SIDES])
    identity = ["product_id", "image_uri", "copy_hash"]
    frame = both.sort_index(kind="stable").drop_duplicates(identity).reset_index(drop=True)
    creative_checks = RowChecks(frame, table="creatives", key="creative_id", quarantine=checks.quarantine)
    # "a/b" + "c" and "a" + "b/c" would share an id.
    creative_checks.refuse(frame["creative_id"].duplicated(), "duplicate_key", "creative_id")
    counts, _ = write_creatives(frame, creative_checks, images, folder, progress=progress)
    refused = pd.MultiIndex.from_frame(frame.loc[~creative_checks.good, identity])
    for side in SIDES:
        used = pd.MultiIndex.from_frame(creatives[side][identity])
        checks.refuse(pd.Series(used.isin(refused), index=checks.frame.index), "unknown_creative", f"image_{side}")
    return counts


def _refuse_conflicts(checks: RowChecks, sides: Mapping[str, pd.DataFrame]) -> None:
    """Refuse pair rows that give an image another value than an earlier kept row does, or a period that shares days.

    Only the series (creative, market and strata) in which something disagrees are walked in file order.
    """
    both = pd.concat([sides[side].loc[checks.good] for side in SIDES])
    series = codes(both, ["creative_id", "market", *STRATA]).to_numpy()
    value = codes(both, ["kind", *VALUES]).to_numpy()
    start, end = days(both)
    cells = pd.DataFrame({"series": series, "start": start, "end": end, "value": value}).drop_duplicates()
    periods = cells.drop_duplicates(["series", "start", "end"])
    conflicting = cells.loc[cells.duplicated(["series", "start", "end"]), "series"]
    shared = suspicious_series(*(periods[name].to_numpy() for name in ("series", "start", "end")))
    suspicious = np.isin(series, np.union1d(conflicting, shared))

    half = len(both) // 2
    reasons = pd.Series("", index=checks.frame.index, dtype=object)
    value_of: dict[tuple[int, int, int], int] = {}
    periods_of: dict[int, KeptPeriods] = {}
    for row in np.flatnonzero(suspicious[:half] | suspicious[half:]).tolist():
        new: list[tuple[int, int, int]] = []
        reason = ""
        for position in (row, row + half):
            key = (int(series[position]), int(start[position]), int(end[position]))
            if key not in value_of:
                new.append(key)
                reason = reason or (
                    "overlapping_period" if key[0] in periods_of and periods_of[key[0]].shares_a_day(*key[1:]) else ""
                )
            elif value_of[key] != value[position]:
                reason = reason or "conflicting_value"
        if reason:
            reasons[both.index[row]] = reason
            continue
        for key in new:
            value_of[key] = int(value[row] if key[0] == series[row] else value[row + half])
            periods_of.setdefault(key[0], KeptPeriods()).keep(*key[1:])
    checks.refuse(reasons == "conflicting_value", "conflicting_value", "image_a")
    checks.refuse(reasons == "overlapping_period", "overlapping_period", "period_start")


def _repeated(sides: Mapping[str, pd.DataFrame], good: pd.Series) -> pd.Series:
    """Good rows that list, in either order, a pair of an earlier good row in the same market, strata and period."""
    a, b = (sides[side]["creative_id"] for side in SIDES)
    key = sides["a"][["market", *STRATA, "period_start", "period_end"]]
    key = key.assign(low=a.where(a < b, b), high=b.where(a < b, a))
    return key.where(good).duplicated() & good
