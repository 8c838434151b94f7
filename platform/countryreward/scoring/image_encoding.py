"""Images to encodes: decode, the model's own tower, the retrieval encoder, one shard of the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from countryreward.data.data_config import ImagesConfig
from countryreward.data.decoding import ImageError, ImageFacts, read_image
from countryreward.judges.base import encode_pictures, load_judge
from countryreward.retrieval.encoders import load_image_encoder
from countryreward.scoring.feature_cache import write_refused, write_shard
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.pair_images import ImageReader, Place

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
