"""A table of pairs, checked: rows that can be asked, and the others in quarantine with their reason."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from countryreward import markets
from countryreward.data.data_config import TableSource
from countryreward.data.importers.products import described
from countryreward.data.importers.table_files import ATTRIBUTE, RawTable, read_table, table_digest
from countryreward.data.quarantine import Quarantine, RowChecks
from countryreward.errors import UserError
from countryreward.scoring.scoring_config import TableScoring

TABLE = "pairs"
SIDES = ("image_a", "image_b")
DESCRIPTION = ("product_id", "title", "category", "attributes", "tags")
COLUMNS = ("row_id", *DESCRIPTION, ATTRIBUTE, *SIDES, "market")
"""What a table may have."""
ANSWERS = (
    "row",
    "choice",
    "probability",
    "calibrated_probability",
    "log_odds",
    "past_ads",
    "note",
    "model_version",
    "knowledge_base_version",
)
"""What verdicts.parquet has beside `market` and columns of the table."""


@dataclass(frozen=True)
class PairTable:
    """All rows of the table; `checks.good` tells which of them can be asked so far."""

    raw: RawTable
    checks: RowChecks
    frame: pd.DataFrame
    """Row i of the table: row_id, product_id, title, category, attributes (dict), tags (list), image_a, image_b, the columns to
    keep, and market (alpha-2) where rows bring their own."""
    markets: tuple[str, ...] | None
    """Asked for every row; None: each row's own."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the table's bytes, hex."""
        return table_digest(self.raw.source.path)

    @functools.cached_property
    def embedded(self) -> tuple[str, ...]:
        """The sides whose images are file bytes in the table."""
        return tuple(side for side in SIDES if self.raw.holds_bytes(side))


def read_pairs(config: TableScoring, trained: tuple[str, ...], quarantine: Quarantine) -> PairTable:
    """Read and check everything but the images. trained: the markets of the model.

    Raises `UserError` for a table that cannot be read or lacks a column, and for a market option that is no country.
    """
    taken = sorted(set(config.keep) & {*COLUMNS, *ANSWERS})
    if taken:
        raise UserError(
            f"keep: {taken[0]!r} is a column of the verdicts already; leave it out or rename it in the table"
        )
    asked = _codes(config)
    source = TableSource(path=config.pairs, columns=config.columns, constants=config.constants)
    known, required = (*COLUMNS, *config.keep), ("title", *SIDES, *config.keep)
    raw = read_table(source, field=TABLE, known=known, required=required, nested=False)
    frame = raw.frame
    table = PairTable(
        raw=raw,
        checks=RowChecks(
            frame.assign(row=frame.index),
            table=TABLE,
            key="row_id" if "row_id" in frame else "row",
            quarantine=quarantine,
        ),
        frame=frame,
        markets=asked or (None if "market" in frame else trained),
    )
    checks = table.checks
    checks.refuse(raw.malformed.notna(), "malformed_row", "row", raw.malformed)
    if "row_id" in frame:
        checks.refuse(raw.column("row_id").isna(), "missing_value", "row_id")
        checks.refuse(raw.column("row_id").where(checks.good).duplicated() & checks.good, "duplicate_key", "row_id")
    for name in ("title", *(side for side in SIDES if side not in table.embedded)):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    parsed = described(raw, checks, ("row_id", *DESCRIPTION, *SIDES, *config.keep))
    if table.markets is None:
        text = raw.column("market")
        checks.refuse(text.isna(), "missing_value", "market")
        spelled = {spelling: markets.parse(spelling, config.market_aliases) for spelling in text.dropna().unique()}
        parsed["market"] = text.map(spelled).astype("str")
        checks.refuse(parsed["market"].isna(), "unknown_market", "market", text)
    return PairTable(raw=raw, checks=checks, frame=parsed, markets=table.markets)


def image_root(config: TableScoring) -> str:
    """The images' root: as configured, or near the table."""
    if config.images.root or "://" in config.pairs:
        return config.images.root
    beside = Path(config.pairs).parent / "images"
    return str(beside if beside.is_dir() else beside.parent)


def _codes(config: TableScoring) -> tuple[str, ...]:
    codes = {name: markets.parse(name, config.market_aliases) for name in config.markets}
    for name, code in codes.items():
        if code is None:
            raise UserError(
                f"markets: {name!r} is no country; write an ISO 3166 code such as KR or a name such as South Korea"
            )
    return tuple(dict.fromkeys(code for code in codes.values() if code))
