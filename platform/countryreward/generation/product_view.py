"""A product without what is around it, at any size, ready to be looked for in an ad."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

BINS = 4
"""Directions of edges that are told apart, 45 degrees each."""


@dataclass(frozen=True)
class Edges:
    """Where the edges of a picture are and which way they run."""

    canny: np.ndarray
    """bool [h, w]."""
    bins: np.ndarray
    """uint8 [h, w]: the nearest of BINS directions; means nothing where there is no edge."""


def edge_field(pixels: np.ndarray, soft: float) -> np.ndarray:
    """Gradients of uint8 [h, w, C], C from 3, as float32 [h, w, 2]: strength times (cos, sin) of twice the direction.

    So opposite ways are one. The strength rises from 0 to 1; it is a half where the gradient is `soft` (Sobel, 3 x 3). The sum
    over channels (the structure tensor) also sees an edge between two colours of the same brightness.
    """
    across, along = cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1)
    together = np.ones((1, pixels.shape[2]), np.float32)
    even = cv2.transform((across - along) * (across + along), together)
    odd = cv2.transform(across * along, 2 * together)
    size = cv2.magnitude(even, odd)
    strength = cv2.sqrt(size)
    scale = strength / ((strength + soft) * np.maximum(size, 1e-6))
    return cv2.merge([even * scale, odd * scale])


def edges_of(pixels: np.ndarray, field: np.ndarray, low: float, high: float) -> Edges:
    """Canny's edges of uint8 RGB [h, w, 3] with their directions from `edge_field`; thresholds as Canny's."""
    angle = cv2.phase(field[:, :, 0], field[:, :, 1])
    bins = np.rint(angle * (BINS / (2 * np.pi))).astype(np.uint8) % BINS
    return Edges(canny=cv2.Canny(pixels, low, high) > 0, bins=bins)


@dataclass(frozen=True)
class Template:
    """The product at one size."""

    pixels: np.ndarray
    """uint8 RGB [h, w, 3]; black outside."""
    inside: np.ndarray
    """bool [h, w]: well inside the outline."""
    field: np.ndarray
    """`edge_field` with the outline, zero outside of it."""
    norm: float
    """Sum of the squares of the field."""
    edges: Edges
    """Inside, and the outline."""


class ProductView:
    """The foreground of a picture, cut to its bounding box. Templates are kept, so one view serves many ads."""

    def __init__(self, pixels: np.ndarray, mask: np.ndarray) -> None:
        """RGB uint8 [h, w, 3] and the foreground as uint8 [h, w], 255 inside. An empty mask: the whole picture."""
        assert pixels.shape[:2] == mask.shape, (pixels.shape, mask.shape)
        x, y, width, height = cv2.boundingRect(mask)
        if not width:
            x, y, height, width, mask = 0, 0, *mask.shape, np.full_like(mask, 255)
        self.mask = np.ascontiguousarray(mask[y : y + height, x : x + width])
        self.pixels = np.ascontiguousarray(pixels[y : y + height, x : x + width])
        self.box = (x, y, width, height)
        """Of the foreground in the picture, in its pixels: left, top, width, height."""
        self._templates: dict[int, Template] = {}

    @cached_property
    def _cut(self) -> np.ndarray:
        return cv2.bitwise_and(self.pixels, self.pixels, mask=self.mask)

    def template(self, side: int) -> Template:
        """With its longer side `side` pixels long."""
        found = self._templates.get(side)
        if found is None:
            found = self._templates[side] = self._template(side)
        return found

    def _template(self, side: int) -> Template:
        height, width = self.mask.shape
        share = side / max(height, width)
        size = max(3, round(width * share)), max(3, round(height * share))
        how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
        mask = cv2.resize(self.mask, size, interpolation=how)
        # colours are averaged over the product alone, else its rim would take in what was around it
        cut = cv2.resize(self._cut, size, interpolation=how).astype(np.float32)
        pixels = np.clip(cut * (255 / np.maximum(mask, 1)[:, :, None]), 0, 255).astype(np.uint8)
        pixels[mask == 0] = 0
        pixels, mask = (cv2.copyMakeBorder(part, 2, 2, 2, 2, cv2.BORDER_CONSTANT) for part in (pixels, mask))
        field = edge_field(cv2.merge([pixels, mask]), 140)
        field[mask == 0] = 0
        edges = edges_of(pixels, field, 60, 140)
        square = np.ones((3, 3), np.uint8)
        rim = (mask > 127) & (cv2.erode(mask, square) <= 127)
        inside = cv2.erode(mask, square) > 200
        if inside.sum() < 12:
            inside = mask > 127
        return Template(
            pixels=pixels,
            inside=inside,
            field=field,
            norm=float(np.square(field).sum()) + 1e-6,
            edges=Edges(canny=(edges.canny & (mask > 127)) | rim, bins=edges.bins),
        )
