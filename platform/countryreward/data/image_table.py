"""The images of a dataset: unique files by content hash in images/part-*.parquet, embedded or by reference."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.decoding import ImageError, ImageFacts
from countryreward.data.image_source import read_located
from countryreward.data.tables import IMAGES
from countryreward.errors import UserError

FOLDER = "images"
# One image costs reading its row group, so groups are small; parts are small enough to move around.
_GROUP_BYTES = 4 * 2**20
_GROUP_ROWS = 1024
_PART_BYTES = 256 * 2**20


class ImageWriter:
    """Streams unique images into images/part-*.parquet; holds one row group in memory. Use as a context manager."""

    def __init__(
        self, folder: Path, *, embed: bool, part_bytes: int = _PART_BYTES, group_bytes: int = _GROUP_BYTES
    ) -> None:
        self.folder = folder / FOLDER
        self.embed = embed
        self.part_bytes = part_bytes
        self.group_bytes = group_bytes
        self._seen: set[str] = set()
        self._rows: list[dict[str, object]] = []
        self._waiting = 0  # bytes in _rows
        self._written = 0  # bytes in the open part
        self._part = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ImageWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self._open()  # a dataset without images still has its first part
        if self._writer:
            self._writer.close()

    def add(self, facts: ImageFacts, *, data: bytes, uri: str | None) -> None:
        """Keep an image unless its bytes are already there. uri: where to read it again, for images by reference."""
        if facts.content_hash in self._seen:
            return
        self._seen.add(facts.content_hash)
        kept = {"uri": None, "bytes": data} if self.embed else {"uri": uri, "bytes": None}
        self._rows.append(
            {
                "content_hash": facts.content_hash,
                "perceptual_hash": facts.perceptual_hash,
                "format": facts.format,
                "width": facts.width,
                "height": facts.height,
                **kept,
            }
        )
        self._waiting += len(data) if self.embed else 0
        if self._waiting >= self.group_bytes or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            # Image files are compressed already, and every value is its own: no dictionary, no second compression.
            self._writer = pq.ParquetWriter(
                self.folder / f"part-{self._part:05d}.parquet", IMAGES, compression="none", use_dictionary=False
            )
        return self._writer

    def _flush(self) -> None:
        if not self._rows:
            return
        self._open().write_table(pa.Table.from_pylist(self._rows, schema=IMAGES))
        self._written += self._waiting
        self._rows, self._waiting = [], 0
        if self._written >= self.part_bytes and self._writer:
            self._writer.close()
            self._writer, self._written = None, 0
            self._part += 1


class ImageTable:
    """Gives the bytes of a dataset's images by content hash, reading row groups when asked and keeping the recent ones.

    dataset_folder: an opened dataset artifact. cache_bytes: how much of the recent row groups stays in memory.
    Threads may share one table; a pickled table reopens the folder.
    """

    def __init__(self, dataset_folder: Path, *, cache_bytes: int = 256 * 2**20, max_bytes: int = 2**30) -> None:
        self.folder = Path(dataset_folder)
        self.cache_bytes = cache_bytes
        self.max_bytes = max_bytes  # only guards a read by reference against a file that was swapped for a huge one
        self._files: list[pq.ParquetFile] | None = None
        self._where: dict[str, tuple[int, int, int]] = {}  # content hash -> part, row group, row
        self._cache: OrderedDict[tuple[int, int], tuple[pa.RecordBatch, int]] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ImageTable"], tuple[Path]]:
        return (ImageTable, (self.folder,))

    def __len__(self) -> int:
        return len(self._index())

    def __contains__(self, content_hash: object) -> bool:
        return content_hash in self._index()

    def hashes(self) -> list[str]:
        """Every content hash, in the order of the parts: reading in this order touches each row group once."""
        return list(self._index())

    def bytes_of(self, content_hash: str) -> bytes:
        """The file's bytes. Raises `UserError` for an unknown hash, or a referenced file that is gone or altered."""
        found = self._index().get(content_hash)
        if found is None:
            raise UserError(f"content_hash: {content_hash!r} is not in {self.folder}; import the image first")
        part, group, row = found
        with self._lock:
            batch = self._row_group(part, group)
        data = batch.column("bytes")[row].as_py()
        return data if data is not None else self._read_again(content_hash, batch.column("uri")[row].as_py())

    def _index(self) -> dict[str, tuple[int, int, int]]:
        with self._lock:
            if self._files is None:
                paths = sorted((self.folder / FOLDER).glob("part-*.parquet"))
                if not paths:
                    raise UserError(f"dataset: {self.folder} has no {FOLDER}/part-*.parquet; import the dataset again")
                files = [pq.ParquetFile(path, memory_map=True) for path in paths]
                for part, file in enumerate(files):
                    for group in range(file.num_row_groups):
                        hashes = file.read_row_group(group, columns=["content_hash"]).column(0).to_pylist()
                        self._where.update((value, (part, group, row)) for row, value in enumerate(hashes))
                self._files = files
            return self._where

    def _row_group(self, part: int, group: int) -> pa.RecordBatch:
        """The `uri` and `bytes` of a row group; the least recently used ones make room."""
        assert self._files is not None, "the index is built first"
        if (part, group) in self._cache:
            self._cache.move_to_end((part, group))
            return self._cache[part, group][0]
        table = self._files[part].read_row_group(group, columns=["uri", "bytes"], use_threads=False)
        batch = table.combine_chunks().to_batches()[0]
        size = batch.nbytes
        self._cache[part, group] = (batch, size)
        self._cached += size
        while self._cached > self.cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1][1]
        return batch

    def _read_again(self, content_hash: str, uri: str) -> bytes:
        try:
            data = read_located(uri, max_bytes=self.max_bytes)
        except ImageError as error:
            raise UserError(
                f"image: {uri} cannot be read ({error}); put it back, or import with images.store: embed"
            ) from None
        if hashlib.sha256(data).hexdigest() != content_hash:
            raise UserError(f"image: {uri} has changed since it was imported; import again, or use images.store: embed")
        return data
