"""The products table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward.data.data_config import TableSource
from countryreward.data.importers.output import tally, write_sorted
from countryreward.data.importers.parsing import attributes, tags
from countryreward.data.importers.table_files import ATTRIBUTE, RawTable, read_table
from countryreward.data.quarantine import Quarantine, RowChecks
from countryreward.data.tables import PRODUCTS

DESCRIPTION = ("title", "category", "attributes", "tags", "seller", ATTRIBUTE)
"""Columns that describe a product, beside its id."""


def import_products(source: TableSource, folder: Path, quarantine: Quarantine) -> tuple[dict[str, Any], set[str]]:
    """Write products.parquet; returns the counts and the ids that were kept."""
    raw = read_table(source, field="products", known=("product_id", *DESCRIPTION), required=("product_id", "title"))
    checks = RowChecks(raw.frame, table="products", key="product_id", quarantine=quarantine)
    checks.refuse(raw.malformed.notna(), "malformed_row", "row", raw.malformed)
    for name in ("product_id", "title"):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    return write_products(raw, checks, folder)


def write_products(raw: RawTable, checks: RowChecks, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Check what describes the products, write those that pass; returns the counts and their ids."""
    frame = described(raw, checks, PRODUCTS.names)
    checks.refuse(frame["product_id"].where(checks.good).duplicated(), "duplicate_key", "product_id")
    kept = frame.loc[checks.good].copy()
    items = [list(found.items()) for found in kept["attributes"]]  # Arrow builds a map from pairs
    kept["attributes"] = pd.Series(items, index=kept.index, dtype=object)
    write_sorted(kept, PRODUCTS, folder / "products.parquet", ["product_id"])
    counts = tally("products", input=len(frame), kept=len(kept), quarantine=checks.quarantine)
    return counts, set(kept["product_id"])


def described(raw: RawTable, checks: RowChecks, names: Sequence[str]) -> pd.DataFrame:
    """The named columns, `attributes` as dicts and `tags` as lists (None where refused) among them."""
    frame = pd.DataFrame({name: raw.column(name) for name in names})
    for name, parse in (("attributes", attributes), ("tags", tags)):
        frame[name], bad = parse(raw.column(name))
        checks.refuse(bad, "wrong_type", name)
    for name in (name for name in raw.frame if str(name).startswith(ATTRIBUTE)):
        key = str(name).removeprefix(ATTRIBUTE)
        filled = [
            (found, cell)
            for found, cell in zip(frame["attributes"], raw.frame[name].to_numpy(dtype=object), strict=True)
            if isinstance(cell, str) and found is not None
        ]
        for found, cell in filled:
            found[key] = cell
    return frame
