"""A ready-made pair file into the same tables: each row is two images of a product, a market and both values."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.data_config import ImagesConfig, TableSource
from countryreward.data.importers.observations import (
    CONTEXT,
    SORTED_BY,
    VALUES,
    KeptPeriods,
    days,
    market_column,
    period_columns,
    side_names,
    suspicious_series,
    value_columns,
)
from countryreward.data.importers.products import DESCRIPTION, write_creatives, write_products
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import LISTED_PAIRS, OBSERVATIONS
from countryreward.errors import UserError
from countryreward.progress import ShowProgress

SIDES = ("a", "b")
_KNOWN = ("product_id", *DESCRIPTION, "image_a", "image_b", *CONTEXT, *side_names())


def import_pairs(
    source: TableSource,
    images: ImagesConfig,
    aliases: Mapping[str, str],
    folder: Path,
    quarantine: Quarantine,
    progress: ShowProgress | None = None,
) -> dict[str, Any]:
    """Write all tables and pairs.parquet from a pair file; returns the counts by table.

    A creative is a product with an image: its id is product_id + "/" + image. Rows of products, creatives and
    observations stand for the first pair row they occur in.
    """
    raw = read_table(source, field="pairs", known=_KNOWN, required=("product_id", "image_a", "image_b", "market"))
    if not any(name in raw.frame for name in side_names()):
        raise UserError(
            f"pairs: {source.path} has no values of the two images, only {', '.join(raw.names)}; a winner alone is no "
            "evidence: give impressions_a/_b and clicks_a/_b, or rate, orders or score with _a and _b "
            "(pairs.columns maps other names)"
        )
    checks = RowChecks(
        raw.frame, table="pairs_file", key=["product_id", "image_a", "image_b", "market"], quarantine=quarantine
    )
    raw.refuse_unreadable(checks)
    for name in ("product_id", "image_a", "image_b"):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    checks.refuse(raw.column("image_a") == raw.column("image_b"), "same_image", "image_b")
    shared = pd.DataFrame({"market": market_column(checks, raw, aliases), "source": raw.column("source")})
    values = {side: value_columns(checks, raw, f"_{side}") for side in SIDES}
    shared[["period_start", "period_end"]] = period_columns(checks, raw)

    counts: dict[str, Any] = {"products": _import_products(raw, checks, folder)}
    counts["creatives"] = _import_creatives(raw, checks, images, folder, progress)
    sides = {side: pd.concat([_creative(raw, side), shared, values[side]], axis=1) for side in SIDES}
    _refuse_conflicts(checks, sides)

    repeated = _repeated(sides, checks.good)
    kept = checks.good & ~repeated
    both = pd.concat([sides["a"].loc[kept], sides["b"].loc[kept]]).sort_index(
        kind="stable"
    )  # rows in file order, a before b
    observations = both.drop_duplicates(SORTED_BY)
    write_sorted(observations, OBSERVATIONS, folder / "observations.parquet", SORTED_BY)
    pairs = (
        pd.DataFrame(
            {
                "product_id": raw.column("product_id"),
                "creative_1": sides["a"]["creative_id"],
                "creative_2": sides["b"]["creative_id"],
                "market": shared["market"],
            }
        )
        .loc[kept]
        .drop_duplicates()
    )
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
    return counts


def _creative(raw: RawTable, side: str) -> pd.Series:
    return (raw.column("product_id") + "/" + raw.column(f"image_{side}")).rename("creative_id")


def _import_products(raw: RawTable, checks: RowChecks, folder: Path) -> dict[str, Any]:
    """The first row of each product describes it; without a title its id is its title."""
    first = raw.frame.loc[checks.good].drop_duplicates("product_id")
    frame = first.assign(row=first.index).reset_index(drop=True)
    frame["title"] = frame["title"].fillna(frame["product_id"]) if "title" in frame else frame["product_id"]
    described = dataclasses.replace(raw, frame=frame)
    product_checks = RowChecks(frame, table="products", key="product_id", quarantine=checks.quarantine)
    counts, kept = write_products(described, product_checks, folder)
    checks.refuse(~raw.column("product_id").isin(kept), "unknown_product", "product_id")
    return counts


def _import_creatives(
    raw: RawTable, checks: RowChecks, images: ImagesConfig, folder: Path, progress: ShowProgress | None
) -> dict[str, Any]:
    """One creative per product and image; pair rows of a refused one are refused."""
    good = raw.frame.loc[checks.good]
    sides = [
        pd.DataFrame({"product_id": good["product_id"], "image_uri": good[f"image_{side}"], "row": good.index})
        for side in SIDES
    ]
    frame = (
        pd.concat(sides).sort_index(kind="stable").drop_duplicates(["product_id", "image_uri"]).reset_index(drop=True)
    )
    frame["creative_id"] = frame["product_id"] + "/" + frame["image_uri"]
    creative_checks = RowChecks(frame, table="creatives", key="creative_id", quarantine=checks.quarantine)
    # "a/b" + "c" and "a" + "b/c" would share an id.
    creative_checks.refuse(frame["creative_id"].duplicated(), "duplicate_key", "creative_id")
    counts, _ = write_creatives(frame, creative_checks, images, folder, progress=progress)
    refused = pd.MultiIndex.from_frame(frame.loc[~creative_checks.good, ["product_id", "image_uri"]])
    for side in SIDES:
        used = pd.MultiIndex.from_arrays([raw.column("product_id"), raw.column(f"image_{side}")])
        checks.refuse(pd.Series(used.isin(refused), index=raw.frame.index), "unknown_creative", f"image_{side}")
    return counts


def _refuse_conflicts(checks: RowChecks, sides: Mapping[str, pd.DataFrame]) -> None:
    """Refuse pair rows that give an image another value than an earlier kept row does, or a period that shares days.

    Only the series (creative and market) in which something disagrees are walked in file order.
    """
    both = pd.concat([sides[side].loc[checks.good] for side in SIDES])
    series = both.groupby(["creative_id", "market"], sort=False).ngroup().to_numpy()
    value = both.groupby(["kind", *VALUES], sort=False, dropna=False).ngroup().to_numpy()
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
    """Good rows that list, in either order, a pair of an earlier good row in the same market and period."""
    a, b = (sides[side]["creative_id"] for side in SIDES)
    key = sides["a"][["market", "period_start", "period_end"]].assign(low=a.where(a < b, b), high=b.where(a < b, a))
    return key.where(good).duplicated() & good
