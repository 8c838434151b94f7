"""What a caller gives, as form fields and files. Every refusal names the field, the value and the way out."""

import asyncio
import contextlib
import json
import tempfile
import uuid
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pandas as pd
import pyarrow as pa

from countryreward import markets as countries
from countryreward.errors import UserError
from countryreward.scoring.contracts import Copy, KnownResult, Product

ImageLike = bytes | str | Path
"""File bytes, or the path of a file."""
Fields = dict[str, str | list[str]]
Files = tuple[tuple[str, str, bytes | Path], ...]
"""(field, file name, bytes or a path)."""
TABLES = (".csv", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
"""Files of a folder that are sent; all others stay."""


def product_fields(product: Product, *, as_of: date | None = None, evidence: int | None = None) -> Fields:
    """Form fields of a question, without its markets. Raises `UserError` for what is no text."""
    attributes = {_text(name, "attributes"): _text(value, "attributes") for name, value in product.attributes.items()}
    fields: Fields = {
        "title": _text(product.title, "title"),
        "category": _text(product.category or "", "category"),
        "attributes": json.dumps(attributes, ensure_ascii=False) if attributes else "",
        "tags": [_text(tag, "tags") for tag in product.tags],
        "product_id": _text(product.product_id or "", "product_id"),
        "as_of": as_of.isoformat()[:10] if as_of else "",  # a datetime is a date, too
        "evidence": "" if evidence is None else str(evidence),
    }
    return {name: value for name, value in fields.items() if value}


def copy_fields(copy: Copy | None, side: str) -> Fields:
    """Form fields of the words of one ad; side: a or b."""
    fields = asdict(copy) if copy else {}
    return {f"{name}_{side}": list(value) if name == "tags" else value for name, value in fields.items() if value}


def copies_field(copies: Sequence[Copy | None]) -> Fields:
    """The words of several ads as one field; none where no ad has words."""
    return {"copies": _compact([_filled(copy) if copy else None for copy in copies])} if any(copies) else {}


def known_field(known: Sequence[KnownResult]) -> dict[str, str]:
    """What is known of the pairs of one call as one field; none where nothing is."""
    results = [_filled(result) | {"a": result.a.given(), "b": result.b.given()} for result in known]
    return {"known": _compact(results)} if results else {}


def _filled(fields: Copy | KnownResult) -> dict[str, Any]:
    return {name: value for name, value in asdict(fields).items() if value not in (None, ())}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_product(product: Product | str) -> Product:
    """A title alone is a product, too."""
    return Product(title=product) if isinstance(product, str) else product


def image_bytes(image: ImageLike, name: str) -> bytes:
    """The bytes of an image file. Raises `UserError` where it cannot be read."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(f"{name}: {type(image).__name__} is neither bytes nor a path; give a PNG, JPEG or WEBP file")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file") from None


async def read_images(images: Sequence[tuple[ImageLike, str]]) -> list[bytes]:
    """The bytes of several (image, its name in messages), read without holding up the event loop. Raises as `image_bytes`."""
    return await asyncio.to_thread(lambda: [image_bytes(image, name) for image, name in images])


def market_codes(markets: Sequence[str]) -> list[str]:
    """Codes. Raises `UserError` for what is no country and no market that the service told of."""
    if isinstance(markets, str):
        raise UserError(f"markets: {markets!r} is a text; give a list such as ['KR', 'BR']")
    codes: list[str] = []
    for market in markets:
        code = countries.parse(market)
        if code is None:
            raise UserError(
                f"markets: {market!r} is no country and no market of the service; write an ISO 3166 code such as KR or a name"
            )
        codes.append(code)
    return codes


def idempotency_header(key: str | None) -> dict[str, str]:
    """With it a retry gives the same job and not a second one. None: a key that nobody had before.

    Raises `UserError` for what no header can hold.
    """
    if key is None:
        key = uuid.uuid4().hex
    elif not (key.isascii() and key.isprintable() and 0 < len(key) <= 200 and key == key.strip()):
        raise UserError(f"idempotency_key: {key!r} must be 1 to 200 printable ASCII characters; choose another")
    return {"Idempotency-Key": key}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name}: {value!r} is no text; write it as text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: {value!r} holds a character that is no Unicode; write UTF-8") from None
    return value


@contextlib.asynccontextmanager
async def batch_upload(table: pd.DataFrame | str | Path, images: str | Path | None) -> AsyncIterator[Files]:
    """Files of /v1/batch; what is made for sending is deleted at the end of the `with`.

    The same content gives the same bytes. Raises `UserError` for what cannot be sent.
    """
    with tempfile.TemporaryDirectory(prefix="countryreward-") as folder:
        writing = asyncio.create_task(asyncio.to_thread(_write_upload, table, images, Path(folder)))
        try:
            files = await asyncio.shield(writing)
        except asyncio.CancelledError:
            with anyio.CancelScope(
                shield=True
            ):  # the folder can be deleted only when nothing is written there any more
                await asyncio.wait([writing])
            raise
        yield files


def _write_upload(table: pd.DataFrame | str | Path, images: str | Path | None, folder: Path) -> Files:
    if isinstance(table, pd.DataFrame):
        path = folder / "table.parquet"
        _write_parquet(table, path, alone=images is None)
    else:
        path = Path(table)
        if path.suffix.lower() not in TABLES or not path.is_file():
            raise UserError(f"table: {table} is no such file; give a .csv or .parquet file, or a DataFrame")
    files: list[tuple[str, str, bytes | Path]] = [("table", "table" + path.suffix.lower(), path)]
    if images is not None:
        files.append(("images", "images.zip", _zip_images(Path(images), folder / "images.zip")))
    return tuple(files)


def _write_parquet(table: pd.DataFrame, path: Path, *, alone: bool) -> None:
    """alone: no images are sent beside it."""
    frame = table.copy(deep=False)
    missing = [name for name in ("title", "image_a", "image_b") if name not in frame]
    if missing:
        raise UserError(f"table: it lacks the column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    for name in ("image_a", "image_b"):
        cells = frame[name].dropna()
        if cells.map(lambda value: isinstance(value, bytes | Path)).any():
            frame[name] = _objects([None if _is_empty(value) else image_bytes(value, name) for value in frame[name]])
        elif alone and not cells.astype(str).str.contains("://", regex=False).all():
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


def _is_empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _json(value: Any) -> Any:
    """The importer reads maps and lists as JSON: a Parquet struct would give every row every name."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if _is_empty(value) else value


def _zip_images(images: Path, target: Path) -> Path:
    """A folder's images as a zip, under their paths within the folder; a zip as it is."""
    if images.is_file() and zipfile.is_zipfile(images):
        return images
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    if not paths:
        raise UserError(f"images: {images} is neither a zip nor a folder with {', '.join(IMAGES)} files; give either")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as pack:
        for path in paths:
            # One date for all: who copies the folder and sends it again with the same Idempotency-Key sends the same bytes.
            name = zipfile.ZipInfo(path.relative_to(images).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            with path.open("rb") as source, pack.open(name, "w", force_zip64=True) as sink:
                while chunk := source.read(2**20):
                    sink.write(chunk)
    return target
