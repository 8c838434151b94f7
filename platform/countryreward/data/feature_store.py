"""The feature store (contract 5): outputs of the frozen vision tower, one row per unique image, memory-mapped.

Files of the artifact:

    index.parquet   content_hash, row (ascending hash); images that failed are absent
    features.npy    [images, P, W] float32 or float16: P patches of a square image, W the tower's width, before the merger

A training step reads rows and neither decodes nor encodes. The manifest's config names the tower (hash of its weights), the
image size and the dtype; a model with another tower refuses the store.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.errors import UserError

KIND = "features"


class FeatureStore:
    """Opened features; rows are read from disk when asked for."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        index = pq.read_table(artifact.path / "index.parquet").to_pydict()
        self._row = dict(zip(index["content_hash"], index["row"], strict=True))
        self.features: NDArray = np.load(artifact.path / "features.npy", mmap_mode="r")

    @classmethod
    def open(cls, path: str | Path, *, tower: str | None = None) -> "FeatureStore":
        """Open a published store. Raises `UserError` when it is missing, altered, or (with `tower`) of another tower."""
        store = cls(open_artifact(path, kind=KIND))
        made_by = store.artifact.manifest.config["tower"]
        if tower is not None and made_by != tower:
            raise UserError(
                f"features: {path} was made by tower {made_by}, the model has {tower}; build the features again"
            )
        return store

    def __contains__(self, content_hash: object) -> bool:
        return content_hash in self._row

    def __len__(self) -> int:
        return len(self._row)

    def read(self, content_hashes: list[str]) -> NDArray:
        """Features of images by content hash, in order: [n, P, W]. Raises `UserError` naming a hash that is absent."""
        try:
            rows = [self._row[name] for name in content_hashes]
        except KeyError as error:
            raise UserError(f"features: image {error.args[0]} is not in the store; build the features again") from None
        return np.asarray(self.features[rows])
