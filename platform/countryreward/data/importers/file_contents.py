"""What table files hold, before anybody looks at the cells: JSONL and Parquet here, CSV and TSV in `delimited_files.py`."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pyarrow import fs

from countryreward.data.data_config import TableSource
from countryreward.data.importers import parsing
from countryreward.errors import UserError
from countryreward.progress import ShowProgress

pc: Any = pyarrow.compute  # its functions are made when it is imported
BATCH = 20_000
"""Rows held as Python objects at a time."""


class FileContent(NamedTuple):
    """What a file holds."""

    table: pa.Table
    """Under the file's own names, which may come twice."""
    rows: int
    malformed: list[str | None] | None
    """Row -> its text where it cannot be read; None: all can."""
    typed: frozenset[str]
    """Columns that were numbers in the file."""
    notes: tuple[str, ...]
    """What was decided about it."""


@dataclass(frozen=True)
class FileRequest:
    """What is read from which file, and what its options are called."""

    source: TableSource
    field: str
    prefix: str
    known: Sequence[str]
    required: Sequence[str]
    ending: str
    progress: ShowProgress | None

    @property
    def needed(self) -> list[str]:
        """The file's names of the columns it must have."""
        mapped = [theirs for ours, theirs in self.source.columns.items() if ours not in self.source.constants]
        return mapped + [
            name for name in self.required if name not in self.source.columns and name not in self.source.constants
        ]


def is_known(name: str, known: Sequence[str]) -> bool:
    """Whether a column is one of ours, or begins with a known prefix that ends in ":"."""
    return name in known or any(prefix.endswith(":") and name.startswith(prefix) and name != prefix for prefix in known)


def our_name(theirs: str, source: TableSource) -> str:
    """Our name of a column that was mapped to `theirs`."""
    return next((ours for ours, name in source.columns.items() if name == theirs), theirs)


@contextlib.contextmanager
def open_file(path: str, option: str) -> Iterator[BinaryIO]:
    """A local file or one in storage. Raises `UserError`, with the option that names it, where it cannot be opened."""
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


def text_of(handle: BinaryIO, encoding: str) -> TextIO:
    """The file's text from its beginning; line ends stay as they are."""
    handle.seek(0)
    return io.TextIOWrapper(io.BufferedReader(_Kept(handle), 2**20), encoding=encoding, newline="")


class _Kept(io.RawIOBase):
    """A binary file that stays open when the text around it is closed."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def encoding_of(request: FileRequest, handle: BinaryIO) -> tuple[str, tuple[str, ...]]:
    """The encoding that the file's first bytes tell, and a note where it is not UTF-8."""
    handle.seek(0)
    start = handle.read(4096)
    if start.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig", ()
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if start.startswith(mark):
            return encoding, (f"read as {encoding.upper()}, as its first bytes say",)
    if b"\0" in start:
        raise UserError(
            f"{request.field}: {request.source.path} is no UTF-8 text: it has zero bytes, as UTF-16 without a byte order mark "
            "does; save it as UTF-8"
        )
    return "utf-8", ()


def show_rows(progress: ShowProgress, handle: BinaryIO, rows: int) -> None:
    """Rows read, and how many there are by the share of bytes that is read."""
    position = handle.tell()
    handle.seek(0, io.SEEK_END)
    size = handle.tell()
    handle.seek(position)
    progress(rows, max(rows, round(rows * size / max(position, 1))))


def read_jsonl(request: FileRequest, handle: BinaryIO) -> FileContent:
    """One object a line; values become text, objects and lists JSON; NaN is missing; a line that is no object is malformed."""
    encoding, notes = encoding_of(request, handle)
    batches: list[tuple[int, dict[str, pa.Array]]] = []
    batch: list[dict[str, str | None]] = []
    malformed: dict[int, str] = {}
    texts: set[str] = set()
    rows = 0

    def close_batch() -> None:
        names = dict.fromkeys(name for row in batch for name in row)
        batches.append((len(batch), {name: pa.array([row.get(name) for row in batch], pa.string()) for name in names}))
        batch.clear()
        if request.progress and len(batches) > 1:
            show_rows(request.progress, handle, rows)

    for line in text_of(handle, encoding):
        if not line.strip():
            continue
        try:
            row = parsing.read_json(line)
            if not isinstance(row, dict):
                raise TypeError("no object")
            texts.update(name for name, value in row.items() if value is not None and not _is_number(value))
            batch.append({name: None if value is None else parsing.plain_text(value) for name, value in row.items()})
        except (ValueError, TypeError, RecursionError):
            malformed[rows] = line[:2000].strip()
            batch.append({})
        rows += 1
        if len(batch) == BATCH:
            close_batch()
    if batch:
        close_batch()
    names = list(dict.fromkeys(name for _, columns in batches for name in columns))
    table = pa.table(
        {
            name: pa.chunked_array([columns.get(name, pa.nulls(size, pa.string())) for size, columns in batches])
            for name in names
        }
    )
    refused = [malformed.get(row) for row in range(rows)] if malformed else None
    return FileContent(table, rows, refused, frozenset(names) - texts, notes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_parquet(request: FileRequest, handle: BinaryIO) -> FileContent:
    """The file's columns, without the binary ones, which may not fit in memory (their names stay, as null columns)."""
    file = pq.ParquetFile(handle)
    schema, rows = file.schema_arrow, file.metadata.num_rows
    text = [field.name for field in schema if not is_bytes(field.type)]
    groups: list[pa.Table] = []
    for group in range(file.num_row_groups):
        groups.append(file.read_row_group(group, columns=text))
        if request.progress and file.num_row_groups > 1:
            request.progress(sum(table.num_rows for table in groups), rows)
    table = pa.concat_tables(groups) if groups else schema.empty_table().select(text)
    for field in schema:
        if is_bytes(field.type):
            table = table.append_column(field.name, pa.nulls(rows))
    return FileContent(table, rows, None, frozenset(), ())


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type of Parquet is raw bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def as_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool]:
    """(a column as text, whether it was numbers). NaN is missing; whole floats are written without .0."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.cast(kind.value_type))
    if pa.types.is_map(kind):
        cells = [None if cell is None else parsing.plain_text(dict(cell)) for cell in column.to_pylist()]
        return pa.chunked_array([pa.array(cells, pa.string())]), False
    if pa.types.is_nested(kind):
        cells = [None if cell is None else parsing.plain_text(cell) for cell in column.to_pylist()]
        return pa.chunked_array([pa.array(cells, pa.string())]), False
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float32()) if pa.types.is_float16(kind) else column
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, numbers.type), numbers)
        exact = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), 2.0**53))
        whole = pc.if_else(exact, numbers, pa.scalar(None, numbers.type)).cast(pa.int64())
        return pc.coalesce(whole.cast(pa.string()), numbers.cast(pa.string())), True
    text = column.cast(pa.string())
    text.validate(full=True)  # Parquet writers do not check that strings are UTF-8
    return text, pa.types.is_integer(kind) or pa.types.is_decimal(kind)
