"""A table of pairs, checked, and its images, each read once for its content hash and found again by it.

Rows that cannot be asked go to quarantine with their reason.
"""

import functools
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from countryreward import markets
from countryreward.data.creative_identity import stored_copy
from countryreward.data.data_config import ImagesConfig, TableSource
from countryreward.data.decoding import ImageError
from countryreward.data.images import ImageSource
from countryreward.data.importers.parsing import ATTRIBUTE, tags
from countryreward.data.importers.products import described
from countryreward.data.importers.table_files import RawTable, read_table, table_digest
from countryreward.data.quarantine import Quarantine, RowChecks
from countryreward.data.tables import COPY
from countryreward.errors import UserError
from countryreward.progress import ShowProgress
from countryreward.scoring.scoring_config import TableScoring

TABLE = "pairs"
SIDES = ("image_a", "image_b")
DESCRIPTION = ("product_id", "title", "category", "attributes", "tags")
WORDS = tuple(f"{name}_{side}" for side in "ab" for name in COPY)
"""The words of each side's ad: headline_a, body_a, call_to_action_a, tags_a, headline_b ..."""
COLUMNS = ("row_id", *DESCRIPTION, ATTRIBUTE, *SIDES, *WORDS, "market")
"""What a table may have."""
ANSWERS = (
    "row",
    "choice",
    "probability",
    "calibrated_probability",
    "log_odds",
    "past_ads",
    "note",
    "claim",
    "model_version",
    "knowledge_base_version",
)
"""What verdicts.parquet has beside `market` and columns of the table."""


@dataclass(frozen=True)
class PairTable:
    """All rows of the table; `checks.good` tells which of them can be asked so far."""

    raw: RawTable
    checks: RowChecks
    frame: pd.DataFrame
    """Row i of the table: row_id, product_id, title, category, attributes (dict), tags (list), image_a, image_b, the columns to
    keep, copy_a and copy_b (`Copy`, or None) where the table has words, and market (alpha-2) where rows bring their own."""
    markets: tuple[str, ...] | None
    """Asked for every row; None: each row's own."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the table's bytes, hex."""
        return table_digest(self.raw.source.path)

    @functools.cached_property
    def embedded(self) -> tuple[str, ...]:
        """The sides whose images are file bytes in the table."""
        return tuple(side for side in SIDES if self.raw.holds_bytes(side))


def read_pairs(config: TableScoring, trained: tuple[str, ...], quarantine: Quarantine) -> PairTable:
    """Read and check everything but the images. trained: the markets of the model.

    Raises `UserError` for a table that cannot be read or lacks a column, for a market option that is none, and for a column of
    markets that can be read in two ways.
    """
    taken = sorted(set(config.keep) & {*COLUMNS, *ANSWERS})
    if taken:
        raise UserError(
            f"keep: {taken[0]!r} is a column of the verdicts already; leave it out or rename it in the table"
        )
    asked = _codes(config)
    source = TableSource(path=config.pairs, columns=config.columns, constants=config.constants)
    known, required = (*COLUMNS, *config.keep), ("title", *SIDES, *config.keep)
    raw = read_table(source, field=TABLE, known=known, required=required, nested=False, verbatim=config.keep)
    frame = raw.frame
    table = PairTable(
        raw=raw,
        checks=RowChecks(
            frame.assign(row=frame.index),
            table=TABLE,
            key="row_id" if "row_id" in frame else "row",
            quarantine=quarantine,
        ),
        frame=frame,
        markets=asked or (None if "market" in frame else trained),
    )
    checks = table.checks
    raw.refuse_unreadable(checks)
    if "row_id" in frame:
        checks.refuse(raw.column("row_id").isna(), "missing_value", "row_id")
        checks.refuse(raw.column("row_id").where(checks.good).duplicated() & checks.good, "duplicate_key", "row_id")
    for name in ("title", *(side for side in SIDES if side not in table.embedded)):
        checks.refuse(raw.column(name).isna(), "missing_value", name)
    parsed = described(raw, checks, ("row_id", *DESCRIPTION, *SIDES, *config.keep))
    if any(name in frame for name in WORDS):
        for side in "ab":
            parsed[f"copy_{side}"] = _copies(raw, checks, side)
    if table.markets is None:
        text = raw.column("market")
        checks.refuse(text.isna(), "missing_value", "market")
        markets.refuse_doubtful(text.dropna().unique(), config.market_aliases)
        spelled = {spelling: markets.parse(spelling, config.market_aliases) for spelling in text.dropna().unique()}
        parsed["market"] = text.map(spelled).astype("str")
        checks.refuse(parsed["market"].isna(), "unknown_market", "market", text)
    return PairTable(raw=raw, checks=checks, frame=parsed, markets=table.markets)


def _copies(raw: RawTable, checks: RowChecks, side: str) -> pd.Series:
    """The words of one side's ad, a or b, row by row: `Copy`, or None where it has none."""
    cells = {name: raw.column(f"{name}_{side}") for name in COPY}
    cells["tags"], bad = tags(cells["tags"])
    checks.refuse(bad, "wrong_type", f"tags_{side}")
    words = [stored_copy(dict(zip(COPY, texts, strict=True))) for texts in zip(*cells.values(), strict=True)]
    return pd.Series(np.array([*words, None], dtype=object)[:-1], index=raw.frame.index)


def image_root(config: TableScoring) -> str:
    """The images' root: as configured, or near the table."""
    if config.images.root or "://" in config.pairs:
        return config.images.root
    beside = Path(config.pairs).parent / "images"
    return str(beside if beside.is_dir() else beside.parent)


def _codes(config: TableScoring) -> tuple[str, ...]:
    codes = {name: markets.parse(name, config.market_aliases) for name in config.markets}
    for name, code in codes.items():
        if code is None:
            raise UserError(
                f"markets: {name!r} is no country and no market of the model; write an ISO 3166 code such as KR or a name"
            )
    return tuple(dict.fromkeys(code for code in codes.values() if code))


_AT_ONCE = 1024  # reads that wait at a time


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image are: behind a URI, or in the file into which those of the table were copied."""

    uri: str = ""
    offset: int = 0
    length: int = 0


@dataclass
class FoundImages:
    """What `find_images` found."""

    hashes: pd.DataFrame
    """hash_a, hash_b by row of the table; missing where the image was refused, or its row before."""
    places: dict[str, Place] = field(default_factory=dict)
    """Content hash -> one place where it is."""


def images_state(table: PairTable, config: ImagesConfig) -> str | None:
    """Changes when one of the images does, at the cost of a look at each file; None: only reading them can tell."""
    digest, source = hashlib.sha256(), ImageSource(config)
    for uri in _uris(table):
        state = source.state(uri)
        if state is None:
            return None
        digest.update(f"{uri}\0{state}\n".encode())
    return digest.hexdigest()


def find_images(
    table: PairTable, config: ImagesConfig, copied: Path, progress: ShowProgress | None = None
) -> FoundImages:
    """Read every image of the good rows once; rows whose image is not there, or is too large, go to quarantine.

    copied: a file to write, into which images that come as bytes in the table are copied, each once.
    """
    names = {side: f"hash_{side[-1]}" for side in SIDES}
    found = FoundImages(pd.DataFrame(None, index=table.frame.index, columns=list(names.values()), dtype=object))
    refused: dict[str, dict[int, ImageError]] = {side: {} for side in SIDES}
    of_uri: dict[str, str | ImageError] = {}
    for uri, outcome in _read_all(_uris(table), config, progress):
        of_uri[uri] = outcome
        if isinstance(outcome, str):
            found.places.setdefault(outcome, Place(uri=uri))
    with open(copied, "wb") as target:
        for side in SIDES:
            if side in table.embedded:
                outcomes = _copy(table, side, config, found.places, target)
            else:
                good = table.frame.loc[table.checks.good, side]
                outcomes = {int(str(row)): of_uri[uri] for row, uri in good.items()}
            refused[side] = {row: outcome for row, outcome in outcomes.items() if isinstance(outcome, ImageError)}
            taken = {row: outcome for row, outcome in outcomes.items() if isinstance(outcome, str)}
            found.hashes[names[side]] = pd.Series(taken, dtype=object).reindex(table.frame.index)
    for side in SIDES:
        refuse_images(table, side, {row: (error.reason, error.field_value) for row, error in refused[side].items()})
    return found


def refuse_images(table: PairTable, side: str, refused: dict[int, tuple[str, str]]) -> None:
    """Quarantine rows of the table by reason. refused: row -> reason, what was found."""
    reasons, values = (
        pd.Series({row: told[part] for row, told in refused.items()}, dtype=object).reindex(table.frame.index)
        for part in (0, 1)
    )
    for reason in sorted({reason for reason, _ in refused.values()}):
        table.checks.refuse(reasons == reason, reason, side, values)


class ImageReader:
    """Gives the bytes of found images again."""

    def __init__(self, config: ImagesConfig, copied: Path) -> None:
        self.source, self.copied = ImageSource(config), copied

    def read(self, content_hash: str, place: Place) -> bytes:
        """Raises `ImageError` where the image is gone or is no longer the one that was found."""
        if place.uri:
            data = self.source.read(place.uri)
        else:
            with open(self.copied, "rb") as file:
                file.seek(place.offset)
                data = file.read(place.length)
        if hashlib.sha256(data).hexdigest() != content_hash:
            raise ImageError("changed_image", place.uri)
        return data


def _uris(table: PairTable) -> list[str]:
    """The URIs of the good rows, each once."""
    sides = [table.frame.loc[table.checks.good, side] for side in SIDES if side not in table.embedded]
    return pd.concat(sides).drop_duplicates().tolist() if sides else []


def _read_all(
    uris: list[str], config: ImagesConfig, progress: ShowProgress | None
) -> Iterator[tuple[str, str | ImageError]]:
    """(URI, content hash or refusal), read in threads."""
    source = ImageSource(config)

    def read(uri: str) -> str | ImageError:
        try:
            return hashlib.sha256(source.read(uri)).hexdigest()
        except ImageError as error:
            return ImageError(error.reason, error.field_value)  # without its traceback, which holds the bytes

    with ThreadPoolExecutor(config.workers) as pool:
        for start in range(0, len(uris), _AT_ONCE):
            part = uris[start : start + _AT_ONCE]
            yield from zip(part, pool.map(read, part), strict=True)
            if progress:
                progress(start + len(part), len(uris))


def _copy(
    table: PairTable, side: str, config: ImagesConfig, places: dict[str, Place], target: BinaryIO
) -> dict[int, str | ImageError]:
    """Copy the images of one side that are not known yet; row -> content hash or refusal."""
    outcomes: dict[int, str | ImageError] = {}
    good = table.checks.good
    for row, data in enumerate(table.raw.binary(side)):
        if not good[row]:
            continue
        if not data:
            outcomes[row] = ImageError("missing_value", "")
        elif len(data) > config.max_bytes:
            outcomes[row] = ImageError("image_too_large", f"{len(data)} bytes")
        else:
            name = hashlib.sha256(data).hexdigest()
            outcomes[row] = name
            if name not in places:
                places[name] = Place(offset=target.tell(), length=len(data))
                target.write(data)
    return outcomes
