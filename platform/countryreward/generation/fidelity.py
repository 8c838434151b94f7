"""Is the product still recognisable in an ad? Its outline and its look, searched for at any place and size.

An ad may show the product elsewhere and larger or smaller than its own picture does. So the outline is first looked for
in a coarse copy of the ad at many sizes, then about the best few places in a finer one; what agrees best counts.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from countryreward.generation.ad_contracts import Fidelity
from countryreward.generation.product_view import BINS, Edges, ProductView, Template, edge_field, edges_of

_COARSE, _FINE = 40, 112  # sides of the copies of the ad, in pixels
_SIZES = np.geomspace(0.2, 1.0, 11)  # longer side of the product as a share of the ad's
_CANDIDATES = 2
_SOFT = 70  # gradient of an ad at which an edge is one (blurred and dark ads have weak ones)
_NEARBY = (0.94, 1.0, 1.06)  # sizes that are tried about a candidate
_REACH = 4  # pixels of the fine copy about a candidate
_CHANCE = 0.75  # between 0.5 (the largest wins) and 1 (the share that is found alone counts)
_LIGHT = (0.35, 1.8)  # brightness of the ad's light
_TINT = 0.2  # of a colour channel
_COLOUR = 28.0  # distance in Lab at which colours hardly agree
_FLAT = 150.0  # variance of brightness that counts as none


@dataclass(frozen=True)
class Place:
    """Where a product stands in an ad, all as shares of the ad's side."""

    x: float
    """Of its middle, from the left."""
    y: float
    """Of its middle, from the top."""
    size: float
    """Its longer side."""


def fidelity(view: ProductView, ad: np.ndarray) -> Fidelity:
    """How well the product can be recognised in an ad, RGB uint8 [P, P, 3]; zeros where it cannot be found at all.

    `edges`: share of the product's Canny edges that the ad has at the place, within 2 % of its side and 45 degrees, less
    what any place of that ad would have by chance. `look`: colour times structure inside the outline; brightness, and
    a fifth of every colour channel, are taken for the ad's light. `score` is their geometric mean.
    """
    return find(view, ad)[1]


def find(view: ProductView, ad: np.ndarray) -> tuple[Place, Fidelity]:
    """The best place and what `fidelity` says of it."""
    ad = cv2.resize(ad, (_FINE, _FINE), interpolation=cv2.INTER_AREA)
    fine = _Ad(ad)
    best: tuple[Place, Fidelity] | None = None
    for size, x, y in _candidates(view, ad):
        side, left, top = _refine(view, fine, size, x, y)
        found = _agreement(view.template(side), fine, left, top)
        if best is None or found.score > best[1].score:
            height, width = view.template(side).inside.shape
            place = Place(
                x=(left + width / 2 - fine.room) / _FINE, y=(top + height / 2 - fine.room) / _FINE, size=side / _FINE
            )
            best = place, found
    assert best is not None
    return best


def _copy(ad: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """A copy of an ad, `side` pixels wide, with room around it, so that a product may reach a little over its border."""
    room = round(0.08 * side)
    small = cv2.resize(ad, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(small, room, room, room, room, cv2.BORDER_REPLICATE), room


class _Ad:
    """The fine copy of an ad."""

    def __init__(self, ad: np.ndarray) -> None:
        self.pixels, self.room = _copy(ad, _FINE)
        field = edge_field(self.pixels, _SOFT)
        self.field = cv2.GaussianBlur(field, (0, 0), 0.012 * _FINE)
        self.near = _near(edges_of(self.pixels, field, 30, _SOFT), round(0.02 * _FINE))
        self.chance = self.near.mean(axis=(1, 2)) ** 2


def _near(edges: Edges, reach: int) -> np.ndarray:
    """bool [BINS, h, w]: is there an edge of about this direction within `reach` pixels?"""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    own = [(edges.canny & (edges.bins == direction)).astype(np.uint8) for direction in range(BINS)]
    found = [own[n - 1] | own[n] | own[(n + 1) % BINS] for n in range(BINS)]
    return np.stack([cv2.dilate(like, disc) > 0 for like in found])


def _candidates(view: ProductView, ad: np.ndarray) -> list[tuple[float, float, float]]:
    """The most promising sizes and middles, as shares of the ad; each size speaks once."""
    pixels, room = _copy(ad, _COARSE)
    field = cv2.GaussianBlur(edge_field(pixels, _SOFT), (0, 0), 0.6)
    found = []
    for size in _SIZES:
        template = view.template(max(6, round(size * _COARSE)))
        height, width = template.inside.shape
        if height > field.shape[0] or width > field.shape[1]:
            continue
        match = cv2.matchTemplate(field, template.field, cv2.TM_CCORR)
        _, high, _, (left, top) = cv2.minMaxLoc(match)
        # little outlines fit by chance: what a size finds counts the more, the more outline it has
        strength = high / template.norm**_CHANCE
        middle = (left + width / 2 - room) / _COARSE, (top + height / 2 - room) / _COARSE
        found.append((strength, (float(size), *middle)))
    found.sort(key=lambda item: -item[0])
    return [place for _, place in found[:_CANDIDATES]]


def _refine(view: ProductView, ad: _Ad, size: float, x: float, y: float) -> tuple[int, int, int]:
    """Side, left and top in pixels of the fine copy (room included) that fit best near a candidate."""
    best: tuple[float, tuple[int, int, int]] | None = None
    for factor in _NEARBY:
        side = max(10, round(size * factor * _FINE))
        template = view.template(side)
        height, width = template.inside.shape
        left, top = round(x * _FINE - width / 2) + ad.room, round(y * _FINE - height / 2) + ad.room
        x0, y0 = max(0, left - _REACH), max(0, top - _REACH)
        window = ad.field[y0 : top + height + _REACH, x0 : left + width + _REACH]
        if window.shape[0] < height or window.shape[1] < width:
            continue
        match = cv2.matchTemplate(window, template.field, cv2.TM_CCORR)
        _, high, _, (dx, dy) = cv2.minMaxLoc(match)
        strength = high / template.norm**_CHANCE
        if best is None or strength > best[0]:
            best = strength, (side, x0 + dx, y0 + dy)
    if best is None:  # larger than the ad: as large as fits
        side = _FINE
        return side, ad.room, ad.room
    return best[1]


def _agreement(template: Template, ad: _Ad, left: int, top: int) -> Fidelity:
    """Of a template with its corner there, in pixels of the copy."""
    height, width = template.inside.shape
    part = slice(top, top + height), slice(left, left + width)
    edges = _edge_agreement(template.outline, ad.near[:, *part], ad.chance)
    look = _look(template, ad.pixels[part])
    return Fidelity(edges=edges, look=look, score=float(np.sqrt(edges * look)))


def _edge_agreement(outline: tuple[np.ndarray, np.ndarray, np.ndarray], near: np.ndarray, chance: np.ndarray) -> float:
    """Share of the edges that are found, less chance: 0 at chance, 1 where all are found."""
    bins = outline[0]
    if not len(bins):
        return 0.0
    share, luck = float(near[outline].mean()), float(chance[bins].mean())
    return float(np.clip((share - luck) / max(1 - luck, 0.05), 0, 1))


def _look(template: Template, area: np.ndarray) -> float:
    """Colour times structure inside the outline, 0 to 1."""
    own, pixels = template.colours, area[template.sample]
    seen = pixels.astype(np.float32)
    both, squares = np.einsum("nc,nc->c", own, seen), np.einsum("nc,nc->c", own, own)
    light = float(np.clip(both.sum() / max(float(squares.sum()), 1), *_LIGHT))
    gains = np.clip(both / np.maximum(squares, 1), light * (1 - _TINT), light * (1 + _TINT))
    lit = np.minimum(own * gains, 255).astype(np.uint8)
    lab_own, lab_seen = _lab(np.stack([lit, pixels]))
    lightness, red, blue = (lab_own - lab_seen).T
    colour = float(np.exp((np.square(lightness / 2) + np.square(red) + np.square(blue)) / -(_COLOUR**2)).mean())
    (first, shared), (_, second) = np.cov(own.sum(axis=1) / 3, seen.sum(axis=1) / 3)
    structure = (2 * float(shared) + _FLAT) / (float(first + second) + _FLAT)
    return colour * max(0.0, structure) ** 0.5


def _lab(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB [m, n, 3] -> float32 L, a, b, each about 0 to 100 or -100 to 100."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    return lab * np.array((100 / 255, 1, 1), np.float32)
