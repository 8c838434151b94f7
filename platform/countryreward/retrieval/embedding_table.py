"""Embeddings of a dataset: the vectors of queries and of the knowledge base, and the one text of a product."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.errors import UserError
from countryreward.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a whole dataset (texts and images of all splits), made once per encoder pair."""

    artifact: Artifact
    products: pd.DataFrame  # product_id, text_row
    images: pd.DataFrame  # content_hash, perceptual_hash, image_row; images that failed are absent
    texts: NDArray[np.float32]
    image_vectors: NDArray[np.float32]

    @classmethod
    def open(cls, path: str | Path) -> "Embeddings":
        """Open a published `embeddings` artifact."""
        artifact = open_artifact(path, kind="embeddings")
        folder = artifact.path
        return cls(
            artifact=artifact,
            products=pq.read_table(folder / "products.parquet").to_pandas(),
            images=pq.read_table(
                folder / "images.parquet", columns=["content_hash", "perceptual_hash", "image_row"]
            ).to_pandas(),
            texts=np.load(folder / "texts.npy", mmap_mode="r"),
            image_vectors=np.load(folder / "images.npy", mmap_mode="r"),
        )

    def check_encoders(self, base: KnowledgeBase) -> None:
        """Raise `UserError` when these embeddings come from other encoders than the knowledge base's."""
        mine, theirs = self.artifact.manifest.config["encoders"], base.manifest.config["encoders"]
        if mine != theirs:
            raise UserError(
                f"embeddings: made by {mine}, the knowledge base by {theirs}; embed again with the same encoders"
            )


def product_text(title: str, category: str | None, attributes: Mapping[str, str], tags: Iterable[str]) -> str:
    """Title, category, attributes in the order of their names, tags: one line each."""
    lines = [
        title,
        category or "",
        *(f"{name}: {value}" for name, value in sorted(attributes.items())),
        ", ".join(tags),
    ]
    return "\n".join(line for line in lines if line)


def product_texts(products: pd.DataFrame) -> list[str]:
    """`product_text` of every row of a products table (attributes as Arrow map entries, tags as lists, either may be null)."""
    rows = zip(products["title"], products["category"], products["attributes"], products["tags"], strict=True)
    return [
        product_text(
            title,
            category if isinstance(category, str) else None,
            dict(attributes) if attributes is not None else {},
            tags if tags is not None else [],
        )
        for title, category, attributes, tags in rows
    ]
