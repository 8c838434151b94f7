"""The images of a table of pairs: each read once for its content hash, and found again by it when it is to be encoded.

Nothing is decoded here, and no more images are in memory than threads read.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from countryreward.data.data_config import ImagesConfig
from countryreward.data.decoding import ImageError
from countryreward.data.images import ImageSource
from countryreward.progress import ShowProgress
from countryreward.scoring.pair_table import SIDES, PairTable

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
