"""How a model gets its images: from a feature store (nothing is decoded or encoded), or decoded and encoded at every read.

Legend: M different images, P patches, W the tower's width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from countryreward.data.decoding import decode
from countryreward.data.feature_store import FeatureStore
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import Quarantine
from countryreward.models.processor import PairProcessor, pixels
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.tower import tower_hash


class ImageInputs(Protocol):
    """Images by content hash, as keyword arguments of the model."""

    def __contains__(self, content_hash: object) -> bool:
        """Whether it can be read."""
        ...

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """`features` or `pixel_values` of these images, in order; nothing for no image."""
        ...


class StoredFeatures:
    """Features of a store."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __contains__(self, content_hash: object) -> bool:
        """See `ImageInputs`."""
        return content_hash in self.store

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """{"features": float32 [M, P, W]}."""
        if not content_hashes:
            return {}
        return {"features": torch.from_numpy(self.store.read(list(content_hashes)).astype(np.float32, copy=False))}


class DecodedPictures:
    """Pictures decoded at every call, for the model's own tower to encode: what a trained tower needs."""

    def __init__(self, table: ImageTable, processor: PairProcessor, *, px: int) -> None:
        self.table, self.processor, self.px = table, processor, px

    def __contains__(self, content_hash: object) -> bool:
        """See `ImageInputs`."""
        return content_hash in self.table

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """{"pixel_values": float32 [M P, values of a patch]}."""
        if not content_hashes:
            return {}
        limits = {"max_bytes": 2**30, "max_pixels": 2**40}  # the importer has checked them against its own
        pictures = [decode(self.table.bytes_of(name), **limits) for name in content_hashes]
        values, _ = pixels(self.processor, pictures, self.px)
        return {"pixel_values": values}


def with_images(records: pd.DataFrame, images: ImageInputs, quarantine: Quarantine) -> pd.DataFrame:
    """The records both of whose images can be read; the others go to quarantine."""
    known = records["hash_a"].map(images.__contains__) & records["hash_b"].map(images.__contains__)
    for position in (~known).to_numpy().nonzero()[0]:
        row = records.iloc[position]
        lost = row["hash_a"] if row["hash_a"] not in images else row["hash_b"]
        quarantine.add(
            table="records",
            row=int(position),
            key=row["record_id"],
            reason="undecodable_image",
            field="image",
            value=lost,
        )
    return records[known].reset_index(drop=True)


def image_inputs(
    features: str, dataset: Path, model: CountryRewardModel, processor: PairProcessor, *, px: int
) -> ImageInputs:
    """Stored features of exactly this tower, or pictures that are decoded at every read."""
    if features:
        fingerprint = f"{tower_hash(model.backbone.visual)}/{px}px"
        return StoredFeatures(FeatureStore.open(features, tower=fingerprint))
    return DecodedPictures(ImageTable(dataset), processor, px=px)
