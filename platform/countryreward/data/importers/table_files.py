"""Table files: CSV, TSV, Parquet and JSONL come in as columns of strings, whatever types they had; sorted Parquet goes out.

Cells are parsed column-wise afterwards (`parsing.py`), so that a bad cell costs its row and never the job, and so that
the same rows give the same dataset from any format.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.data_config import TableSource
from countryreward.data.importers import parsing
from countryreward.data.importers.date_columns import DATES, date_columns
from countryreward.data.importers.delimited_files import read_delimited
from countryreward.data.importers.file_contents import (
    BATCH,
    FileContent,
    FileRequest,
    as_text,
    is_bytes,
    is_known,
    open_file,
    our_name,
    pc,
    read_jsonl,
    read_parquet,
)
from countryreward.data.importers.number_columns import number_columns, number_kind
from countryreward.data.importers.parsing import Parsed
from countryreward.data.quarantine import RowChecks
from countryreward.errors import UserError
from countryreward.progress import ShowProgress


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
    bare: frozenset[str] = frozenset()
    """Columns of ids that were floats, or whose .0 was taken off."""
    notes: tuple[str, ...] = ()
    """What was decided about the file as a whole."""
    nested: bool = True
    """As in `read_table`."""

    def column(self, name: str) -> pd.Series:
        """A column of the frame; all missing when the file does not have it."""
        if name in self.frame:
            return cast(pd.Series, self.frame[name])
        return pd.Series(None, index=self.frame.index, dtype="str", name=name)

    def with_known(self, known: Mapping[str, Collection[str]]) -> "RawTable":
        """The table with its ids as another table writes them (`parsing.known_ids`). known: column of ids -> that table's ids."""
        columns = {
            name: parsing.known_ids(self.column(name), ids, bare=name in self.bare)
            for name, ids in known.items()
            if name in self.frame
        }
        return dataclasses.replace(self, frame=self.frame.assign(**columns))

    def other(self, name: str) -> pd.Series:
        """One of `others` as text without outer spaces; an empty cell is missing."""
        text, _ = as_text(self.others[name])
        column = pd.Series(_composed(text).to_pandas(), name=name).astype("str").str.strip()
        return column.where(column != "")

    def refuse_unreadable(self, checks: RowChecks) -> None:
        """Quarantine the rows that cannot be read and those whose ids have lost digits."""
        checks.refuse(self.malformed.notna(), "malformed_row", "row", self.malformed)
        for name, rows in self.lost_digits.items():
            checks.refuse(rows, "lost_digits", name)

    def numbers(self, name: str) -> Parsed:
        """A column of `number_columns.NUMBER_KINDS`; how it is written was decided with the file's other columns of numbers."""
        return (
            self._numbers[name] if name in self._numbers else _nothing(self.column(name), number_kind(name) == "whole")
        )

    def days(self, name: str) -> Parsed:
        """A column of `date_columns.DATES`, decided together."""
        return self._days[name] if name in self._days else _no_days(self.column(name))

    def decisions(self, checks: RowChecks | None = None) -> list[str]:
        """What was decided about the file and its columns, in sentences; and what could not be, where it has cost rows.

        checks: of the rows so far; without, every column that could not be decided is told.
        """
        reasons = None if checks is None else checks.quarantine.counts(checks.table)
        told = list(self.notes)
        for column in (*self._numbers.values(), *self._days.values()):
            unclear = [reason for reason in column.refused if reason.startswith("ambiguous")]
            if column.decided and (not unclear or reasons is None or any(reason in reasons for reason in unclear)):
                told.append(column.decided)
        return told

    @functools.cached_property
    def _numbers(self) -> dict[str, Parsed]:
        names = [str(name) for name in self.frame if number_kind(str(name))]
        headers = {name: self.source.columns.get(name, name).lower() for name in names}
        return number_columns(
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
        names = [name for name in DATES if name in self.frame]
        texts = {name: self.column(name) for name in names}
        return date_columns(texts, style=self.source.dates, option=self._option("dates"))

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
        with open_file(self.source.path, f"{self.field}.path") as handle:
            return is_bytes(pq.ParquetFile(handle).schema_arrow.field(column).type)

    def binary(self, name: str, batch_rows: int = 16) -> Iterator[bytes | None]:
        """A binary column of a Parquet file in row order, streamed. Raises `UserError` when it is not binary."""
        column = self.source.columns.get(name, name)
        with open_file(self.source.path, f"{self.field}.path") as handle:
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
    verbatim: Sequence[str] = (),
    progress: ShowProgress | None = None,
) -> RawTable:
    """Read the known columns of a table as text, in composed form (NFC).

    field: the configuration's name of the table. known: our column names; one ending in ":" is a prefix. required:
    those that the file or the constants must give. skip: known columns that are not text (`RawTable.binary`). nested: whether
    the options are `field`.path, `field`.columns and `field`.constants, or `field`, columns and constants. verbatim: columns
    whose words stand for themselves, NA too. progress: called with (rows read, estimate of all), for tables of
    more than `BATCH` rows.

    An empty cell is missing; so are the words of `parsing.MISSING_WORDS`, but not in ids, markets and names of images, where NA
    may be a code, and in titles all but NA; `source.missing` are missing everywhere.
    Raises `UserError`: no file, unknown ending, unknown mapping key, no header, missing column, undecodable text, an open quote.
    """
    prefix, path_option = (f"{field}.", f"{field}.path") if nested else ("", field)
    source = _composed_names(source)
    for option, mapping in (("columns", source.columns), ("constants", source.constants)):
        for name in mapping:
            if not is_known(name, known):
                raise UserError(f"{prefix}{option}: {name!r} is not a column of ours; there are {', '.join(known)}")
    ending = source.path.rpartition(".")[2].lower()
    readers: dict[str, Callable[[FileRequest, BinaryIO], FileContent]] = {
        "csv": read_delimited,
        "tsv": read_delimited,
        "parquet": read_parquet,
        "jsonl": read_jsonl,
        "ndjson": read_jsonl,
    }
    if ending not in readers:
        raise UserError(
            f"{path_option}: {source.path!r} ends in none of .csv, .tsv, .parquet, .jsonl; convert or rename it"
        )
    request = FileRequest(source, field, prefix, known, required, ending, progress)
    with open_file(source.path, path_option) as handle:
        try:
            content = readers[ending](request, handle)
            names = [parsing.composed(name) for name in content.table.column_names]
            wanted = _wanted(names, request)
            columns: dict[str, pa.ChunkedArray] = {}
            typed = set()
            for ours, theirs in wanted.items():
                if ours not in skip:
                    columns[ours], is_number = as_text(content.table.column(names.index(theirs)))
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
    if progress and rows > BATCH:
        progress(rows, rows)
    words = {ours: _missing_words(ours, source, verbatim) for ours in columns}
    cells = {ours: _without_words(_composed(text), words[ours]) for ours, text in columns.items()}
    frame = pa.table(cells).to_pandas() if cells else pd.DataFrame(index=range(rows))
    frame = frame.astype("str")
    for name, value in source.constants.items():
        frame[name] = pd.Series(value, index=frame.index, dtype="str")
    lost_digits, bare = {}, set()
    for name in map(str, frame):
        if parsing.is_id(name):
            frame[name], lost, was_float = parsing.id_column(cast(pd.Series, frame[name]))
            if name in wanted:
                lost |= _beyond_exact(content.table.column(names.index(wanted[name])))
            if lost.any():
                lost_digits[name] = lost
            if was_float or (
                name in wanted and pa.types.is_floating(content.table.column(names.index(wanted[name])).type)
            ):
                bare.add(name)
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
        bare=frozenset(bare),
        notes=content.notes,
        nested=nested,
    )


def table_digest(path: str) -> str:
    """SHA-256 of a table's bytes, hex, wherever it lies. Raises `UserError` where it cannot be opened."""
    digest = hashlib.sha256()
    with open_file(path, "path") as handle:
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


def _beyond_exact(column: pa.ChunkedArray) -> np.ndarray:
    """The floats of a column that are so large that its type skips whole numbers."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_floating(column.type):
        return np.zeros(len(column), dtype=bool)
    numbers = column.to_numpy()
    return np.abs(numbers) >= parsing.exact_below(numbers.dtype)


def _others(table: pa.Table, wanted: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """The columns that nobody wanted. Binary ones, which `read_parquet` leaves out, are none."""
    taken = frozenset(wanted)
    others: dict[str, pa.ChunkedArray] = {}
    for position, name in enumerate(table.column_names):
        if parsing.composed(name) in taken or pa.types.is_null(table.schema.field(position).type):
            continue
        times = table.column_names[:position].count(name)
        others[f"{name} ({times + 1})" if times else name] = table.column(position)
    return others


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


def _wanted(names: list[str], request: FileRequest) -> dict[str, str]:
    """Our name -> the file's, for the columns to read."""
    source, field = request.source, request.field
    wanted = {name: name for name in names if is_known(name, request.known) and name not in source.columns}
    wanted |= source.columns
    for ours in source.constants:
        wanted.pop(ours, None)
    missing = [name for name in request.needed if name not in names]
    if missing:
        if not names:
            raise UserError(f"{field}: {source.path} is empty; export it again")
        raise UserError(
            f"{field}: column {missing[0]!r} is not in {source.path}, which has {', '.join(names)}; "
            f"say which column it is, for example {request.prefix}columns: {{{our_name(missing[0], source)}: {names[0]}}}"
        )
    for theirs in wanted.values():
        if names.count(theirs) > 1:
            raise UserError(f"{field}: column {theirs!r} stands twice in {source.path}; rename one of them")
    return wanted
