"""The designs table: users' own briefs, or the designs of creatives, of which those that won clicks are taken.

A brief names product and market. A creative's design is taken for every market in which that creative did better than the
other creatives of its product that have a design: what won there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward import markets
from countryreward.data.data_config import TableSource
from countryreward.data.dataset import Dataset, own_pictures
from countryreward.data.design import LABELS, Design
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.pooled_evidence import pool
from countryreward.data.quarantine import Quarantine, RowChecks, check_counts, tally
from countryreward.data.tables import DESIGNS, KINDS
from countryreward.errors import UserError

COLUMNS = ("product_id", "market", "creative_id", "design", *LABELS)
_LONGEST = 4_000  # characters of a design


def import_designs(
    source: TableSource,
    dataset: Dataset,
    splits: Mapping[str, str],
    folder: Path,
    quarantine: Quarantine,
    *,
    won: bool = True,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write designs.parquet; returns the counts, of the table's rows and of the (product, market) designs they gave.

    The table has `product_id` and `market` (briefs) or `creative_id`; and `design` (the four lines, or a JSON object) or the
    four fields as columns. splits: unit of the records' split -> split; a product is where it or its own picture is, else in
    train. won: of creatives' designs only the best of each product and market; False: those of all observed there.
    Raises `UserError` for a table with neither form.
    """
    raw = read_table(source, field="designs", known=COLUMNS, required=()).with_known(
        {"product_id": set(dataset.products["product_id"]), "creative_id": set(dataset.creatives["creative_id"])}
    )
    checks = RowChecks(raw.frame, table="designs", key=["product_id", "creative_id", "market"], quarantine=quarantine)
    raw.refuse_unreadable(checks)
    designs = _designs(raw, checks)
    if "creative_id" in raw.frame:
        keys = _of_creatives(raw, checks, dataset)
    elif {"product_id", "market"} <= set(raw.frame):
        keys = _briefs(raw, checks, dataset, aliases or {})
    else:
        raise UserError(
            "designs: give either creative_id (whose design it is), or product_id and market (a brief); see docs/data.md"
        )
    pictures = own_pictures(dataset.creatives)["content_hash"]
    product = keys["product_id"]
    checks.refuse(~product.isin(pictures.index) & product.notna(), "no_picture", "product_id")
    kept = designs.loc[checks.good]
    counts = {"designs": tally("designs", input=len(raw.frame), kept=len(kept), quarantine=quarantine)}
    rows = keys.loc[checks.good, ["product_id", "creative_id", "market"]].join(kept)
    left_out: dict[str, int] = {}
    if "creative_id" in raw.frame:
        rows, left_out = _by_market(rows.drop(columns="market"), dataset, won=won)
    rows = rows.assign(image=rows["product_id"].map(pictures))
    rows["split"] = rows["product_id"].map(splits).fillna(rows["image"].map(splits)).fillna("train")
    write_sorted(rows, DESIGNS, folder / "designs.parquet", ["product_id", "market", "creative_id", *LABELS])
    counts["records"] = {
        "input": len(rows) + sum(left_out.values()),
        "kept": len(rows),
        "dropped": sum(left_out.values()),
        "quarantined": 0,
        "dropped_by_reason": left_out,
        "splits": {str(name): int(count) for name, count in rows["split"].value_counts().items()},
    }
    check_counts(counts["records"], "designs by market")
    return counts


def _designs(raw: RawTable, checks: RowChecks) -> pd.DataFrame:
    """The four fields of every row; refuses what is no design."""
    whole = raw.column("design")
    parts = [raw.column(name) for name in LABELS]
    designs: list[Design | None] = []
    why: list[str | None] = []
    for row in range(len(raw.frame)):
        cell = whole.iloc[row]
        try:
            if isinstance(cell, str):
                designs.append(_parsed(cell))
            else:
                fields = [part.iloc[row] for part in parts]
                designs.append(
                    Design(
                        **{
                            name: value if isinstance(value, str) else ""
                            for name, value in zip(LABELS, fields, strict=True)
                        }
                    )
                )
            why.append(None)
        except UserError as error:
            designs.append(None)
            why.append(str(error))
    reasons = pd.Series(why, index=checks.frame.index, dtype="str")
    checks.refuse(reasons.notna(), "unreadable_design", "design", reasons)
    long = pd.Series(
        [design is not None and len(design.as_text()) > _LONGEST for design in designs], index=checks.frame.index
    )
    checks.refuse(long, "text_too_long", "design")
    return pd.DataFrame(
        {name: [None if design is None else getattr(design, name) for design in designs] for name in LABELS},
        index=checks.frame.index,
    )


def _parsed(cell: str) -> Design:
    if not cell.lstrip().startswith("{"):
        return Design.parse(cell)
    try:
        content = json.loads(cell)
    except ValueError as error:
        raise UserError(f"design: it is no JSON object ({error})") from None
    return Design(**{name: str(content.get(name) or content.get(label) or "") for name, label in LABELS.items()})


def _briefs(raw: RawTable, checks: RowChecks, dataset: Dataset, aliases: Mapping[str, str]) -> pd.DataFrame:
    product, market = raw.column("product_id"), raw.column("market")
    for name, column in (("product_id", product), ("market", market)):
        checks.refuse(column.isna(), "missing_value", name)
    checks.refuse(~product.isin(set(dataset.products["product_id"])), "unknown_product", "product_id")
    markets.refuse_doubtful(market.dropna().unique(), aliases)
    codes = pd.Series(
        [markets.parse(cell, aliases) if isinstance(cell, str) else None for cell in market],
        index=market.index,
        dtype="str",
    )
    checks.refuse(codes.isna(), "unknown_market", "market")
    return pd.DataFrame({"product_id": product, "creative_id": None, "market": codes})


def _of_creatives(raw: RawTable, checks: RowChecks, dataset: Dataset) -> pd.DataFrame:
    creative = raw.column("creative_id")
    checks.refuse(creative.isna(), "missing_value", "creative_id")
    product_of = dataset.creatives.set_index("creative_id")["product_id"]
    checks.refuse(~creative.isin(product_of.index), "unknown_creative", "creative_id")
    checks.refuse(creative.where(checks.good).duplicated() & checks.good, "duplicate_key", "creative_id")
    return pd.DataFrame({"product_id": creative.map(product_of), "creative_id": creative, "market": None})


def _by_market(rows: pd.DataFrame, dataset: Dataset, *, won: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per design and market in which its creative was observed; with `won`, only the best of each product there."""
    creatives = dataset.creatives[["creative_id", "product_id"]]
    evidence = pool(dataset.observations.merge(creatives, on="creative_id"), ["product_id", "creative_id", "market"])
    evidence = evidence[evidence["creative_id"].isin(rows["creative_id"])]
    order = {kind: place for place, kind in enumerate(KINDS)}
    evidence = evidence.assign(rank=evidence["kind"].map(order))
    # of a product in a market, the most informative kind that most of its creatives have
    keys = ["product_id", "market"]
    size = evidence.groupby([*keys, "rank"])["creative_id"].transform("nunique")
    evidence = evidence.assign(size=size).sort_values([*keys, "size", "rank"], ascending=[True, True, False, True])
    first = evidence.drop_duplicates(keys)[[*keys, "rank"]]
    evidence = evidence.merge(first, on=[*keys, "rank"])
    all_rows = len(evidence)
    left_out: dict[str, int] = {}
    if won:
        best = evidence.groupby(keys)["value"].transform("max")
        top = evidence["value"] == best
        tied = evidence[top].groupby(keys)["creative_id"].transform("size") > 1
        alone = evidence.groupby(keys)["creative_id"].transform("size") == 1
        winners = evidence[top].loc[~tied & ~alone[top]]
        ties, single = int(tied.sum()), int(alone.sum())
        left_out = {
            "did_not_win": all_rows - len(winners) - ties - single,
            "tie": ties,
            "nothing_to_win_against": single,
        }
        evidence = winners
    merged = evidence[[*keys, "creative_id"]].merge(rows.drop(columns="product_id"), on="creative_id")
    return merged, {name: count for name, count in left_out.items() if count}
