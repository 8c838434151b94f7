"""A table and its images as files to send. What is made for sending is deleted when the call is over."""

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from countryreward.client.request_forms import image_bytes
from countryreward.errors import UserError

TABLES = (".csv", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
"""Files of a folder that are sent; all others stay."""
Files = tuple[tuple[str, str, bytes | Path], ...]


@contextlib.contextmanager
def upload(table: pd.DataFrame | str | Path, images: str | Path | None) -> Iterator[Files]:
    """Files of /v1/batch. The same content gives the same bytes. Raises `UserError` for what cannot be sent."""
    with tempfile.TemporaryDirectory(prefix="countryreward-") as folder:
        if isinstance(table, pd.DataFrame):
            path = Path(folder) / "table.parquet"
            _write(table, path, alone=images is None)
        else:
            path = Path(table)
            if path.suffix.lower() not in TABLES or not path.is_file():
                raise UserError(f"table: {table} is no such file; give a .csv or .parquet file, or a DataFrame")
        files: list[tuple[str, str, bytes | Path]] = [("table", "table" + path.suffix.lower(), path)]
        if images is not None:
            files.append(("images", "images.zip", _zipped(Path(images), Path(folder) / "images.zip")))
        yield tuple(files)


def _write(table: pd.DataFrame, path: Path, *, alone: bool) -> None:
    """alone: no images are sent beside it."""
    frame = table.copy(deep=False)
    missing = [name for name in ("title", "image_a", "image_b") if name not in frame]
    if missing:
        raise UserError(f"table: it lacks the column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    for name in ("image_a", "image_b"):
        known = frame[name].dropna()
        if known.map(lambda value: isinstance(value, bytes | Path)).any():
            frame[name] = _objects([None if _empty(value) else image_bytes(value, name) for value in frame[name]])
        elif alone and not known.astype(str).str.contains("://", regex=False).all():
            raise UserError(f"images: column {name} names files; give the folder or the zip they are in")
    for name in {"attributes", "tags"} & {str(column) for column in frame.columns}:
        frame[name] = _objects([_json(value) for value in frame[name]])
    try:
        frame.to_parquet(path, index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UserError(f"table: it cannot be written as Parquet ({error}); give each column one type") from None


def _objects(values: list[Any]) -> np.ndarray:
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _json(value: Any) -> Any:
    """The importer reads maps and lists as JSON: a Parquet struct would give every row every name."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if _empty(value) else value


def _zipped(images: Path, target: Path) -> Path:
    """A folder's images as a zip, under their paths within the folder; a zip as it is."""
    if images.is_file() and zipfile.is_zipfile(images):
        return images
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    if not found:
        raise UserError(f"images: {images} is neither a zip nor a folder with {', '.join(IMAGES)} files; give either")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as pack:
        for path in found:
            # One date for all: who copies the folder and sends it again with the same Idempotency-Key sends the same bytes.
            name = zipfile.ZipInfo(path.relative_to(images).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            with path.open("rb") as source, pack.open(name, "w", force_zip64=True) as sink:
                while chunk := source.read(2**20):
                    sink.write(chunk)
    return target
