"""verdicts.parquet as CSV, in a stream."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(path: Path) -> Iterator[str]:
    """The header, then the rows. Text that a spreadsheet would run as a formula is preceded by '."""
    file = pq.ParquetFile(path)  # open from the first call on: the job may be deleted while it is read
    names = file.schema_arrow.names

    def stream() -> Iterator[str]:
        with file:
            yield _text([names])
            for batch in file.iter_batches(batch_size=1_000):
                columns = [column.to_pylist() for column in batch.columns]
                yield _text([[safe_cell(cell) for cell in row] for row in zip(*columns, strict=True)])

    return stream()


def safe_cell(cell: object) -> object:
    """Text that a spreadsheet would run as a formula, preceded by an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _text(rows: list[list[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
