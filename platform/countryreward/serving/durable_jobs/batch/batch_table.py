"""An uploaded table and its images, checked: the rows that can be asked, and the others with their reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.data_config import ImagesConfig
from countryreward.data.quarantine import Quarantine, Refusal
from countryreward.errors import UserError
from countryreward.scoring.pair_images import ImageReader, Place, find_images
from countryreward.scoring.pair_table import PairTable, read_pairs
from countryreward.scoring.scoring_config import TableScoring
from countryreward.scoring.verdict_shards import write_rows
from countryreward.serving.durable_jobs.batch.batch_job import StoredJob
from countryreward.serving.durable_jobs.batch.upload_limits import check_archive, check_table
from countryreward.serving.service_config import ServiceConfig

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
    refusals: tuple[Refusal, ...]
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


def read_job(folder: Path, job: StoredJob, config: ServiceConfig, go_on: Callable[[], None]) -> JobTable:
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
        found = find_images(pairs, images, work / "images.bin", lambda done, of: go_on())
    except UserError as error:
        raise _without_paths(error, table) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # ours: no room, no file
            raise
        raise UserError("pairs: the table is damaged, or has columns of an odd type; write the file again") from None
    good = write_rows(pairs, found.hashes, [], work / "rows.parquet", PART_ROWS)
    return JobTable(
        rows=len(pairs.frame),
        good=good,
        refusals=tuple(pairs.checks.quarantine.refusals),
        markets=pairs.markets,
        file=work / "rows.parquet",
        places=found.places,
        images=ImageReader(images, work / "images.bin"),
    )


def _refuse_long(pairs: PairTable, most: int) -> None:
    """Texts are as long as in a single call at most; they are shown shortened."""
    for name in (*_TEXTS, "attributes", "tags"):
        raw = pairs.frame[name].map(_length)
        pairs.checks.refuse(raw > most, "text_too_long", name, raw.map("{} characters".format))


def _length(cell: Any) -> int:
    if isinstance(cell, str):
        return len(cell)
    if isinstance(cell, dict):
        return sum(len(name) + len(value) for name, value in cell.items())
    return sum(map(len, cell)) if isinstance(cell, list) else 0


def _without_paths(error: UserError, table: Path) -> UserError:
    """The message without where the upload lies here, and without a way out that only the command line has."""
    told = str(error).replace(repr(str(table)), "the table").replace(str(table), "the table")
    told = told.partition("; say which column it is")[0] + "; rename the column" if "; say which" in told else told
    return UserError(told.replace(str(table.parent), ""))


def refusal_of(row: dict[str, Any], reason: str, field: str, value: str) -> Refusal:
    """A row of a part that could be read, but not judged."""
    one = Quarantine("score")
    content = {name: cell for name, cell in row.items() if cell is not None and not name.startswith("hash_")}
    key = row.get("row_id") or row["row"]
    one.add(table="pairs", row=row["row"], reason=reason, field=field, value=value, key=key, content=content)
    return one.refusals[0]
