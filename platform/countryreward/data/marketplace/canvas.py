"""Antialiased drawing in unit coordinates, by OpenCV. x grows to the right, y grows down, both 0 to 1."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from countryreward.data.marketplace.vocabulary import RGB

Point = tuple[float, float]
_SHIFT = 4  # OpenCV takes fixed-point coordinates with this many fractional bits
_ONE = 1 << _SHIFT


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of the second colour, the rest of the first; RGB, 0 to 255."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


class Canvas:
    """A square uint8 array [P, P, C] (C = 3: RGB; or none: a mask) and the shapes that can be put on it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.px = pixels.shape[0]

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: RGB | int) -> None:
        """Filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def poly(self, points: Sequence[Point], colour: RGB | int) -> None:
        """Filled polygon."""
        cv2.fillPoly(self.pixels, [self._fixed(points)], colour, cv2.LINE_AA, _SHIFT)  # type: ignore[arg-type]

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: RGB | int,
        *,
        angle: float = 0,
        arc: tuple[float, float] = (0, 360),
    ) -> None:
        """Filled ellipse, or the sector between the degrees of `arc` (0 = right, 90 = down)."""
        centre, axes = self._point(x, y), self._point(rx, ry)
        cv2.ellipse(self.pixels, centre, axes, angle, *arc, colour, -1, cv2.LINE_AA, _SHIFT)  # type: ignore[call-overload]

    def ring(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        width: float,
        colour: RGB | int,
        *,
        arc: tuple[float, float] = (0, 360),
    ) -> None:
        """Outline of an ellipse; `width` in units."""
        centre, axes = self._point(x, y), self._point(rx, ry)
        cv2.ellipse(self.pixels, centre, axes, 0, *arc, colour, self._width(width), cv2.LINE_AA, _SHIFT)  # type: ignore[call-overload]

    def line(self, points: Sequence[Point], width: float, colour: RGB | int) -> None:
        """Open line through the points; `width` in units."""
        cv2.polylines(self.pixels, [self._fixed(points)], False, colour, self._width(width), cv2.LINE_AA, _SHIFT)  # type: ignore[arg-type]

    def gradient(self, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
        """Fill the rows from y0 to y1 with a vertical gradient over the whole width."""
        first, last = round(y0 * self.px), round(y1 * self.px)
        if last <= first:
            return
        steps = np.linspace(0, 1, last - first)[:, None]
        rows = np.rint(np.array(top) * (1 - steps) + np.array(bottom) * steps).astype(np.uint8)
        self.pixels[first:last] = cv2.repeat(rows[:, None, :], 1, self.px)

    def paste(self, premultiplied: np.ndarray, remainder: np.ndarray, x: float, y: float) -> None:
        """Composite a picture centred at (x, y); what lies outside is cut. Both arrays are uint8 [h, w, 3].

        `premultiplied` is colour x alpha, `remainder` is 255 (1 - alpha).
        """
        height, width = premultiplied.shape[:2]
        left, top = round(x * self.px - width / 2), round(y * self.px - height / 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, self.px), min(top + height, self.px)
        if x0 >= x1 or y0 >= y1:
            return
        area = self.pixels[y0:y1, x0:x1]
        part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        area[:] = cv2.add(cv2.multiply(area, remainder[part], scale=1 / 255), premultiplied[part])

    def stamp(self, mask: np.ndarray, x: float, y: float, colour: RGB) -> None:
        """Blend a colour through a uint8 mask [h, w, 3] centred at (x, y); what lies outside is cut."""
        self.paste(cv2.multiply(mask, (*colour, 0), scale=1 / 255), 255 - mask, x, y)  # type: ignore[call-overload]

    def _point(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.px * _ONE), round(y * self.px * _ONE)

    def _fixed(self, points: Sequence[Point]) -> np.ndarray:
        return np.rint(np.array(points) * (self.px * _ONE)).astype(np.int32)

    def _width(self, width: float) -> int:
        return max(1, round(width * self.px))


@lru_cache(maxsize=256)
def text_mask(text: str, height_px: int, *, angle: float = 0) -> np.ndarray:
    """A uint8 mask [h, w, 3] of bold text about `height_px` high, turned by `angle` degrees. Do not write to it."""
    font = cv2.FontFace("sans")
    room = np.zeros((height_px * 3, height_px * (len(text) + 2)), np.uint8)
    cv2.putText(room, text, (height_px, height_px * 2), (255,), font, height_px, 800)
    if angle:
        side = max(room.shape)
        square = np.zeros((side, side), np.uint8)
        top = (side - room.shape[0]) // 2
        square[top : top + room.shape[0], : room.shape[1]] = room
        rotation = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1)
        room = cv2.warpAffine(square, rotation, (side, side))
    x, y, width, height = cv2.boundingRect(room)
    return cv2.merge([room[y : y + height, x : x + width]] * 3)
