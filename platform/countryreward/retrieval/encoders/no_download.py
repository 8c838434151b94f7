"""Encoders that need no download: `hashed-ngrams` for texts, `layout-hog` for images."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from countryreward.data.decoding import pixels_of
from countryreward.retrieval.encoders.base import Vectors, composed, unit_rows


class HashedNgrams:
    """Character 3- to 5-grams within words, hashed with signs: works for every script and needs no vocabulary."""

    dimension = 512
    fingerprint = "hashed-ngrams/char_wb-3-5/512/v1"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n] texts -> [n, 512] float32 unit rows; 0 for a text without any n-gram."""
        from sklearn.feature_extraction import FeatureHasher
        from sklearn.feature_extraction.text import HashingVectorizer

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        # What HashingVectorizer.transform does, which takes three times as long for one text, to check its own options. It
        # divides by the norm once more than need be; so do we, as vectors under this fingerprint are alike to the last bit.
        ngrams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5)).build_analyzer()
        hasher = FeatureHasher(n_features=self.dimension, input_type="string")
        counts: Any = hasher.transform(ngrams(text) for text in composed(texts))  # a scipy sparse matrix
        dense = counts.toarray()
        norms = np.sqrt((dense**2).sum(axis=1, keepdims=True))
        return unit_rows(dense / np.where(norms > 0, norms, 1))


class LayoutHog:
    """Colour layout (8 x 8 means in CIE Lab) beside a histogram of oriented gradients (4 x 4 cells, 9 bins, 2 x 2 blocks)."""

    dimension = 8 * 8 * 3 + 3 * 3 * 36
    fingerprint = "layout-hog/lab-8x8+hog-64-16-9/v1"
    side = 64

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """[n] RGB images of any size -> [n, 516] float32 unit rows. Both parts have equal norm."""
        rows = np.zeros((len(images), self.dimension), dtype=np.float64)
        for row, image in zip(rows, images, strict=True):
            pixels = cv2.resize(pixels_of(image), (self.side, self.side), interpolation=cv2.INTER_AREA)
            lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
            # Lightness is centred like the two colour axes.
            layout = cv2.resize(
                lab - np.array([50, 0, 0], dtype=np.float32), (8, 8), interpolation=cv2.INTER_AREA
            ).ravel()
            row[:192] = layout / max(float(np.linalg.norm(layout)), 1e-9)
            gradients = self._hog(np.asarray(lab[:, :, 0], dtype=np.float32))
            row[192:] = gradients / max(float(np.linalg.norm(gradients)), 1e-9)
        return unit_rows(rows)

    @staticmethod
    def _hog(lightness: NDArray[np.float32]) -> NDArray[np.float64]:
        """Dalal and Triggs 2005 (this OpenCV no longer ships HOGDescriptor): unsigned angles, linear votes between two bins."""
        magnitude, angle = cv2.cartToPolar(
            cv2.Sobel(lightness, cv2.CV_32F, 1, 0, ksize=1),
            cv2.Sobel(lightness, cv2.CV_32F, 0, 1, ksize=1),
            angleInDegrees=True,
        )
        position = np.asarray(angle % 180) / 20 - 0.5
        lower = np.floor(position).astype(int)
        upper_share = position - lower
        cells = (np.arange(64) // 16)[:, None] * 4 + (np.arange(64) // 16)[None, :]
        histogram = np.zeros(16 * 9)
        for bins, share in ((lower % 9, 1 - upper_share), ((lower + 1) % 9, upper_share)):
            histogram += np.bincount((cells * 9 + bins).ravel(), (np.asarray(magnitude) * share).ravel(), 16 * 9)
        grid = histogram.reshape(4, 4, 9)
        blocks = np.concatenate([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]], axis=2)  # [3, 3, 36]
        blocks = blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1.0)
        return np.minimum(blocks, 0.2).ravel()
