"""The products: one shape per category, in a product colour, with a small pattern. It fills the unit square."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from countryreward.data.marketplace.canvas import Canvas, Point, mix
from countryreward.data.marketplace.vocabulary import RGB

PATTERNS: tuple[str, ...] = ("plain", "stripes", "dots", "band", "diagonal", "checks")
"""Patterns on the coloured parts."""

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (20, 20, 24)
_STEEL: RGB = (176, 182, 190)
_WOOD: RGB = (150, 104, 66)


class Tile:
    """A product being drawn: colours [P, P, 3], its silhouette [P, P], and the part of it that takes the pattern."""

    def __init__(self, px: int, colour: RGB) -> None:
        self.colours = Canvas(np.zeros((px, px, 3), np.uint8))
        self.silhouette = Canvas(np.zeros((px, px), np.uint8))
        self.body = Canvas(np.zeros((px, px), np.uint8))
        light = sum(colour) > 600  # a white product needs grey shading to be seen
        self.main = colour
        self.shade = mix(colour, BLACK, 0.16 if light else 0.3)
        self.shine = mix(colour, WHITE, 0.35)
        self.contrast = mix(colour, BLACK, 0.22) if light else mix(colour, WHITE, 0.55)

    def poly(self, points: list[Point], colour: RGB, *, body: bool = False) -> None:
        """A filled polygon on colours and silhouette; `body`: it takes the pattern."""
        self._on_all(body, colour, lambda canvas, value: canvas.poly(points, value))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB, *, body: bool = False) -> None:
        """A filled ellipse."""
        self._on_all(body, colour, lambda canvas, value: canvas.ellipse(x, y, rx, ry, value))

    def ring(
        self, x: float, y: float, rx: float, ry: float, width: float, colour: RGB, arc: tuple[float, float] = (0, 360)
    ) -> None:
        """The outline of an ellipse; `width` as a share of the tile."""
        self._on_all(False, colour, lambda canvas, value: canvas.ring(x, y, rx, ry, width, value, arc=arc))

    def line(self, points: list[Point], width: float, colour: RGB) -> None:
        """An open line through the points; `width` as a share of the tile."""
        self._on_all(False, colour, lambda canvas, value: canvas.line(points, width, value))

    def apply_pattern(self, pattern: str) -> None:
        """Lay the pattern over the body drawn so far."""
        layer = Canvas(np.zeros_like(self.body.pixels))
        if pattern == "stripes":
            for y in np.arange(0.04, 1, 0.12):
                layer.rect(0, y, 1, y + 0.045, 255)
        elif pattern == "dots":
            for row, y in enumerate(np.arange(0.06, 1, 0.11)):
                for x in np.arange(0.06 + 0.055 * (row % 2), 1, 0.11):
                    layer.ellipse(x, y, 0.027, 0.027, 255)
        elif pattern == "band":
            layer.rect(0, 0.56, 1, 0.66, 255)
        elif pattern == "diagonal":
            for x in np.arange(-1, 1, 0.16):
                layer.poly([(x, 0), (x + 0.06, 0), (x + 1.06, 1), (x + 1, 1)], 255)
        elif pattern == "checks":
            for x in np.arange(0, 1, 0.14):
                layer.rect(x, 0, x + 0.07, 1, 110)
            both = Canvas(np.zeros_like(layer.pixels))
            for y in np.arange(0, 1, 0.14):
                both.rect(0, y, 1, y + 0.07, 110)
            layer.pixels += both.pixels
        alpha = (layer.pixels.astype(np.uint16) * self.body.pixels // 255)[:, :, None]
        pixels = self.colours.pixels
        pixels[:] = (pixels * (255 - alpha) + np.array(self.contrast, np.uint16) * alpha) // 255

    def _on_all(self, body: bool, colour: RGB, put: Callable[[Canvas, RGB | int], None]) -> None:
        put(self.colours, colour)
        put(self.silhouette, 255)
        put(self.body, 255 if body else 0)  # what covers the body takes no pattern


def _sneaker(t: Tile, pattern: str) -> None:
    heel: list[Point] = [(0.06, 0.68), (0.07, 0.42), (0.14, 0.36), (0.24, 0.42), (0.38, 0.38), (0.47, 0.32)]
    toe: list[Point] = [(0.56, 0.40), (0.70, 0.52), (0.88, 0.57), (0.95, 0.64), (0.95, 0.70)]
    t.poly(heel + toe, t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.06, 0.68), (0.07, 0.50), (0.2, 0.53), (0.24, 0.69)], t.shade)
    t.poly([(0.70, 0.70), (0.74, 0.57), (0.88, 0.57), (0.95, 0.64), (0.95, 0.70)], t.shade)
    for x, y in ((0.46, 0.42), (0.53, 0.47), (0.60, 0.52)):
        t.line([(x - 0.05, y + 0.06), (x + 0.04, y - 0.03)], 0.02, WHITE)
    t.poly([(0.04, 0.68), (0.97, 0.68), (0.96, 0.78), (0.9, 0.80), (0.08, 0.80), (0.04, 0.77)], (244, 244, 244))
    t.line([(0.05, 0.755), (0.95, 0.755)], 0.016, t.contrast)


def _handbag(t: Tile, pattern: str) -> None:
    t.ring(0.5, 0.4, 0.22, 0.3, 0.05, t.shade, (180, 360))
    t.poly([(0.14, 0.38), (0.86, 0.38), (0.94, 0.9), (0.06, 0.9)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.14, 0.38), (0.86, 0.38), (0.83, 0.56), (0.5, 0.64), (0.17, 0.56)], t.shade)
    t.ellipse(0.5, 0.6, 0.05, 0.05, (214, 176, 84))
    t.line([(0.08, 0.87), (0.92, 0.87)], 0.02, t.shade)


def _lamp(t: Tile, pattern: str) -> None:
    t.line([(0.5, 0.5), (0.5, 0.88)], 0.05, _STEEL)
    t.ellipse(0.5, 0.72, 0.1, 0.12, t.shade)
    t.ellipse(0.5, 0.9, 0.2, 0.05, mix(_STEEL, BLACK, 0.3))
    t.poly([(0.34, 0.1), (0.66, 0.1), (0.86, 0.52), (0.14, 0.52)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.34, 0.1), (0.40, 0.1), (0.26, 0.52), (0.14, 0.52)], t.shine)
    t.ellipse(0.5, 0.52, 0.36, 0.035, (255, 240, 190))


def _mug(t: Tile, pattern: str) -> None:
    t.ring(0.76, 0.52, 0.15, 0.17, 0.07, t.shade)
    t.poly([(0.14, 0.24), (0.72, 0.24), (0.70, 0.84), (0.64, 0.88), (0.22, 0.88), (0.16, 0.84)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.19, 0.28), (0.25, 0.28), (0.26, 0.82), (0.21, 0.82)], t.shine)
    t.ellipse(0.43, 0.24, 0.29, 0.06, t.shade)
    t.ellipse(0.43, 0.25, 0.25, 0.045, (92, 56, 34))


def _perfume(t: Tile, pattern: str) -> None:
    t.poly([(0.4, 0.06), (0.6, 0.06), (0.6, 0.22), (0.4, 0.22)], (206, 172, 92))
    t.poly([(0.44, 0.22), (0.56, 0.22), (0.56, 0.3), (0.44, 0.3)], _STEEL)
    t.poly([(0.24, 0.3), (0.76, 0.3), (0.84, 0.38), (0.84, 0.9), (0.16, 0.9), (0.16, 0.38)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.21, 0.4), (0.27, 0.34), (0.27, 0.86), (0.21, 0.86)], t.shine)
    t.poly([(0.34, 0.52), (0.68, 0.52), (0.68, 0.74), (0.34, 0.74)], (250, 248, 240))
    t.line([(0.40, 0.60), (0.62, 0.60)], 0.02, BLACK)
    t.line([(0.44, 0.67), (0.58, 0.67)], 0.014, BLACK)


def _headphones(t: Tile, pattern: str) -> None:
    t.ring(0.5, 0.5, 0.36, 0.38, 0.08, t.shade, (180, 360))
    t.ring(0.5, 0.5, 0.36, 0.38, 0.025, t.shine, (200, 340))
    t.poly([(0.06, 0.5), (0.2, 0.44), (0.28, 0.48), (0.28, 0.86), (0.2, 0.9), (0.06, 0.84)], t.main, body=True)
    t.poly([(0.94, 0.5), (0.8, 0.44), (0.72, 0.48), (0.72, 0.86), (0.8, 0.9), (0.94, 0.84)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.26, 0.5), (0.33, 0.52), (0.33, 0.82), (0.26, 0.84)], BLACK)
    t.poly([(0.74, 0.5), (0.67, 0.52), (0.67, 0.82), (0.74, 0.84)], BLACK)


def _chair(t: Tile, pattern: str) -> None:
    for x, dx in ((0.24, -0.04), (0.76, 0.04)):
        t.line([(x, 0.78), (x + dx, 0.95)], 0.045, _WOOD)
    t.poly([(0.22, 0.14), (0.3, 0.06), (0.7, 0.06), (0.78, 0.14), (0.78, 0.66), (0.22, 0.66)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.16, 0.6), (0.84, 0.6), (0.84, 0.8), (0.16, 0.8)], t.shade)
    t.poly([(0.2, 0.56), (0.8, 0.56), (0.8, 0.68), (0.2, 0.68)], t.shine)
    t.poly([(0.06, 0.42), (0.2, 0.42), (0.22, 0.8), (0.08, 0.8)], t.main)
    t.poly([(0.94, 0.42), (0.8, 0.42), (0.78, 0.8), (0.92, 0.8)], t.main)
    t.line([(0.2, 0.44), (0.22, 0.8)], 0.014, t.shade)
    t.line([(0.8, 0.44), (0.78, 0.8)], 0.014, t.shade)


def _watch(t: Tile, pattern: str) -> None:
    t.poly([(0.36, 0.02), (0.64, 0.02), (0.68, 0.34), (0.32, 0.34)], t.main, body=True)
    t.poly([(0.36, 0.98), (0.64, 0.98), (0.68, 0.66), (0.32, 0.66)], t.main, body=True)
    t.apply_pattern(pattern)
    t.poly([(0.76, 0.47), (0.83, 0.47), (0.83, 0.53), (0.76, 0.53)], _STEEL)
    t.ellipse(0.5, 0.5, 0.29, 0.29, _STEEL)
    t.ellipse(0.5, 0.5, 0.25, 0.25, mix(t.shade, BLACK, 0.25))
    t.ellipse(0.5, 0.5, 0.23, 0.23, (250, 249, 244))
    for hour in range(12):
        x, y = np.cos(hour * np.pi / 6), np.sin(hour * np.pi / 6)
        t.line([(0.5 + 0.175 * x, 0.5 + 0.175 * y), (0.5 + 0.205 * x, 0.5 + 0.205 * y)], 0.016, BLACK)
    t.line([(0.42, 0.40), (0.5, 0.5), (0.61, 0.36)], 0.022, BLACK)


_DRAW: dict[str, Callable[[Tile, str], None]] = {
    "sneaker": _sneaker, "handbag": _handbag, "lamp": _lamp, "mug": _mug,
    "perfume": _perfume, "headphones": _headphones, "chair": _chair, "watch": _watch,
}  # fmt: skip


@dataclass(frozen=True)
class ProductTile:
    """A drawn product, ready for `Canvas.paste`; arrays are uint8 [P, P, 3]. Cached: do not write to them."""

    premultiplied: np.ndarray
    """Colour x alpha."""
    remainder: np.ndarray
    """255 (1 - alpha)."""
    foot: float
    """Where the shape ends below, as a share of the tile: the shadow lies there."""
    breadth: float = 1.0
    """Width of the shadow as a share of the usual one."""


@lru_cache(maxsize=512)
def product_tile(category: str, colour: RGB, pattern: str, px: int) -> ProductTile:
    """The product of a category (key of CATEGORIES) in a colour with one of PATTERNS, `px` high and wide."""
    tile = Tile(px, colour)
    _DRAW[category](tile, pattern)
    across = np.linspace(1.07, 0.85, px)[None, :, None]  # light from the left rounds the shape
    shaded = np.clip(tile.colours.pixels * across, 0, 255).astype(np.uint8)
    alpha = cv2.merge([tile.silhouette.pixels] * 3)
    foot = float(np.flatnonzero(tile.silhouette.pixels.any(axis=1))[-1] + 1) / px
    return ProductTile(premultiplied=cv2.multiply(shaded, alpha, scale=1 / 255), remainder=255 - alpha, foot=foot)
