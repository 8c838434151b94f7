"""An uploaded table and its images, checked: the rows that can be asked, and the others with their reason.

What an upload may be is looked at in a stream before anything is read as a whole: small files can hold much.
"""

import csv
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from countryreward.data.data_config import ImagesConfig
from countryreward.data.quarantine import Quarantine, QuarantinedRow
from countryreward.errors import UserError
from countryreward.scoring.pair_table import WORDS, ImageReader, PairTable, Place, find_images, read_pairs
from countryreward.scoring.scoring_config import TableScoring
from countryreward.scoring.verdict_shards import write_rows
from countryreward.serving.durable_jobs.batch.batch_store import StoredJob
from countryreward.serving.service_config import RewardServiceConfig

MAX_COLUMNS = 256
MAX_FILES = 200_000
"""Files in the images' archive."""
_DIRECTORY_ENTRY = b"PK\x01\x02"
_BLOCK = 2**20


def check_table(path: Path, config: RewardServiceConfig) -> None:
    """Raises `UserError`: too many rows or columns, or text that is larger than any upload once it is unpacked."""
    if path.suffix == ".parquet":
        _check_parquet(path, config)
    elif path.suffix == ".jsonl":
        _check_jsonl(path, config)
    else:
        _check_csv(path, config, "\t" if path.suffix == ".tsv" else ",")


def check_archive(path: Path, config: RewardServiceConfig) -> None:
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


def _check_csv(path: Path, config: RewardServiceConfig, delimiter: str) -> None:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            _cap("table", "columns", len(next(rows, [])), MAX_COLUMNS)
            for count, _ in enumerate(rows, start=1):
                _cap("table", "rows", count, config.max_table_rows)
        except csv.Error:  # the reader will tell where
            return


def _check_jsonl(path: Path, config: RewardServiceConfig) -> None:
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


def _check_parquet(path: Path, config: RewardServiceConfig) -> None:
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


PART_ROWS = 64
"""Rows that are judged and written at a time: what is lost when a replica is killed."""
_TEXTS = ("row_id", "product_id", "title", "category")


@dataclass(frozen=True, kw_only=True)
class JobTable:
    """A table whose good rows are in work/rows.parquet, `PART_ROWS` in each row group."""

    rows: int
    """Of the upload."""
    good: int
    """Of them, those that can be asked."""
    refusals: tuple[QuarantinedRow, ...]
    """Of the others."""
    markets: tuple[str, ...] | None
    """Asked for every row; None: each row's own."""
    file: Path
    places: dict[str, Place]
    """Content hash -> where the image is."""
    images: ImageReader

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.good // PART_ROWS)

    def part(self, number: int) -> list[dict[str, Any]]:
        """The rows of one part."""
        with pq.ParquetFile(self.file) as file:
            return file.read_row_group(number).to_pylist()

    def image(self, content_hash: str) -> bytes:
        """File bytes. Raises `ImageError`."""
        return self.images.read(content_hash, self.places[content_hash])


def read_job(folder: Path, job: StoredJob, config: RewardServiceConfig, go_on: Callable[[], None]) -> JobTable:
    """Read and check an upload. go_on: called now and then; what it raises ends the reading.

    Only the archive, and bytes in the table, can be read as images: nothing else of this machine, no storage, no URL.
    Raises `UserError` for a table or an archive that is of no use.
    """
    table, archive, work = folder / f"table.{job.ending}", folder / "images.zip", folder / "work"
    nothing = work / "nothing"  # a root without files, for paths that have no archive to be in
    nothing.mkdir(parents=True, exist_ok=True, mode=0o700)
    images = ImagesConfig(
        root=str(archive if archive.exists() else nothing),
        max_bytes=config.max_image_bytes,
        max_pixels=config.max_pixels,
        workers=config.decoders,
    )
    scoring = TableScoring(pairs=str(table), markets=list(job.markets), images=images)
    try:
        check_table(table, config)
        if archive.exists():
            check_archive(archive, config)
        go_on()
        pairs = read_pairs(scoring, job.trained or (), Quarantine("score"))
        if pairs.markets == ():
            raise UserError("markets: the model knows none by itself; name markets, or add a column `market`")
        _refuse_long(pairs, config.max_text)
        go_on()
        located = find_images(pairs, images, work / "images.bin", lambda done, of: go_on())
    except UserError as error:
        raise _without_paths(error, table) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # ours: no room, no file
            raise
        raise UserError("pairs: the table is damaged, or has columns of an odd type; write the file again") from None
    good = write_rows(pairs, located.hashes, [], work / "rows.parquet", PART_ROWS)
    return JobTable(
        rows=len(pairs.frame),
        good=good,
        refusals=tuple(pairs.checks.quarantine.refusals),
        markets=pairs.markets,
        file=work / "rows.parquet",
        places=located.places,
        images=ImageReader(images, work / "images.bin"),
    )


def _refuse_long(pairs: PairTable, most: int) -> None:
    """Texts are as long as in a single call at most; they are shown shortened."""
    texts = {name: pairs.frame[name] for name in (*_TEXTS, "attributes", "tags")}
    for name, cells in (texts | {name: pairs.raw.column(name) for name in WORDS}).items():
        lengths = cells.map(_length)
        pairs.checks.refuse(lengths > most, "text_too_long", name, lengths.map("{} characters".format))


def _length(cell: Any) -> int:
    if isinstance(cell, str):
        return len(cell)
    if isinstance(cell, dict):
        return sum(len(name) + len(value) for name, value in cell.items())
    return sum(map(len, cell)) if isinstance(cell, list) else 0


def _without_paths(error: UserError, table: Path) -> UserError:
    """The message without where the upload lies here, and without a way out that only the command line has."""
    message = str(error).replace(repr(str(table)), "the table").replace(str(table), "the table")
    if "; say which" in message:
        message = message.partition("; say which column it is")[0] + "; rename the column"
    return UserError(message.replace(str(table.parent), ""))


def refusal_of(row: dict[str, Any], reason: str, field: str, value: str) -> QuarantinedRow:
    """A row of a part that could be read, but not judged."""
    one = Quarantine("score")
    content = {name: cell for name, cell in row.items() if cell is not None and not name.startswith("hash_")}
    key = row.get("row_id") or row["row"]
    one.add(table="pairs", row=row["row"], reason=reason, field=field, value=value, key=key, content=content)
    return one.refusals[0]
