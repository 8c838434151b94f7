"""What an importer leaves behind: sorted Parquet files of a fixed schema, and counts that add up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.quarantine import Quarantine, check_counts

Progress = Callable[[int, int], None]
"""Called with (images done, all)."""


def write_sorted(frame: pd.DataFrame, schema: pa.Schema, path: Path, by: list[str]) -> None:
    """Write the schema's columns of `frame`, sorted by `by` (missing first): the same rows give the same bytes."""
    frame = frame.sort_values(by, kind="stable", na_position="first", ignore_index=True)
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def tally(
    table: str, *, input: int, kept: int, quarantine: Quarantine, dropped: dict[str, int] | None = None
) -> dict[str, Any]:
    """The counts of one table, checked: input = kept + dropped + quarantined."""
    by_reason = quarantine.counts(table)
    counts: dict[str, Any] = {
        "input": input,
        "kept": kept,
        "dropped": sum((dropped or {}).values()),
        "quarantined": sum(by_reason.values()),
        "quarantined_by_reason": by_reason,
    }
    if dropped:
        counts["dropped_by_reason"] = dropped
    check_counts(counts, f"import of {table}")
    return counts
