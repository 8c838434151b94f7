"""The images of a dataset: where their bytes are read from on import, and the table that keeps them and gives them back.

Import reads from a folder, a .zip file or object storage, and never outside of it. A dataset holds each file once, by content
hash, in images/part-*.parquet, embedded or by reference.
"""

import contextlib
import functools
import hashlib
import io
import re
import stat
import threading
import unicodedata
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs

from countryreward.data.data_config import ImagesConfig
from countryreward.data.decoding import ImageError, ImageFacts, decode, inspect  # noqa: F401 (found here in the release before)
from countryreward.data.file_names import in_any_form, names_in
from countryreward.data.tables import IMAGES
from countryreward.errors import UserError

CLOUD_SCHEMES = ("s3", "gs")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(?=//)|(data|file|javascript|https?):", re.IGNORECASE)
FOLDER = "images"
# One image costs reading its row group, so groups are small; parts are small enough to move around.
_GROUP_BYTES = 4 * 2**20
_GROUP_ROWS = 1024
_PART_BYTES = 256 * 2**20
_THUMBNAIL_PX = 112


class ImageSource:
    """Opens the bytes behind an `image_uri`, relative to `config.root` or absolute inside it.

    The root is a folder, a .zip file (or a folder in one: `images.zip/photos`) or a storage URI. Rows may name s3:// or
    gs:// themselves when `config.allowed_schemes` says so. Threads may share one source. A name is the same in
    any Unicode form (NFC, NFD).
    Raises `UserError` for a root that is not there.
    """

    def __init__(self, config: ImagesConfig) -> None:
        self.max_bytes = config.max_bytes
        self.allowed = {scheme.lower() for scheme in config.allowed_schemes}
        if ignored := sorted(self.allowed - set(CLOUD_SCHEMES)):
            warnings.warn(f"images.allowed_schemes: {ignored} are ignored; only s3 and gs can be allowed", stacklevel=2)
        self._filesystems: dict[tuple[str, str], Any] = {}
        self._folder: Path | None = None
        self._names = functools.cache(names_in)  # a folder is listed once
        self._zip: zipfile.ZipFile | None = None
        self._cloud: tuple[Any, str, str] | None = None  # file system, path on it, "scheme://bucket/prefix"
        if _scheme(config.root) in CLOUD_SCHEMES:
            self._open_cloud(config.root)
        elif config.root:
            self._open_local(Path(config.root))

    def read(self, uri: str) -> bytes:
        """The bytes behind a URI.

        Raises `ImageError`: forbidden_uri, missing_image, image_too_large or undecodable_image (a damaged archive).
        """
        scheme = _scheme(uri)
        if "\0" in uri or (scheme and scheme not in (*CLOUD_SCHEMES, "file")):
            raise ImageError("forbidden_uri", uri)
        if scheme in CLOUD_SCHEMES:
            return self._read_cloud_uri(uri)
        path = _path(uri)
        if self._cloud:
            filesystem, prefix, _ = self._cloud
            return self._read_cloud(filesystem, f"{prefix}/{_inside(path, uri)}", uri)
        if self._zip:
            return self._read_member(path, uri)
        if self._folder:
            return self._read_file(path, uri)
        raise UserError(
            f"images.root: is empty, but image_uri {uri!r} names a local file; set the folder the images are in"
        )

    def state(self, uri: str) -> str | None:
        """A text that changes when the file behind a URI does, without reading it; None: only reading it can tell (storage)."""
        if _scheme(uri) in CLOUD_SCHEMES or self._cloud:
            return None
        path = _path(uri)
        try:
            if self._zip:
                info = self._members.get(self._member_name(path, uri))
                return f"{info.CRC}/{info.file_size}" if info else "missing"
            status = self._local(path, uri).stat()
            return f"{status.st_mtime_ns}/{status.st_size}"
        except (ImageError, OSError, ValueError):
            return "missing"

    def locate(self, uri: str) -> str:
        """The URI under which `read_located` finds the same bytes without this source's root."""
        if _scheme(uri) in CLOUD_SCHEMES:
            return uri
        path = _path(uri)
        if self._cloud:
            return f"{self._cloud[2]}/{path}"
        if self._zip:
            return f"{self._zip.filename}/{self._member_name(path, uri)}"
        assert self._folder is not None, "locate is called after a read"
        return str(self._local(path, uri))

    def _open_cloud(self, root: str) -> None:
        try:
            filesystem, path = fs.FileSystem.from_uri(root)
        except (OSError, ValueError) as error:
            raise UserError(
                f"images.root: cannot open {root!r} ({error}); check the address and the credentials"
            ) from None
        self._cloud = (filesystem, path.rstrip("/"), root.partition("?")[0].rstrip("/"))
        parts = urlsplit(root)
        self._filesystems[_scheme(root), parts.netloc] = filesystem

    def _open_local(self, root: Path) -> None:
        archive = next((path for path in (root, *root.parents) if path.suffix == ".zip" and path.is_file()), None)
        if archive:
            try:
                self._zip = zipfile.ZipFile(archive.resolve())
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"images.root: {archive} is not a zip file ({error}); export it again") from None
            inner = root.relative_to(archive).as_posix()
            self._zip_prefix = "" if inner == "." else _composed(inner)
            self._members, self._unclear = _members(self._zip)
            tops = {name.partition("/")[0] for name in self._members} - {"__MACOSX"}
            self._zip_top = tops.pop() if len(tops) == 1 else ""  # archives made of one folder: it need not be named
        elif root.is_dir():
            self._folder = root.resolve()
        else:
            raise UserError(f"images.root: {root} is neither a folder nor a .zip file; correct the path")

    def _local(self, path: str, uri: str) -> Path:
        assert self._folder is not None, "called with a folder root"
        resolved = self._resolved(self._folder / path, uri)
        if path.isascii():
            return resolved
        folder = self._folder
        try:
            spelled = in_any_form(resolved.relative_to(folder), lambda inner: self._names(folder / inner))
        except ValueError as error:
            raise ImageError("missing_image", f"{uri}: {error}") from None
        return self._resolved(folder / spelled, uri)

    def _resolved(self, path: Path, uri: str) -> Path:
        """Where the path leads; never out of the root."""
        assert self._folder is not None, "called with a folder root"
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links
            raise ImageError("forbidden_uri", uri) from None
        if not resolved.is_relative_to(self._folder):
            raise ImageError("forbidden_uri", uri)
        return resolved

    def _read_file(self, path: str, uri: str) -> bytes:
        resolved = self._local(path, uri)
        try:
            status = resolved.stat()
            if not stat.S_ISREG(status.st_mode):  # a folder, a pipe that would block, a device without end
                raise ImageError("missing_image", uri)
            self._check_size(status.st_size)
            with open(resolved, "rb") as handle:
                return self._within_cap(handle.read(self.max_bytes + 1))
        except OSError:
            raise ImageError("missing_image", uri) from None

    def _member_name(self, path: str, uri: str) -> str:
        inner = _composed(_inside(path, uri))
        candidates = [PurePosixPath(prefix, inner).as_posix() for prefix in (self._zip_prefix, self._zip_top)]
        return next((name for name in candidates if name in self._members), candidates[0])

    def _read_member(self, path: str, uri: str) -> bytes:
        assert self._zip is not None, "called with a zip root"
        name = self._member_name(path, uri)
        info = self._members.get(name)
        if info is None or info.is_dir():
            raise ImageError("missing_image", uri)
        if name in self._unclear:
            raise ImageError("missing_image", f"{uri}: two files have this name, in different Unicode forms")
        self._check_size(info.file_size)
        try:
            with self._zip.open(info) as handle:  # the declared size may lie, so the real one is capped too
                return self._within_cap(handle.read(self.max_bytes + 1))
        except (ImageError, MemoryError):  # short of memory is not the archive's fault
            raise
        except Exception as error:  # zlib, CRC, encryption: an archive can be broken in many ways
            raise ImageError("undecodable_image", f"{uri}: {error}"[:200]) from None

    def _read_cloud_uri(self, uri: str) -> bytes:
        parts = urlsplit(uri)
        scheme = parts.scheme.lower()
        in_root = self._cloud is not None and uri.startswith(self._cloud[2] + "/")
        # A query could redirect the client to another endpoint, user info carry foreign credentials.
        if (scheme not in self.allowed and not in_root) or parts.query or "@" in parts.netloc or not parts.netloc:
            raise ImageError("forbidden_uri", uri)
        inner = _inside(parts.path.lstrip("/"), uri)
        key = (scheme, parts.netloc)
        if key not in self._filesystems:
            self._filesystems[key] = fs.FileSystem.from_uri(f"{scheme}://{parts.netloc}")[0]
        return self._read_cloud(self._filesystems[key], f"{parts.netloc}/{inner}", uri)

    def _read_cloud(self, filesystem: Any, path: str, uri: str) -> bytes:
        try:
            forms = dict.fromkeys((path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))))
            infos = ((form, filesystem.get_file_info(form)) for form in forms)
            spelled, info = next(((form, info) for form, info in infos if info.type == fs.FileType.File), ("", None))
            if info is None:
                raise ImageError("missing_image", uri)
            self._check_size(info.size or 0)
            with filesystem.open_input_stream(spelled, compression=None) as handle:
                return self._within_cap(handle.read(self.max_bytes + 1))
        except FileNotFoundError:
            raise ImageError("missing_image", uri) from None
        except OSError as error:  # not the row's fault: quarantining it would make the dataset depend on the network
            raise UserError(
                f"images: cannot read {uri} ({error}); check the network and the credentials, then run again"
            ) from None

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise ImageError("image_too_large", f"{size} bytes")

    def _within_cap(self, data: bytes) -> bytes:
        if len(data) > self.max_bytes:
            raise ImageError("image_too_large", f"more than {self.max_bytes} bytes")
        return data


def read_located(uri: str, *, max_bytes: int) -> bytes:
    """The bytes behind a URI that `ImageSource.locate` wrote. Raises `ImageError`."""
    folder, _, file = uri.rpartition("/")
    if not folder:
        folder = "/"
    try:
        source = _located_source(folder, max_bytes)
    except UserError:
        raise ImageError("missing_image", uri) from None
    return source.read(uri if _scheme(uri) else file)


@functools.lru_cache(maxsize=64)  # opening a zip reads its whole directory
def _located_source(folder: str, max_bytes: int) -> ImageSource:
    return ImageSource(ImagesConfig(root=folder, max_bytes=max_bytes, allowed_schemes=list(CLOUD_SCHEMES)))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _members(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], set[str]]:
    """Name in composed form -> member, and the names that are spelled in two forms.

    Macs write names in UTF-8 without saying so, which zipfile reads as code page 437.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    unclear: set[str] = set()
    for info in archive.infolist():
        name = info.filename
        if not (info.flag_bits & 0x800 or name.isascii()):
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode()
        composed = _composed(name)
        if composed in members and members[composed].filename != info.filename:
            unclear.add(composed)
        members[composed] = info
    return members, unclear


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri.strip())
    return (match.group(1) or match.group(2)).lower() if match else ""


def _path(uri: str) -> str:
    """The path inside a file:// URI; anything else is a path already."""
    return unquote(urlsplit(uri).path) if _scheme(uri) == "file" else uri


def _inside(path: str, uri: str) -> str:
    """A relative path without any way up. Raises `ImageError`."""
    if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path):
        raise ImageError("forbidden_uri", uri)
    return PurePosixPath(path).as_posix()


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
        place = self._index().get(content_hash)
        if place is None:
            raise UserError(f"content_hash: {content_hash!r} is not in {self.folder}; import the image first")
        part, group, row = place
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


def thumbnail(image: Image.Image) -> bytes:
    """An RGB image shrunk to at most 112 x 112 pixels, as WEBP bytes (about 3 KB)."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.save(out, format="WEBP", quality=80, method=0)
    return out.getvalue()
