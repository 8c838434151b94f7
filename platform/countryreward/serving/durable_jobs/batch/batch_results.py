"""What became of a batch job: its finished parts on disk, the result that they add up to, and the result as CSV.

A part holds verdicts, and beside them the rows that were refused while they were judged.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.file_primitives import write_atomically
from countryreward.data.quarantine import QuarantinedRow, check_counts
from countryreward.scoring.contracts import Verdict
from countryreward.scoring.verdict_shards import ANSWERED, merge, part_path, verdict_schema
from countryreward.serving.durable_jobs.batch.batch_table import JobTable

SCHEMA = verdict_schema([], by_model=False)


@dataclass(frozen=True)
class Part:
    """What a finished part adds up to."""

    judged: int
    verdicts: int
    reasons: Counter[str]


def write_part(
    folder: Path,
    number: int,
    judged: Sequence[tuple[dict[str, Any], Sequence[Verdict]]],
    refusals: Sequence[QuarantinedRow],
) -> None:
    """Write a finished part. The verdicts come last: where they are, the refusals are, too."""
    ids = ("row", "row_id", "product_id")
    answers = [
        {name: row.get(name) for name in ids} | {field.name: getattr(verdict, field.name) for field in ANSWERED}
        for row, verdicts in judged
        for verdict in verdicts
    ]
    write_atomically(_refused_path(folder, number), _lines(asdict(refusal) for refusal in refusals))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(answers, schema=SCHEMA), sink)
    write_atomically(part_path(folder, number), sink.getvalue().to_pybytes())


def read_part(folder: Path, number: int) -> Part | None:
    """What a part adds up to; None while it is not finished."""
    if not part_path(folder, number).exists():
        return None
    rows = pq.read_table(part_path(folder, number), columns=["row"])["row"]
    refused = [json.loads(line) for line in _refused_path(folder, number).read_bytes().splitlines()]
    return Part(len(rows.unique()), len(rows), Counter(refusal["reason"] for refusal in refused))


def put_together(table: JobTable, work: Path, folder: Path) -> dict[str, Any]:
    """Write verdicts.parquet and quarantine.jsonl; returns counts, of which input = kept + quarantined."""
    kept, reasons = 0, Counter(refusal.reason for refusal in table.refusals)

    def count(part: pa.Table) -> None:
        nonlocal kept
        kept += len(part["row"].unique())

    verdicts = merge([part_path(work, i) for i in range(table.parts)], work / "all.parquet", [], count, by_model=False)
    with open(work / "all.parquet", "rb") as file:
        os.fsync(file.fileno())
    lines = [_lines(asdict(refusal) for refusal in table.refusals)]
    for number in range(table.parts):
        lines.append(_refused_path(work, number).read_bytes())
        reasons.update(json.loads(line)["reason"] for line in lines[-1].splitlines())
    counts = {
        "input": table.rows,
        "kept": kept,
        "quarantined": reasons.total(),
        "verdicts": verdicts,
        "reasons": reasons,
    }
    check_counts(counts, "batch job")
    write_atomically(folder / "quarantine.jsonl", b"".join(lines))
    os.replace(work / "all.parquet", folder / "verdicts.parquet")
    return counts


def _refused_path(folder: Path, number: int) -> Path:
    return part_path(folder, number).with_suffix(".refused.jsonl")


def _lines(refusals: Iterable[dict[str, Any]]) -> bytes:
    text = "".join(json.dumps(refusal, ensure_ascii=False) + "\n" for refusal in refusals)
    return text.encode("utf-8", "replace")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(path: Path) -> Iterator[str]:
    """verdicts.parquet as CSV in a stream, header first. Text that a spreadsheet would run as a formula is preceded by '."""
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
