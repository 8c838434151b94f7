"""The products table, and the creatives table of their ads, whose images are hashed and written once per content."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from countryreward.data.creative_identity import copy_hash
from countryreward.data.data_config import ImagesConfig, TableSource
from countryreward.data.decoding import ImageError, ImageFacts, inspect
from countryreward.data.images import ImageSource, ImageWriter
from countryreward.data.importers.parsing import ATTRIBUTE, attributes, tags
from countryreward.data.importers.periods import codes
from countryreward.data.importers.table_files import RawTable, read_table, write_sorted
from countryreward.data.quarantine import Quarantine, RowChecks, tally
from countryreward.data.tables import COPY, CREATIVES, PRODUCTS
from countryreward.errors import UserError
from countryreward.progress import ShowProgress

DESCRIPTION = ("title", "category", "attributes", "tags", "seller", ATTRIBUTE)
"""Columns that describe a product, beside its id."""
_CREATIVE_COLUMNS = ("creative_id", "product_id", "image_uri", "image_bytes", *COPY)


def import_products(source: TableSource, folder: Path, quarantine: Quarantine) -> tuple[dict[str, Any], set[str]]:
    """Write products.parquet; returns the counts and the ids that were kept."""
    raw = read_table(source, field="products", known=("product_id", *DESCRIPTION), required=("product_id", "title"))
    checks = RowChecks(raw.frame, table="products", key="product_id", quarantine=quarantine)
    raw.refuse_unreadable(checks)
    for name in ("product_id", "title"):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    counts, kept = write_products(raw, checks, folder)
    decisions = raw.decisions(checks)
    return counts | ({"decisions": decisions} if decisions else {}), kept


def write_products(raw: RawTable, checks: RowChecks, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Check what describes the products, write those that pass; returns the counts and their ids."""
    frame = described(raw, checks, PRODUCTS.names)
    checks.refuse(frame["product_id"].where(checks.good).duplicated(), "duplicate_key", "product_id")
    kept = frame.loc[checks.good].copy()
    items = [list(found.items()) for found in kept["attributes"]]  # Arrow builds a map from pairs
    kept["attributes"] = pd.Series(items, index=kept.index, dtype=object)
    write_sorted(kept, PRODUCTS, folder / "products.parquet", ["product_id"])
    counts = tally("products", input=len(frame), kept=len(kept), quarantine=checks.quarantine)
    return counts, set(kept["product_id"])


def described(raw: RawTable, checks: RowChecks, names: Sequence[str]) -> pd.DataFrame:
    """The named columns, `attributes` as dicts and `tags` as lists (None where refused) among them."""
    frame = pd.DataFrame({name: raw.column(name) for name in names})
    for name, parse in (("attributes", attributes), ("tags", tags)):
        frame[name], bad = parse(raw.column(name))
        checks.refuse(bad, "wrong_type", name)
    for name in (name for name in raw.frame if str(name).startswith(ATTRIBUTE)):
        key = str(name).removeprefix(ATTRIBUTE)
        filled = [
            (attributes_of, cell)
            for attributes_of, cell in zip(frame["attributes"], raw.frame[name].to_numpy(dtype=object), strict=True)
            if isinstance(cell, str) and attributes_of is not None
        ]
        for attributes_of, cell in filled:
            attributes_of[key] = cell
    return frame


class _Refused(NamedTuple):
    """An image that is refused, and why. Not the exception itself: its traceback would keep the bytes in memory."""

    reason: str
    value: str


class _Image(NamedTuple):
    """One image to read: what it is called in the result, and its URI or its bytes."""

    key: object
    uri: str | None
    data: bytes | None


def import_creatives(
    source: TableSource,
    images: ImagesConfig,
    products: set[str],
    folder: Path,
    quarantine: Quarantine,
    progress: ShowProgress | None = None,
) -> tuple[dict[str, Any], set[str]]:
    """Write creatives.parquet and images/; returns the counts and the creative ids that were kept.

    products: the ids that were kept; a creative of any other product is refused.
    """
    raw = read_table(
        source,
        field="creatives",
        known=_CREATIVE_COLUMNS,
        required=("creative_id", "product_id"),
        skip=("image_bytes",),
    ).with_known({"product_id": products})
    embedded = _has_bytes(source, raw)
    if embedded and images.store == "reference":
        raise UserError(
            "images.store: 'reference' needs an image_uri column, but creatives have image_bytes; use embed"
        )
    checks = RowChecks(raw.frame, table="creatives", key="creative_id", quarantine=quarantine)
    raw.refuse_unreadable(checks)
    for name in ("creative_id", "product_id", *(() if embedded else ("image_uri",))):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    checks.refuse(~raw.column("product_id").isin(products), "unknown_product", "product_id")
    checks.refuse(raw.column("creative_id").where(checks.good).duplicated(), "duplicate_key", "creative_id")
    frame = pd.DataFrame({name: raw.column(name) for name in ("creative_id", "product_id", "image_uri")})
    frame = pd.concat([frame, copy_columns(checks, raw)], axis=1)
    stream = raw.binary("image_bytes") if embedded else None
    counts, kept = write_creatives(frame, checks, images, folder, stream, progress)
    decisions = raw.decisions(checks)
    return counts | ({"decisions": decisions} if decisions else {}), kept


def copy_columns(checks: RowChecks, raw: RawTable, suffix: str = "") -> pd.DataFrame:
    """The words of each ad (`tables.COPY`, `tags` as lists) and their `copy_hash`; refuses tags that cannot be read.

    suffix: the side's ending in a pair file ("_a").
    """
    words = pd.DataFrame({name: raw.column(name + suffix) for name in COPY})
    distinct = words.drop_duplicates()
    lists, bad = tags(distinct["tags"])
    texts = distinct[["headline", "body", "call_to_action"]].astype(object)
    texts = texts.where(texts.notna(), None).itertuples(index=False, name=None)
    hashes = [
        copy_hash(headline, body, action, found or ())
        for (headline, body, action), found in zip(texts, lists, strict=True)
    ]
    number = codes(words, list(COPY))
    told = distinct.assign(tags=lists, copy_hash=pd.Series(hashes, index=distinct.index, dtype="str"), bad=bad)
    frame = told.set_index(number[distinct.index]).loc[number].set_index(words.index)
    checks.refuse(frame["bad"], "wrong_type", "tags" + suffix)
    return frame.drop(columns="bad")


def write_creatives(
    frame: pd.DataFrame,
    checks: RowChecks,
    images: ImagesConfig,
    folder: Path,
    stream: Iterator[bytes | None] | None = None,
    progress: ShowProgress | None = None,
) -> tuple[dict[str, Any], set[str]]:
    """Read the images of the rows that pass so far, write what is good; returns the counts and the creative ids.

    frame: creative_id, product_id, image_uri and the columns of `copy_columns`. stream: the image bytes of every row, instead of
    reading image_uri.
    """
    good = frame.loc[checks.good]
    if stream is None:  # an image that many creatives share is read once
        uris = good["image_uri"].drop_duplicates().tolist()
        results_by_key = _gather((_Image(uri, uri, None) for uri in uris), len(uris), images, folder, progress)
        results = pd.Series([results_by_key[uri] for uri in good["image_uri"]], index=good.index, dtype=object)
        field = "image_uri"
    else:
        rows = set(good.index)
        inline = (_Image(row, None, data or b"") for row, data in enumerate(stream) if row in rows)
        results_by_key = _gather(inline, len(rows), images, folder, progress)
        results = pd.Series([results_by_key[row] for row in good.index], index=good.index, dtype=object)
        field = "image_bytes"
    results = results.reindex(frame.index)
    refused = {row: result for row, result in results.items() if isinstance(result, _Refused)}
    reasons = pd.Series({row: result.reason for row, result in refused.items()}, dtype=object).reindex(frame.index)
    values = pd.Series({row: result.value for row, result in refused.items()}, dtype=object).reindex(frame.index)
    for reason in sorted({result.reason for result in refused.values()}):
        checks.refuse(reasons == reason, reason, field, values)
    kept = frame.loc[checks.good].copy()
    facts = [result for result in results[checks.good] if isinstance(result, ImageFacts)]
    kept["content_hash"] = pd.Series([fact.content_hash for fact in facts], index=kept.index, dtype="str")
    kept["perceptual_hash"] = pd.Series([fact.perceptual_hash for fact in facts], index=kept.index, dtype="str")
    write_sorted(kept, CREATIVES, folder / "creatives.parquet", ["creative_id"])
    counts = tally("creatives", input=len(frame), kept=len(kept), quarantine=checks.quarantine)
    return counts, set(kept["creative_id"])


def _has_bytes(source: TableSource, raw: RawTable) -> bool:
    """Whether images come as bytes. Raises `UserError` when neither column is there, or bytes are not in Parquet."""
    if "image_bytes" in raw.skipped and source.path.lower().endswith(".parquet"):
        return True
    if "image_uri" not in raw.frame:
        raise UserError(
            f"creatives: column 'image_uri' is not in {source.path}, which has {', '.join(raw.names)}; "
            "say which column it is by creatives.columns: {image_uri: ...}, or give image_bytes in Parquet"
        )
    return False


def _gather(
    images: Iterable[_Image], total: int, config: ImagesConfig, folder: Path, progress: ShowProgress | None
) -> dict[object, ImageFacts | _Refused]:
    """Read and inspect images in threads, write the good ones in order; at most a few per thread are in memory."""
    source = ImageSource(config)

    def check(image: _Image) -> tuple[_Image, bytes, ImageFacts | _Refused]:
        try:
            data = image.data if image.uri is None else source.read(image.uri)
            if not data:
                raise ImageError("missing_value" if image.uri is None else "undecodable_image", "no bytes")
            return image, data, inspect(data, max_bytes=config.max_bytes, max_pixels=config.max_pixels)
        except ImageError as error:
            return image, b"", _Refused(error.reason, error.field_value)

    results: dict[object, ImageFacts | _Refused] = {}
    with ThreadPoolExecutor(config.workers) as pool, ImageWriter(folder, embed=config.store == "embed") as writer:
        waiting: deque[Future[tuple[_Image, bytes, ImageFacts | _Refused]]] = deque()

        def take() -> None:
            image, data, result = waiting.popleft().result()
            results[image.key] = result
            if isinstance(result, ImageFacts):
                located = source.locate(image.uri) if config.store == "reference" and image.uri is not None else None
                writer.add(result, data=data, uri=located)
            if progress and (len(results) % 256 == 0 or len(results) == total):
                progress(len(results), total)

        for image in images:
            waiting.append(pool.submit(check, image))
            if len(waiting) >= config.workers * 4:
                take()
        while waiting:
            take()
    return results
