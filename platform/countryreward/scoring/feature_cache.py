"""Encoded images on disk, found by content hash: the outputs of a model's tower beside what retrieval keeps of an image.

A store is a folder of shards that only grows. A shard is three files of one name; the last one to appear makes it whole:

    NAME.features.npy   [n, P, W] in the model's precision (bfloat16 as its int16 bits)
    NAME.vectors.npy    [n, D] float32, of the retrieval encoder
    NAME.parquet        content_hash, perceptual_hash: row i belongs to image i

NAME.refused.json stands by itself: content hash -> reason and value of images whose bytes cannot be decoded.

Whoever is killed leaves whole shards, which the next run takes, and parts of one, which `FeatureCache.open` removes.

Legend: n images, P patches, W the tower's width, D width of the retrieval encoder.
"""

import json
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from countryreward.data.data_config import ImagesConfig
from countryreward.data.decoding import ImageError, ImageFacts, read_image
from countryreward.data.file_primitives import replaced_file, sync_file, write_atomically
from countryreward.errors import UserError
from countryreward.judges.base import encode_pictures, load_judge
from countryreward.retrieval.encoders import load_image_encoder
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.pair_table import ImageReader, Place
from countryreward.scoring.prior_lookup import EncodedImage

_OPEN_SHARDS = 128  # each holds a file open
FEATURES, VECTORS, INDEX, REFUSED = ".features.npy", ".vectors.npy", ".parquet", ".refused.json"


def write_shard(
    folder: Path,
    names: Sequence[str],
    perceptual: Sequence[str],
    features: torch.Tensor,
    vectors: NDArray[np.float32],
) -> None:
    """Add a shard; when it returns, it survives a crash."""
    bits = features.cpu()
    array = bits.view(torch.int16).numpy() if bits.dtype == torch.bfloat16 else bits.numpy()
    name = secrets.token_hex(8)
    for ending, values in ((FEATURES, array), (VECTORS, vectors)):
        np.save(folder / f"{name}{ending}", values)
        sync_file(folder / f"{name}{ending}")
    with replaced_file(folder / f"{name}{INDEX}") as index:
        pq.write_table(pa.table({"content_hash": list(names), "perceptual_hash": list(perceptual)}), index)


def write_refused(folder: Path, refused: Mapping[str, tuple[str, str]]) -> None:
    """Note images that need not be tried again."""
    write_atomically(folder / f"{secrets.token_hex(8)}{REFUSED}", json.dumps(refused))


class FeatureCache:
    """The whole shards of a store, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, tuple[str, int, int]] = {}  # content hash -> shard, row, perceptual hash
        self.refused: dict[str, tuple[str, str]] = {}
        for path in sorted(folder.glob(f"[!.]*{REFUSED}")):
            self.refused |= {name: (reason, value) for name, (reason, value) in json.loads(path.read_text()).items()}
        self._maps: OrderedDict[str, tuple[NDArray, NDArray]] = OrderedDict()
        for path in sorted(folder.glob(f"[!.]*{INDEX}")):
            if not all((folder / f"{path.stem}{ending}").exists() for ending in (FEATURES, VECTORS)):
                continue
            shard = pq.read_table(path).to_pydict()
            for row, (name, perceptual) in enumerate(zip(shard["content_hash"], shard["perceptual_hash"], strict=True)):
                self._where[name] = (path.stem, row, int(perceptual, 16))

    @classmethod
    def open(cls, folder: Path) -> "FeatureCache":
        """Open a store that nobody writes to, made if need be, without what a killed run left half-written."""
        folder.mkdir(parents=True, exist_ok=True)
        whole = {path.stem for path in folder.glob(f"[!.]*{INDEX}")}
        for path in folder.iterdir():
            if path.name.partition(".")[0] not in whole and not path.name.endswith(REFUSED):
                path.unlink()
        return cls(folder)

    def __contains__(self, content_hash: object) -> bool:
        return content_hash in self._where

    def __len__(self) -> int:
        return len(self._where)

    def image(self, content_hash: str) -> EncodedImage:
        """An image as retrieval sees it."""
        shard, row, perceptual = self._where[content_hash]
        vector = np.array(self._shard(shard)[1][row])
        return EncodedImage(content_hash=content_hash, perceptual_hash=perceptual, vector=vector)

    def features(self, content_hashes: Sequence[str]) -> torch.Tensor:
        """[n, P, W] in the model's precision, in order."""
        rows = []
        for name in content_hashes:
            shard, row, _ = self._where[name]
            rows.append(self._shard(shard)[0][row])
        stacked = torch.from_numpy(np.stack(rows))
        return stacked.view(torch.bfloat16) if stacked.dtype == torch.int16 else stacked

    def _shard(self, name: str) -> tuple[NDArray, NDArray]:
        if name in self._maps:
            self._maps.move_to_end(name)
        else:
            features, vectors = (np.load(self.folder / f"{name}{e}", mmap_mode="r") for e in (FEATURES, VECTORS))
            self._maps[name] = (features, vectors)
            while len(self._maps) > _OPEN_SHARDS:
                self._maps.popitem(last=False)
        return self._maps[name]


def image_bytes(folder: ModelFolder, *, half: bool) -> int:
    """Bytes that one encoded image takes on disk. half: computed in bfloat16."""
    config = json.loads((folder.artifact.path / "config.json").read_text(encoding="utf-8"))
    tower = config["qwen2_vl"]["vision_config"]
    patches = (config["image_px"] // tower["patch_size"]) ** 2
    return patches * tower["embed_dim"] * (2 if half else 4) + folder.base.image_vectors.shape[1] * 4


def check_space(place: Path, images: int, each: int) -> str:
    """What encoding so many images takes, for people. Raises `UserError` where the disk has less."""
    needed, free = images * each, shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"work: {images:,} encoded images take {_size(needed)}, {place} has {_size(free)} free;"
            " free space, or write another folder as work"
        )
    return _size(needed)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


_PIXELS_AT_ONCE = 100_000_000  # of decoded pictures, 3 bytes each


@dataclass
class Encoded:
    """What became of some images."""

    tower_encodes: int = 0
    """Pictures that went through the tower; counted where it is called."""
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Content hash -> reason, what was found, of images whose bytes cannot be decoded."""
    lost: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The same of images that are gone, or changed since they were found: says nothing of these bytes."""


class ImageEncoding:
    """Encodes images of a table. Of the judge only what encodes stays in memory."""

    def __init__(
        self, folder: ModelFolder, images: ImagesConfig, copied: Path, *, device: torch.device | str, batch_size: int
    ) -> None:
        self.judge = load_judge(folder.artifact.path, device, encode_only=True)
        self.encoder = load_image_encoder(folder.base.manifest.config["encoder_names"]["image"])
        self.reader, self.limits, self.batch_size = ImageReader(images, copied), images, batch_size

    def encode(self, names: Sequence[str], places: Sequence[Place], store: Path) -> Encoded:
        """Write one shard with every image that can be decoded."""
        done = Encoded()
        facts: list[ImageFacts] = []
        features, vectors = [], []
        for pictures in self._groups(names, places, done, facts):
            features.append(encode_pictures(self.judge, pictures, self.batch_size).cpu())
            done.tower_encodes += len(pictures)
            vectors.append(self.encoder.encode(pictures))
        if facts:
            hashes = [fact.content_hash for fact in facts]
            perceptual = [fact.perceptual_hash for fact in facts]
            write_shard(store, hashes, perceptual, torch.cat(features), np.concatenate(vectors))
        if done.refused:
            write_refused(store, done.refused)
        return done

    def _groups(
        self, names: Sequence[str], places: Sequence[Place], done: Encoded, facts: list[ImageFacts]
    ) -> Iterator[list[Image.Image]]:
        """Decoded pictures, as many at a time as fit a batch and the memory."""
        group: list[Image.Image] = []
        pixels = 0
        for name, place in zip(names, places, strict=True):
            try:
                data = self.reader.read(name, place)
            except ImageError as refused:
                done.lost[name] = (refused.reason, refused.field_value)
                continue
            try:
                fact, picture = read_image(data, max_bytes=self.limits.max_bytes, max_pixels=self.limits.max_pixels)
            except ImageError as refused:
                done.refused[name] = (refused.reason, refused.field_value)
                continue
            facts.append(fact)
            group.append(picture)
            pixels += picture.width * picture.height
            if len(group) == self.batch_size or pixels >= _PIXELS_AT_ONCE:
                yield group
                group, pixels = [], 0
        if group:
            yield group
