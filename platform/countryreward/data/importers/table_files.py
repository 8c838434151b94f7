"""Table files: CSV, TSV, Parquet and JSONL come in as columns of strings, whatever types they had; sorted Parquet goes out.

Cells are parsed column-wise afterwards (`parsing.py`), so that a bad cell costs its row and never the job, and so that
the same rows give the same dataset from any format.
"""

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from countryreward.data.data_config import TableSource
from countryreward.errors import UserError

ATTRIBUTE = "attribute:"
_BATCH = 20_000  # rows held as Python objects at a time
_MALFORMED = "\0malformed"  # a column name that no file can have


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A file's rows as text; row i is the i-th data row of the file."""

    frame: pd.DataFrame
    """The present columns under our names, strings; an empty cell is missing."""
    malformed: pd.Series
    """The text of a row that cannot be read (too many cells, no JSON object), else missing."""
    field: str
    """The configuration's name of the table, for messages."""
    source: TableSource
    """The configured file."""
    names: list[str]
    """The file's own columns."""
    skipped: frozenset[str]
    """Our names of the columns that were skipped but are there."""

    def column(self, name: str) -> pd.Series:
        """A column of the frame; all missing when the file does not have it."""
        if name in self.frame:
            return cast(pd.Series, self.frame[name])
        return pd.Series(None, index=self.frame.index, dtype="str", name=name)

    def holds_bytes(self, name: str) -> bool:
        """Whether a column is a binary one of a Parquet file."""
        column = self.source.columns.get(name, name)
        if (
            not self.source.path.lower().endswith(".parquet")
            or column not in self.names
            or name in self.source.constants
        ):
            return False
        with _open(self.source.path, f"{self.field}.path") as handle:
            return _is_bytes(pq.ParquetFile(handle).schema_arrow.field(column).type)

    def binary(self, name: str, batch_rows: int = 16) -> Iterator[bytes | None]:
        """A binary column of a Parquet file in row order, streamed. Raises `UserError` when it is not binary."""
        column = self.source.columns.get(name, name)
        with _open(self.source.path, f"{self.field}.path") as handle:
            file = pq.ParquetFile(handle)
            kind = file.schema_arrow.field(column).type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise UserError(
                    f"{self.field}: column {column!r} of {self.source.path} is {kind}, not binary; "
                    "write image files as bytes"
                )
            for batch in file.iter_batches(batch_size=batch_rows, columns=[column]):
                yield from batch.column(0).to_pylist()


def read_table(
    source: TableSource,
    *,
    field: str,
    known: Sequence[str],
    required: Sequence[str],
    skip: Sequence[str] = (),
    nested: bool = True,
) -> RawTable:
    """Read the known columns of a table as text.

    field: the configuration's name of the table. known: our column names; one ending in ":" is a prefix. required:
    those that the file or the constants must give. skip: known columns that are not text (`RawTable.binary`). nested: whether
    the options are `field`.path, `field`.columns and `field`.constants, or `field`, columns and constants.
    Raises `UserError`: no file, unknown ending, unknown mapping key, missing column, undecodable text.
    """
    prefix, path_option = (f"{field}.", f"{field}.path") if nested else ("", field)
    for option, mapping in (("columns", source.columns), ("constants", source.constants)):
        for name in mapping:
            if not _is_known(name, known):
                raise UserError(f"{prefix}{option}: {name!r} is not a column of ours; there are {', '.join(known)}")
    ending = source.path.rpartition(".")[2].lower()
    readers = {
        "csv": _read_csv,
        "tsv": _read_csv,
        "parquet": _read_parquet,
        "jsonl": _read_jsonl,
        "ndjson": _read_jsonl,
    }
    if ending not in readers:
        raise UserError(
            f"{path_option}: {source.path!r} ends in none of .csv, .tsv, .parquet, .jsonl; convert or rename it"
        )
    with _open(source.path, path_option) as handle:
        try:
            table = readers[ending](handle, "\t" if ending == "tsv" else ",")
            names = [name for name in table.column_names if name != _MALFORMED]
            wanted = _wanted(names, source, known, required, field, skip, prefix)
            columns = {ours: _as_text(table.column(theirs)) for ours, theirs in wanted.items() if ours not in skip}
        except UnicodeDecodeError as error:
            raise UserError(
                f"{field}: {source.path} is not UTF-8 (byte {error.start} of a block); save it as UTF-8"
            ) from None
        except csv.Error as error:
            raise UserError(
                f"{field}: {source.path} cannot be read as {ending.upper()} ({error}); check its quotes"
            ) from None
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{field}: {source.path} cannot be read ({error}); write the file again, text as UTF-8"
            ) from None
    frame = pa.table(columns).to_pandas() if columns else pd.DataFrame(index=range(table.num_rows))
    frame = frame.astype("str")
    for name in frame:
        frame[name] = frame[name].where(frame[name].str.strip() != "")
    for name, value in source.constants.items():
        frame[name] = pd.Series(value, index=frame.index, dtype="str")
    malformed = pd.Series(None, index=frame.index, dtype="str")
    if _MALFORMED in table.column_names:
        malformed = table.column(_MALFORMED).to_pandas().astype("str")
    skipped = frozenset(wanted) & frozenset(skip)
    return RawTable(frame=frame, malformed=malformed, field=field, source=source, names=names, skipped=skipped)


def table_digest(path: str) -> str:
    """SHA-256 of a table's bytes, hex, wherever it lies. Raises `UserError` where it cannot be opened."""
    digest = hashlib.sha256()
    with _open(path, "path") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_sorted(frame: pd.DataFrame, schema: pa.Schema, path: Path, by: list[str]) -> None:
    """Write the schema's columns of `frame`, sorted by `by` (missing first): the same rows give the same bytes."""
    frame = frame.sort_values(by, kind="stable", na_position="first", ignore_index=True)
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def _is_known(name: str, known: Sequence[str]) -> bool:
    return name in known or any(prefix.endswith(":") and name.startswith(prefix) and name != prefix for prefix in known)


def _wanted(
    names: list[str],
    source: TableSource,
    known: Sequence[str],
    required: Sequence[str],
    field: str,
    skip: Sequence[str],
    prefix: str,
) -> dict[str, str]:
    """Our name -> the file's, for the columns to read."""
    wanted = {name: name for name in names if _is_known(name, known) and name not in source.columns}
    wanted |= source.columns
    for ours in source.constants:
        wanted.pop(ours, None)
    missing = [theirs for theirs in wanted.values() if theirs not in names]
    missing += [name for name in required if name not in wanted and name not in source.constants]
    if missing:
        if len(names) == 1 and ";" in names[0]:
            raise UserError(
                f"{field}: {source.path} is separated by semicolons; save it with commas, or as .tsv with tabs"
            )
        if not names:
            raise UserError(f"{field}: {source.path} is empty; export it again")
        raise UserError(
            f"{field}: column {missing[0]!r} is not in {source.path}, which has {', '.join(names)}; "
            f"say which column it is, for example {prefix}columns: {{{_ours(missing[0], source)}: {names[0]}}}"
        )
    for theirs in wanted.values():
        if names.count(theirs) > 1:
            raise UserError(f"{field}: column {theirs!r} stands twice in {source.path}; rename one of them")
    return wanted


def _ours(theirs: str, source: TableSource) -> str:
    """Our name of a column that was mapped to `theirs`."""
    return next((ours for ours, name in source.columns.items() if name == theirs), theirs)


@contextlib.contextmanager
def _open(path: str, option: str) -> Iterator[BinaryIO]:
    try:
        if "://" in path:
            filesystem, inner = fs.FileSystem.from_uri(path)
            handle = cast(BinaryIO, filesystem.open_input_file(inner))
        else:
            handle = open(path, "rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: {path!r} cannot be opened ({error}); correct the path") from None
    with handle:
        yield handle


def _read_csv(handle: BinaryIO, delimiter: str) -> pa.Table:
    """All cells as strings; a row with more or fewer cells than the header is malformed, an empty line is none."""
    rows = csv.reader(io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(rows, [])]
    schema = pa.schema([pa.field(name, pa.string()) for name in [*header, _MALFORMED]])
    width = len(header)
    batches: list[pa.RecordBatch] = []
    batch: list[list[str | None]] = []

    def close_batch() -> None:
        columns = zip(*batch, strict=True)
        batches.append(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=schema))
        batch.clear()

    for row in rows:
        if len(row) == width:
            batch.append([*row, None])
        elif row:
            batch.append([*(row + [None] * width)[:width], delimiter.join(row)[:2000]])
        if len(batch) == _BATCH:
            close_batch()
    if batch:
        close_batch()
    return pa.Table.from_batches(batches, schema)


def _read_jsonl(handle: BinaryIO, _: str) -> pa.Table:
    """One object a line; values become text, objects and lists JSON; a line that is no object is malformed."""
    tables: list[pa.Table] = []
    batch: list[dict[str, str | None]] = []

    def close_batch() -> None:
        names = dict.fromkeys(name for row in batch for name in row)
        tables.append(pa.table({name: pa.array([row.get(name) for row in batch], pa.string()) for name in names}))
        batch.clear()

    for line in io.TextIOWrapper(handle, encoding="utf-8-sig"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("no object")
            cells = {name: _json_text(value) for name, value in row.items()}
            if "\\u" in line:  # half a surrogate pair is JSON, but no text
                json.dumps(row, ensure_ascii=False).encode()
            batch.append({**cells, _MALFORMED: None})
        except (ValueError, TypeError, RecursionError):
            batch.append({_MALFORMED: line[:2000].strip()})
        if len(batch) == _BATCH:
            close_batch()
    if batch:
        close_batch()
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _read_parquet(handle: BinaryIO, _: str) -> pa.Table:
    """The file's columns, without the binary ones, which may not fit in memory (their names stay, as null columns)."""
    file = pq.ParquetFile(handle)
    schema = file.schema_arrow
    text = [field.name for field in schema if not _is_bytes(field.type)]
    table = file.read(columns=text)
    for field in schema:
        if _is_bytes(field.type):
            table = table.append_column(field.name, pa.nulls(table.num_rows))
    return table


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_map(kind):
        return pa.array([None if cell is None else _json_text(dict(cell)) for cell in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return pa.array([_json_text(cell) for cell in column.to_pylist()], pa.string())
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    text = column.cast(pa.string())
    text.validate(full=True)  # Parquet writers do not check that strings are UTF-8
    return text
