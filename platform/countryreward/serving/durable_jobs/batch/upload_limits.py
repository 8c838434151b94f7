"""What an upload may be, looked at in a stream before anything is read as a whole: small files can hold much."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from countryreward.errors import UserError
from countryreward.serving.service_config import ServiceConfig

MAX_COLUMNS = 256
MAX_FILES = 200_000
"""Files in the images' archive."""
_DIRECTORY_ENTRY = b"PK\x01\x02"
_BLOCK = 2**20


def check_table(path: Path, config: ServiceConfig) -> None:
    """Raises `UserError`: too many rows or columns, or text that is larger than any upload once it is unpacked."""
    if path.suffix == ".parquet":
        _check_parquet(path, config)
    elif path.suffix == ".jsonl":
        _check_jsonl(path, config)
    else:
        _check_csv(path, config, "\t" if path.suffix == ".tsv" else ",")


def check_archive(path: Path, config: ServiceConfig) -> None:
    """Raises `UserError`: no zip archive, too many files, or files that are together much larger than any upload.

    Each file's own size is checked when it is read; but a thousand entries may share the same bytes.
    """
    entries, tail = 0, b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):  # before zipfile makes an object of each
            entries += (tail + block).count(_DIRECTORY_ENTRY)
            tail = block[-len(_DIRECTORY_ENTRY) + 1 :]
            _cap("images", "files", entries, MAX_FILES)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except MemoryError:  # ours, not the archive's
        raise
    except Exception as error:  # a hostile archive can be broken in many ways
        raise UserError(f"images: the archive is damaged ({type(error).__name__}); make it again") from None
    _cap("images", "bytes when unpacked", size, 4 * config.max_table_bytes)


def _check_csv(path: Path, config: ServiceConfig, delimiter: str) -> None:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            _cap("table", "columns", len(next(rows, [])), MAX_COLUMNS)
            for count, _ in enumerate(rows, start=1):
                _cap("table", "rows", count, config.max_table_rows)
        except csv.Error:  # the reader will tell where
            return


def _check_jsonl(path: Path, config: ServiceConfig) -> None:
    names: set[str] = set()
    with open(path, "rb") as file:
        for count, line in enumerate(file, start=1):
            _cap("table", "rows", count, config.max_table_rows)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # one malformed row, for quarantine
                continue
            names.update(row if isinstance(row, dict) else ())
            _cap("table", "columns", len(names), MAX_COLUMNS)


def _check_parquet(path: Path, config: ServiceConfig) -> None:
    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        _cap("table", "columns", max(len(leaves), len(file.schema_arrow)), MAX_COLUMNS)
        _cap("table", "rows", file.metadata.num_rows, config.max_table_rows)
        text = [field.name for field in file.schema_arrow if not _is_bytes(field.type)]
        packed = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    size = rows = 0
    with pq.ParquetFile(path, read_dictionary=packed) as file:  # a value that repeats is not unpacked
        for batch in file.iter_batches(batch_size=1_000, columns=text):
            size += sum(_unpacked(column) for column in batch.columns)
            rows += batch.num_rows
            _cap("table", "rows", rows, config.max_table_rows)
            _cap("table", "bytes when unpacked", size, config.max_table_bytes)


def _unpacked(column: Any) -> int:
    """Bytes of an array when every value is written out."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        lengths = pc.call_function("binary_length", [column.dictionary]).take(column.indices)
        return int(pc.call_function("sum", [lengths]).as_py() or 0) + column.indices.nbytes
    if pa.types.is_struct(kind):
        return sum(_unpacked(inner) for inner in column.flatten())
    if pa.types.is_map(kind):
        return _unpacked(column.keys) + _unpacked(column.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _unpacked(column.flatten())
    return int(column.nbytes)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _cap(field: str, what: str, count: int, most: int) -> None:
    if count > most:
        raise UserError(f"{field}: more than {most} {what}; send it in several jobs")
