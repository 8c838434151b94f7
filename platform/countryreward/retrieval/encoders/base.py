"""What every encoder is: product texts or images to unit vectors, so that the inner product of Eq. 1 is a cosine.

A fingerprint names what made a vector: a knowledge base refuses queries from another encoder.
"""

import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """Texts to unit vectors, the same for a text in composed and in decomposed form."""

    fingerprint: str
    dimension: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n] texts -> [n, D] float32, rows of norm 1 (0 for a text without any feature)."""
        ...


class ImageEncoder(Protocol):
    """RGB images to unit vectors."""

    fingerprint: str
    dimension: int

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """[n] RGB images of any size -> [n, D] float32, rows of norm 1."""
        ...


def composed(texts: Sequence[str]) -> list[str]:
    """Texts in composed form (NFC): what looks the same is encoded the same, whoever typed it."""
    return [unicodedata.normalize("NFC", text) for text in texts]


def unit_rows(vectors: NDArray) -> Vectors:
    """Rows scaled to norm 1 in float64, then float32; zero rows stay zero. [n, D] -> [n, D]."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)
