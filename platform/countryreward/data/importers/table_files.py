"""Table files: CSV, TSV, Parquet and JSONL come in as columns of strings, whatever types they had; sorted Parquet goes out.

Cells are parsed column-wise afterwards (`parsing.py`), so that a bad cell costs its row and never the job, and so that
the same rows give the same dataset from any format.
"""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pyarrow import fs

from countryreward.data.data_config import TableSource
from countryreward.data.importers import parsing
from countryreward.data.importers.parsing import ATTRIBUTE, Parsed  # noqa: F401 (importers find ATTRIBUTE here)
from countryreward.data.quarantine import RowChecks
from countryreward.errors import UserError
from countryreward.progress import ShowProgress

pc: Any = pyarrow.compute  # its functions are made when it is imported
_BATCH = 20_000  # rows held as Python objects at a time
_LOOKED_AT = 50  # lines in which the header is looked for
_SHAPES_OF = 200  # rows that show what ids look like
_CELL = 2**31 - 1  # characters of a cell
_DELIMITERS = {"csv": (",", ";", "\t", "|"), "tsv": ("\t", ",", ";", "|")}
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_QUOTED = re.compile('"(?:[^"]|"")*"')


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A file's rows as text; row i is the i-th data row of the file."""

    frame: pd.DataFrame
    """The present columns under our names, strings in composed form; an empty cell is missing."""
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
    others: Mapping[str, pa.ChunkedArray] = dataclasses.field(default_factory=dict)
    """The file's columns that are not ours, by their own names (a name that comes again with " (2)"), as they were read."""
    lost_digits: Mapping[str, pd.Series] = dataclasses.field(default_factory=dict)
    """Column of ids -> the rows whose id has lost digits on its way, where there are some."""
    typed: frozenset[str] = frozenset()
    """Our names of the columns that were numbers in the file, not text."""
    notes: tuple[str, ...] = ()
    """What was decided about the file as a whole."""
    nested: bool = True
    """As in `read_table`."""

    def column(self, name: str) -> pd.Series:
        """A column of the frame; all missing when the file does not have it."""
        if name in self.frame:
            return cast(pd.Series, self.frame[name])
        return pd.Series(None, index=self.frame.index, dtype="str", name=name)

    def other(self, name: str) -> pd.Series:
        """One of `others` as text without outer spaces; an empty cell is missing."""
        text, _ = _as_text(self.others[name])
        column = pd.Series(_composed(text).to_pandas(), name=name).astype("str").str.strip()
        return column.where(column != "")

    def refuse_unreadable(self, checks: RowChecks) -> None:
        """Quarantine the rows that cannot be read and those whose ids have lost digits."""
        checks.refuse(self.malformed.notna(), "malformed_row", "row", self.malformed)
        for name, rows in self.lost_digits.items():
            checks.refuse(rows, "lost_digits", name)

    def numbers(self, name: str) -> Parsed:
        """A column of `parsing.NUMBER_KINDS`; how it is written was decided with the file's other columns of numbers."""
        return (
            self._numbers[name]
            if name in self._numbers
            else _nothing(self.column(name), parsing.number_kind(name) == "whole")
        )

    def days(self, name: str) -> Parsed:
        """A column of `parsing.DATES`, decided together."""
        return self._days[name] if name in self._days else _no_days(self.column(name))

    @property
    def decisions(self) -> list[str]:
        """What was decided about the file and its columns, and what was refused because it could not be, in sentences."""
        parsed = [*self._numbers.values(), *self._days.values()]
        return [*self.notes, *(column.decided for column in parsed if column.decided)]

    @functools.cached_property
    def _numbers(self) -> dict[str, Parsed]:
        names = [str(name) for name in self.frame if parsing.number_kind(str(name))]
        headers = {name: self.source.columns.get(name, name).lower() for name in names}
        return parsing.number_columns(
            {name: self.column(name) for name in names},
            style=self.source.decimal,
            option=self._option("decimal"),
            typed=self.typed,
            rates=self.source.rates,
            rates_option=self._option("rates"),
            percent_named=[name for name, header in headers.items() if "%" in header or "percent" in header],
        )

    @functools.cached_property
    def _days(self) -> dict[str, Parsed]:
        names = [name for name in parsing.DATES if name in self.frame]
        texts = {name: self.column(name) for name in names}
        return parsing.date_columns(texts, style=self.source.dates, option=self._option("dates"))

    def _option(self, name: str) -> str:
        return f"{self.field}.{name}" if self.nested else name

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


class _Content(NamedTuple):
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
class _Request:
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


def read_table(
    source: TableSource,
    *,
    field: str,
    known: Sequence[str],
    required: Sequence[str],
    skip: Sequence[str] = (),
    nested: bool = True,
    verbatim: Sequence[str] = (),
    progress: ShowProgress | None = None,
) -> RawTable:
    """Read the known columns of a table as text, in composed form (NFC).

    field: the configuration's name of the table. known: our column names; one ending in ":" is a prefix. required:
    those that the file or the constants must give. skip: known columns that are not text (`RawTable.binary`). nested: whether
    the options are `field`.path, `field`.columns and `field`.constants, or `field`, columns and constants. verbatim: columns
    whose words stand for themselves, NA too. progress: called with (rows read, estimate of all).

    An empty cell is missing; so are the words of `parsing.MISSING_WORDS`, but not in ids, markets and names of images, where NA
    may be a code, and in titles all but NA; `source.missing` are missing everywhere.
    Raises `UserError`: no file, unknown ending, unknown mapping key, no header, missing column, undecodable text, an open quote.
    """
    prefix, path_option = (f"{field}.", f"{field}.path") if nested else ("", field)
    source = _composed_names(source)
    for option, mapping in (("columns", source.columns), ("constants", source.constants)):
        for name in mapping:
            if not _is_known(name, known):
                raise UserError(f"{prefix}{option}: {name!r} is not a column of ours; there are {', '.join(known)}")
    ending = source.path.rpartition(".")[2].lower()
    readers: dict[str, Callable[[_Request, BinaryIO], _Content]] = {
        "csv": _read_delimited,
        "tsv": _read_delimited,
        "parquet": _read_parquet,
        "jsonl": _read_jsonl,
        "ndjson": _read_jsonl,
    }
    if ending not in readers:
        raise UserError(
            f"{path_option}: {source.path!r} ends in none of .csv, .tsv, .parquet, .jsonl; convert or rename it"
        )
    request = _Request(source, field, prefix, known, required, ending, progress)
    with _open(source.path, path_option) as handle:
        try:
            content = readers[ending](request, handle)
            names = [parsing.composed(name) for name in content.table.column_names]
            wanted = _wanted(names, request)
            columns: dict[str, pa.ChunkedArray] = {}
            typed = set()
            for ours, theirs in wanted.items():
                if ours not in skip:
                    columns[ours], is_number = _as_text(content.table.column(names.index(theirs)))
                    if is_number or content.table.column_names[names.index(theirs)] in content.typed:
                        typed.add(ours)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{field}: {source.path} is not {error.encoding.upper()} (byte {error.start} of a block); save it as UTF-8"
            ) from None
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{field}: {source.path} cannot be read ({error}); write the file again, text as UTF-8"
            ) from None
    rows = content.rows
    if progress:
        progress(rows, rows)
    words = {ours: _missing_words(ours, source, verbatim) for ours in columns}
    cells = {ours: _without_words(_composed(text), words[ours]) for ours, text in columns.items()}
    frame = pa.table(cells).to_pandas() if cells else pd.DataFrame(index=range(rows))
    frame = frame.astype("str")
    for name, value in source.constants.items():
        frame[name] = pd.Series(value, index=frame.index, dtype="str")
    lost_digits = {}
    for name in frame:
        if parsing.is_id(str(name)):
            frame[name], lost = parsing.id_column(cast(pd.Series, frame[name]))
            if lost.any():
                lost_digits[str(name)] = lost
    malformed = pd.Series(None if content.malformed is None else content.malformed, index=frame.index, dtype="str")
    return RawTable(
        frame=frame,
        malformed=malformed,
        field=field,
        source=source,
        names=names,
        skipped=frozenset(wanted) & frozenset(skip),
        others=_others(content.table, wanted.values()),
        lost_digits=lost_digits,
        typed=frozenset(typed),
        notes=content.notes,
        nested=nested,
    )


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


# Which columns, and what their cells mean.


def _composed_names(source: TableSource) -> TableSource:
    """The source with column names and constants in composed form, as the file's own are."""
    return dataclasses.replace(
        source,
        columns={ours: parsing.composed(theirs) for ours, theirs in source.columns.items()},
        constants={ours: parsing.composed(value) for ours, value in source.constants.items()},
    )


def _others(table: pa.Table, wanted: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """The columns that nobody wanted. Binary ones, which `_read_parquet` leaves out, are none."""
    taken = frozenset(wanted)
    others: dict[str, pa.ChunkedArray] = {}
    for position, name in enumerate(table.column_names):
        if parsing.composed(name) in taken or pa.types.is_null(table.schema.field(position).type):
            continue
        times = table.column_names[:position].count(name)
        others[f"{name} ({times + 1})" if times else name] = table.column(position)
    return others


def _is_known(name: str, known: Sequence[str]) -> bool:
    return name in known or any(prefix.endswith(":") and name.startswith(prefix) and name != prefix for prefix in known)


def _missing_words(name: str, source: TableSource, verbatim: Sequence[str]) -> frozenset[str]:
    """The words, in small letters, that mean an empty cell in one of our columns."""
    declared = frozenset(parsing.composed(word).strip().lower() for word in source.missing) | {""}
    return declared if name in verbatim else declared | parsing.missing_words(name)


def _without_words(text: pa.ChunkedArray, words: frozenset[str]) -> pa.ChunkedArray:
    """Text in which the cells that are one of the words are missing."""
    bare = pc.utf8_lower(pc.utf8_trim_whitespace(text))
    return pc.if_else(pc.is_in(bare, value_set=pa.array(sorted(words), text.type)), pa.scalar(None, text.type), text)


def _composed(text: pa.ChunkedArray) -> pa.ChunkedArray:
    if pc.all(pc.string_is_ascii(text)).as_py() is not False:
        return text
    return pc.utf8_normalize(text, form="NFC")


def _nothing(text: pd.Series, whole: bool) -> Parsed:
    return Parsed(pd.Series(None, index=text.index, dtype="Int64" if whole else "float64"), {})


def _no_days(text: pd.Series) -> Parsed:
    return Parsed(pd.Series(None, index=text.index, dtype="datetime64[s]"), {})


def _wanted(names: list[str], request: _Request) -> dict[str, str]:
    """Our name -> the file's, for the columns to read."""
    source, field = request.source, request.field
    wanted = {name: name for name in names if _is_known(name, request.known) and name not in source.columns}
    wanted |= source.columns
    for ours in source.constants:
        wanted.pop(ours, None)
    missing = [name for name in request.needed if name not in names]
    if missing:
        if not names:
            raise UserError(f"{field}: {source.path} is empty; export it again")
        raise UserError(
            f"{field}: column {missing[0]!r} is not in {source.path}, which has {', '.join(names)}; "
            f"say which column it is, for example {request.prefix}columns: {{{_ours(missing[0], source)}: {names[0]}}}"
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


# CSV and TSV.


@dataclass(frozen=True)
class _Layout:
    """How a delimited file is laid out."""

    encoding: str
    delimiter: str
    quoted: bool
    """Whether quotation marks hold cells together; else they are characters."""
    names: list[str]
    header_ends: int
    """Physical lines up to and with the header."""
    notes: tuple[str, ...]


def _read_delimited(request: _Request, handle: BinaryIO) -> _Content:
    """All cells as strings; a row with more or fewer cells than the header is malformed, an empty line is none.

    A record of several lines that are each a row of their own is a stray quotation mark: every one of its lines is malformed.
    """
    csv.field_size_limit(_CELL)
    layout = _layout(request, handle)
    width = len(layout.names)
    schema = pa.schema([pa.field(name, pa.string()) for name in layout.names])
    batches: list[pa.RecordBatch] = []
    batch: list[list[str | None]] = []
    malformed: dict[int, str] = {}
    rows = 0

    def close_batch() -> None:
        columns = zip(*batch, strict=True)
        batches.append(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=schema))
        batch.clear()
        if request.progress:
            _show(request.progress, handle, rows)

    for row in _records(request, layout, handle):
        if isinstance(row, str):
            malformed[rows] = row[:2000]
            batch.append([None] * width)
        elif len(row) == width:
            batch.append(cast(list[str | None], row))
        else:
            malformed[rows] = layout.delimiter.join(row)[:2000]
            batch.append([*row, *[None] * width][:width])
        rows += 1
        if len(batch) == _BATCH:
            close_batch()
    if batch:
        close_batch()
    table = pa.Table.from_batches(batches, schema)
    refused = [malformed.get(row) for row in range(rows)] if malformed else None
    return _Content(table, rows, refused, frozenset(), layout.notes)


def _records(request: _Request, layout: _Layout, handle: BinaryIO) -> Iterator[list[str] | str]:
    """The cells of each record below the header; a text for a line that a stray quotation mark has joined to others."""
    lines = _Lines(_text(handle, layout.encoding))
    for _ in range(layout.header_ends):
        next(lines)
    lines.recent.clear()
    quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=layout.delimiter, quoting=quoting, strict=layout.quoted)
    width = len(layout.names)
    place = layout.names.index(request.needed[0]) if request.needed else 0
    shapes: set[str] = set()
    try:
        for number, row in enumerate(reader):
            if len(lines.recent) > 1 and _is_stray(lines.recent, layout.delimiter, width, place, shapes):
                yield from (line.rstrip("\r\n") for line in lines.recent)
            elif len(row) > 1 or (row and (width == 1 or row[0].strip())):
                if number < _SHAPES_OF and len(row) == width:
                    shapes.add(_shape(row[place]))
                yield row
            lines.recent.clear()
    except csv.Error as error:
        first = layout.header_ends + reader.line_num - len(lines.recent) + 1
        raise UserError(
            f"{request.field}: {request.source.path} cannot be read as {request.ending.upper()}, from line {first} on "
            f"({error}); check the quotes there"
        ) from None


def _is_stray(lines: list[str], delimiter: str, width: int, place: int, shapes: set[str]) -> bool:
    """Whether the lines of one record are rows of their own, joined by a stray quotation mark.

    They are where the first and the last have a row's number of cells, and every later one that has it begins like a row: in
    the column `place`, of ids, it has letters and digits in an order that other rows have (`shapes`).
    """
    full = [line for line in lines if _cells(line, delimiter) == width]
    if width == 1 or not full or full[0] is not lines[0] or full[-1] is not lines[-1]:
        return False
    return not shapes or all(_shape(line.split(delimiter)[place]) in shapes for line in full[1:])


def _shape(cell: str) -> str:
    """A cell with its runs of letters and of digits as one each: ad-0012 is a-9."""
    return re.sub("[A-Z]+", "A", re.sub("[a-z]+", "a", re.sub("[0-9]+", "9", cell.strip())))


class _Lines:
    """Physical lines, with those of the record that is being read."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self.recent: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.recent.append(line)
        return line


def _cells(line: str, delimiter: str) -> int:
    """How many cells a physical line has by itself, quoted ones that end in it taken as one."""
    mark = re.escape(delimiter)
    bare = re.sub(rf'(?:^|(?<={mark}))"(?:[^"]|"")*"(?={mark}|[\r\n]*$)', "", line)
    return bare.count(delimiter) + 1


def _text(handle: BinaryIO, encoding: str) -> TextIO:
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


def _encoding(request: _Request, handle: BinaryIO) -> tuple[str, tuple[str, ...]]:
    """The encoding that the file's first bytes tell, and a note where it is not UTF-8."""
    handle.seek(0)
    start = handle.read(4096)
    if start.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig", ()
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if start.startswith(mark):
            return encoding, (f"{request.field}: read as {encoding.upper()}, as its first bytes say",)
    if b"\0" in start:
        raise UserError(
            f"{request.field}: {request.source.path} is no UTF-8 text: it has zero bytes, as UTF-16 without a byte order mark "
            "does; save it as UTF-8"
        )
    return "utf-8", ()


def _layout(request: _Request, handle: BinaryIO) -> _Layout:
    """Find the header and what separates the cells.

    The header is the first line, under the first separator, that has all needed columns. A line `sep=;` before it names the
    separator, as Excel reads it. With `skip_lines` it is the first line with text after so many. Raises `UserError` for no
    header.
    """
    source = request.source
    encoding, notes = _encoding(request, handle)
    head: list[str] = []
    for line in _text(handle, encoding):
        head.append(line)
        if len(head) == (source.skip_lines or 0) + _LOOKED_AT:
            break
    delimiters = _DELIMITERS[request.ending]
    tried: list[tuple[int, str, list[str], int]] = []  # line, separator, names, lines up to and with it
    for place, line in enumerate(head):
        if place < (source.skip_lines or 0) or not line.strip():
            continue
        declared = re.fullmatch(r'"?sep=(.)"?[;,\t]*\s*', line, re.IGNORECASE)
        if declared and not tried:
            delimiters = (declared[1],)
            continue
        for delimiter in delimiters:
            reader = csv.reader(head[place:], delimiter=delimiter)
            names = [parsing.composed(name.strip("\ufeff\u200b \t\r\n")) for name in next(reader)]
            tried.append((place, delimiter, names, place + reader.line_num))
            enough = all(name in names for name in request.needed) if request.needed else True
            if enough and (request.needed or any(_is_known(name, request.known) for name in names)):
                notes += _layout_notes(request, place, head, delimiter)
                ends = place + reader.line_num
                return _Layout(
                    encoding, delimiter, _is_quoted(handle, encoding, delimiter, ends, len(names)), names, ends, notes
                )
        if source.skip_lines is not None:
            break
    raise _no_header(request, head, tried)


def _layout_notes(request: _Request, place: int, head: list[str], delimiter: str) -> tuple[str, ...]:
    notes = []
    before = [line for line in head[:place] if line.strip()]
    if before and request.source.skip_lines is None:
        shown = before[0].strip()[:40]
        notes.append(f"{request.field}: line {place + 1} is the header; what stands before it is left out ({shown!r})")
    if delimiter != _DELIMITERS[request.ending][0]:
        notes.append(f"{request.field}: cells are separated by {_DELIMITER_NAMES.get(delimiter, repr(delimiter))}")
    return tuple(notes)


def _no_header(request: _Request, head: list[str], tried: list[tuple[int, str, list[str], int]]) -> UserError:
    """The error for a file in which no line has the needed columns."""
    source, field = request.source, request.field
    if not tried:
        return UserError(f"{field}: {source.path} is empty; export it again")
    found = [sum(name in names for name in request.needed) for _, _, names, _ in tried]
    best = max(range(len(tried)), key=lambda place: (found[place], -tried[place][0], len(tried[place][2])))
    place, _, names, _ = tried[best]
    lines = [number for number, line in enumerate(head) if line.strip()]
    if found[best] or (len(lines) == 1 and len(names) > 1):
        missing = next((name for name in request.needed if name not in names), "")
        return UserError(
            f"{field}: column {missing!r} is not in {source.path}, which has {', '.join(names)}; "
            f"say which column it is, for example {request.prefix}columns: {{{_ours(missing, source)}: {names[0]}}}"
        )
    needed = ", ".join(request.needed or request.known)
    return UserError(
        f"{field}: line {place + 1} of {source.path} is no header ({', '.join(names)[:200]}), nor is any other of its first "
        f"{len(head)} lines: none has the columns {needed}; say by {request.prefix}columns what they are called there, or by "
        f"{request.prefix}skip_lines how many lines stand before the header"
    )


def _is_quoted(handle: BinaryIO, encoding: str, delimiter: str, header_ends: int, width: int) -> bool:
    """Whether quotation marks hold cells together. Between tabs they are characters, unless the whole file says otherwise.

    It does where every cell that holds one is quoted from end to end; or where lines cut at the tabs are no rows, and reading
    with quotes gives rows alone, none of which has swallowed another.
    """
    if delimiter != "\t":
        return True

    def lines() -> Iterator[str]:
        text = _text(handle, encoding)
        for _ in range(header_ends):
            next(text)
        return iter(text)

    marks = broken = False
    even = True
    for line in lines():
        cells = line.rstrip("\r\n").split("\t")
        even = even and (len(cells) == width or not line.strip())
        if '"' in line:
            marks = True
            broken = broken or any('"' in cell and not _QUOTED.fullmatch(cell) for cell in cells)
    if not broken or even:
        return marks and not broken
    kept = _Lines(lines())
    try:
        for row in csv.reader(kept, delimiter="\t", strict=True):
            full = [line.count("\t") + 1 == width for line in kept.recent]
            swallowed = full[0] and any(full[1:])
            if (row and len(row) != width) or swallowed:
                return False
            kept.recent.clear()
    except csv.Error:
        return False
    return True


def _show(progress: ShowProgress, handle: BinaryIO, rows: int) -> None:
    """Rows read, and how many there are by the share of bytes that is read."""
    position = handle.tell()
    handle.seek(0, io.SEEK_END)
    size = handle.tell()
    handle.seek(position)
    progress(rows, max(rows, round(rows * size / max(position, 1))))


# JSONL and Parquet.


def _read_jsonl(request: _Request, handle: BinaryIO) -> _Content:
    """One object a line; values become text, objects and lists JSON; NaN is missing; a line that is no object is malformed."""
    encoding, notes = _encoding(request, handle)
    batches: list[tuple[int, dict[str, pa.Array]]] = []
    batch: list[dict[str, str | None]] = []
    malformed: dict[int, str] = {}
    texts: set[str] = set()
    rows = 0

    def close_batch() -> None:
        names = dict.fromkeys(name for row in batch for name in row)
        batches.append((len(batch), {name: pa.array([row.get(name) for row in batch], pa.string()) for name in names}))
        batch.clear()
        if request.progress:
            _show(request.progress, handle, rows)

    for line in _text(handle, encoding):
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
        if len(batch) == _BATCH:
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
    return _Content(table, rows, refused, frozenset(names) - texts, notes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_parquet(request: _Request, handle: BinaryIO) -> _Content:
    """The file's columns, without the binary ones, which may not fit in memory (their names stay, as null columns)."""
    file = pq.ParquetFile(handle)
    schema, rows = file.schema_arrow, file.metadata.num_rows
    text = [field.name for field in schema if not _is_bytes(field.type)]
    groups: list[pa.Table] = []
    for group in range(file.num_row_groups):
        groups.append(file.read_row_group(group, columns=text))
        if request.progress:
            request.progress(sum(table.num_rows for table in groups), rows)
    table = pa.concat_tables(groups) if groups else schema.empty_table().select(text)
    for field in schema:
        if _is_bytes(field.type):
            table = table.append_column(field.name, pa.nulls(rows))
    return _Content(table, rows, None, frozenset(), ())


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _as_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool]:
    """(a column as text, whether it was numbers). NaN is missing; whole floats are written without .0."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.cast(kind.value_type))
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
