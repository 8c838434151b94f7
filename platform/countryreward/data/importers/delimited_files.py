"""CSV and TSV files: which line is the header, what separates the cells, whether quotation marks hold them together."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from countryreward.data.importers import parsing
from countryreward.data.importers.file_contents import (
    BATCH,
    FileContent,
    FileRequest,
    encoding_of,
    is_known,
    our_name,
    show_rows,
    text_of,
)
from countryreward.errors import UserError

_LOOKED_AT = 50  # lines in which the header is looked for
_CELL = 2**31 - 1  # characters of a cell
_DELIMITERS = {"csv": (",", ";", "\t", "|"), "tsv": ("\t", ",", ";", "|")}
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_QUOTED = re.compile('"(?:[^"]|"")*"')


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
    spaced: bool
    """Whether rows have a space behind the delimiter, as sentences have."""
    notes: tuple[str, ...]


def read_delimited(request: FileRequest, handle: BinaryIO) -> FileContent:
    """All cells as strings; a row with more or fewer cells than the header is malformed, an empty line is none.

    A record of several lines, of which a later one is a row by itself, is a stray quotation mark: each of its lines is malformed.
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
        if request.progress and len(batches) > 1:
            show_rows(request.progress, handle, rows)

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
        if len(batch) == BATCH:
            close_batch()
    if batch:
        close_batch()
    table = pa.Table.from_batches(batches, schema)
    refused = [malformed.get(row) for row in range(rows)] if malformed else None
    return FileContent(table, rows, refused, frozenset(), layout.notes)


def _records(request: FileRequest, layout: _Layout, handle: BinaryIO) -> Iterator[list[str] | str]:
    """The cells of each record below the header; a text for a line that a stray quotation mark has joined to others."""
    lines = _Lines(text_of(handle, layout.encoding))
    for _ in range(layout.header_ends):
        next(lines)
    lines.recent.clear()
    quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=layout.delimiter, quoting=quoting, strict=layout.quoted)
    width = len(layout.names)
    try:
        for row in reader:
            if len(lines.recent) > 1 and _is_stray(lines.recent, layout):
                yield from (text for line in lines.recent if (text := line.rstrip("\r\n")).strip())
            elif len(row) > 1 or (row and (width == 1 or row[0].strip())):
                yield row
            lines.recent.clear()
    except csv.Error as error:
        first = layout.header_ends + reader.line_num - len(lines.recent) + 1
        raise UserError(
            f"{request.field}: {request.source.path} cannot be read as {request.ending.upper()}, from line {first} on "
            f"({error}); check the quotes there"
        ) from None


def _is_stray(lines: list[str], layout: _Layout) -> bool:
    """Whether the lines of one record are rows of their own, joined by a stray quotation mark.

    They are where one between the first and the last is a row by itself, or where the first and the last have a row's number of
    cells. In a quoted text such lines can stand, too: which it is nobody can tell, and it is not joined in silence. A sentence,
    with a space behind every delimiter, is no row.
    """
    delimiter, width = layout.delimiter, len(layout.names)
    if width == 1:
        return False
    first, *between, last = lines
    full = [line for line in between if _cells(line, delimiter) == width]
    if _cells(first, delimiter) == width == _cells(last, delimiter):
        full.append(first.rpartition('"')[2] + last.rpartition('"')[0])  # what the quoted text has of them
    return any(layout.spaced or not _is_sentence(text, delimiter) for text in full)


def _is_sentence(text: str, delimiter: str) -> bool:
    """Whether a text has delimiters, and a space behind each."""
    return 0 < text.count(delimiter) == text.count(f"{delimiter} ")


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


def _layout(request: FileRequest, handle: BinaryIO) -> _Layout:
    """Find the header and what separates the cells.

    The header is the first line, under the first separator, that has all needed columns. A line `sep=;` before it names the
    separator, as Excel reads it. With `skip_lines` it is the first line with text after so many. Raises `UserError` for no
    header.
    """
    source = request.source
    encoding, notes = encoding_of(request, handle)
    head: list[str] = []
    for line in text_of(handle, encoding):
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
            if enough and (request.needed or any(is_known(name, request.known) for name in names)):
                notes += _layout_notes(request, place, head, delimiter)
                ends = place + reader.line_num
                quoted = _is_quoted(handle, encoding, delimiter, ends, len(names))
                spaced = _is_spaced(head[place:], delimiter, len(names))
                return _Layout(encoding, delimiter, quoted, names, ends, spaced, notes)
        if source.skip_lines is not None:
            break
    raise _no_header(request, head, tried)


def _is_spaced(lines: list[str], delimiter: str, width: int) -> bool:
    """Whether most of the lines that are rows without quotation marks have a space behind the delimiter."""
    rows = [line for line in lines if '"' not in line and line.count(delimiter) + 1 == width]
    return 2 * sum(f"{delimiter} " in line for line in rows) > len(rows)


def _layout_notes(request: FileRequest, place: int, head: list[str], delimiter: str) -> tuple[str, ...]:
    notes = []
    before = [line for line in head[:place] if line.strip()]
    if before and request.source.skip_lines is None:
        shown = before[0].strip()[:40]
        notes.append(f"line {place + 1} is the header; what stands before it is left out ({shown!r})")
    if delimiter != _DELIMITERS[request.ending][0]:
        notes.append(f"cells are separated by {_DELIMITER_NAMES.get(delimiter, repr(delimiter))}")
    return tuple(notes)


def _no_header(request: FileRequest, head: list[str], tried: list[tuple[int, str, list[str], int]]) -> UserError:
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
            f"say which column it is, for example {request.prefix}columns: {{{our_name(missing, source)}: {names[0]}}}"
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
        text = text_of(handle, encoding)
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
