"""What a renderer must keep: the product as its words and its picture show it."""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.drawer import ProductLook
from countryreward.data.marketplace.shapes import PATTERNS, ProductTile, product_tile
from countryreward.data.marketplace.vocabulary import COLOURS
from countryreward.generation.ad_contracts import RenderJob
from countryreward.generation.fidelity import Place, fidelity, find
from countryreward.generation.foreground import foreground
from countryreward.generation.product_view import ProductView, Template
from countryreward.scoring.contracts import Product

Recognition = Literal["drawn", "cut out", "whole picture"]
_DRAWN = 0.5  # score from which a picture shows a drawn product
_DRAWN_BY_WORDS = 0.25  # the same where every word is the catalogue's: its pictures may be dim and blurred
_CLOSE = 72  # pixels of a product as it is compared
_SIDE = 160  # pixels of a drawn product as it is looked for


@dataclass(frozen=True)
class Subject:
    """The product of one picture."""

    seen: Recognition
    """drawn: one of the marketplace's. cut out: its foreground. whole picture: no foreground was found, all of it counts."""
    look: ProductLook | None
    """How the marketplace draws it; None unless `seen` is drawn."""
    view: ProductView
    """The product alone."""

    def tile(self, side: int) -> ProductTile:
        """As the drawer pastes it, `side` pixels high and wide."""
        if self.look:
            return product_tile(self.look.category, COLOURS[self.look.colour], self.look.pattern, side)
        return pasted_tile(self.view, side)


def subject_of(product: Product, picture: np.ndarray) -> Subject:
    """Find the product in its own picture, RGB uint8 [h, w, 3]. Deterministic; some 0.05 to 0.5 s, so keep what it returns."""
    look = _drawn_look(product, picture)
    if look:
        return Subject(seen="drawn", look=look, view=drawn_view(look))
    mask = foreground(picture)
    if mask is not None:
        return Subject(seen="cut out", look=None, view=ProductView(picture, mask))
    return Subject(
        seen="whole picture", look=None, view=ProductView(picture, np.full(picture.shape[:2], 255, np.uint8))
    )


class Subjects:
    """Keeps the subjects of the products seen last: many ads are made of one picture. One thread at a time."""

    def __init__(self, kept: int = 64) -> None:
        self._kept = kept
        self._subjects: dict[tuple[str, str], Subject] = {}

    def of(self, job: RenderJob) -> Subject:
        """Found by the picture's hash and the product's words."""
        words = job.product.title, job.product.category, sorted(job.product.attributes.items())
        key = job.image_hash, repr(words)
        found = self._subjects.pop(key, None) or subject_of(job.product, job.image)
        self._subjects[key] = found  # now the newest
        while len(self._subjects) > self._kept:
            del self._subjects[next(iter(self._subjects))]
        return found


def pasted_tile(view: ProductView, side: int) -> ProductTile:
    """A cut-out standing at the bottom of a square tile, as large as fits."""
    height, width = view.mask.shape
    share = 0.94 * side / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC
    premultiplied, alpha = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    bottom, left = min(side, round(0.5 * side + size[1] / 2 + 0.03 * side)), (side - size[0]) // 2
    part = slice(bottom - size[1], bottom), slice(left, left + size[0])
    full = cv2.merge([view.mask] * 3)
    premultiplied[part] = cv2.resize(cv2.multiply(view.pixels, full, scale=1 / 255), size, interpolation=how)
    alpha[part] = cv2.resize(view.mask, size, interpolation=how)
    alpha = cv2.merge([alpha] * 3)
    breadth = max(0.1, min(1.0, 1.2 * size[0] / side))
    remainder = 255 - alpha
    return ProductTile(cv2.min(premultiplied, alpha), remainder, foot=bottom / side, breadth=breadth)


def drawn_view(look: ProductLook) -> ProductView:
    """A product of the marketplace's, alone."""
    tile = product_tile(look.category, COLOURS[look.colour], look.pattern, _SIDE)
    alpha = 255 - tile.remainder[:, :, 0]
    colours = tile.premultiplied.astype(np.float32) * (255 / np.maximum(alpha, 1)[:, :, None])
    return ProductView(np.clip(colours, 0, 255).astype(np.uint8), alpha)


def _drawn_look(product: Product, picture: np.ndarray) -> ProductLook | None:
    """The look with which the marketplace has drawn this picture; None when it shows something else.

    Category and colour are taken from the words where they tell, the pattern, of which no word tells, from the picture.
    """
    words = " ".join([product.title, *product.attributes.values()]).casefold()
    keys = [key for key, category in CATEGORIES.items() if category.name == product.category] or [
        key for key, category in CATEGORIES.items() if any(noun in words for noun in category.nouns)
    ]
    if not keys:
        return None
    colours = _colours(product, words)
    # grey where no word tells: the outline alone says which shape it is and where
    shapes = [ProductLook(category=key, colour=(colours or ["GREY"])[0]) for key in keys]
    places = {look.category: find(drawn_view(look), picture) for look in shapes}
    key = max(places, key=lambda name: places[name][1].edges)
    place = places[key][0]
    plain = [ProductLook(category=key, colour=colour) for colour in colours or COLOURS]
    colour = min(plain, key=lambda look: _misfit(drawn_view(look), picture, place)).colour
    looks = [ProductLook(category=key, colour=colour, pattern=pattern) for pattern in PATTERNS]
    best = max(looks, key=lambda look: _same_detail(drawn_view(look), picture, place))
    found = (fidelity(drawn_view(look), picture).score for look in (best, replace(best, pattern="plain")))
    return best if max(found) >= (_DRAWN_BY_WORDS if _is_listed(product, key) else _DRAWN) else None


def _misfit(view: ProductView, picture: np.ndarray, place: Place) -> float:
    """Mean difference of RGB at a place, the ad's light and contrast (one factor and one sum for all channels) undone."""
    template = view.template(_CLOSE)
    seen = _area(picture, place, template, 0)
    own, area = (part[template.inside].astype(np.float32) for part in (template.pixels, seen))
    spread = float(own.var())
    factor = float(np.clip(((own - own.mean()) * (area - area.mean())).mean() / max(spread, 1), 0.4, 1.6))
    added = float(np.clip((area - factor * own).mean(), -60, 90))
    return float(np.abs(factor * own + added - area).mean()) + 0.05 * abs(added)


def _same_detail(view: ProductView, picture: np.ndarray, place: Place) -> float:
    """Correlation, -1 to 1, of the fine structure: what is coarser than a twelfth of the product is light and shade."""
    template = view.template(_CLOSE)
    own, seen = (
        cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        for pixels in (template.pixels, _area(picture, place, template, 2))
    )
    inside = template.inside.astype(np.float32)
    blurred = cv2.GaussianBlur(own * inside, (0, 0), _CLOSE / 12) / np.maximum(
        cv2.GaussianBlur(inside, (0, 0), _CLOSE / 12), 0.05
    )
    fine = (own - blurred) * inside
    seen -= cv2.GaussianBlur(seen, (0, 0), _CLOSE / 12)
    match = cv2.matchTemplate(seen, fine, cv2.TM_CCORR_NORMED, mask=inside)
    return float(np.nan_to_num(match, posinf=0, neginf=0).max())


def _area(picture: np.ndarray, place: Place, template: Template, room: int) -> np.ndarray:
    """What the picture shows at a place, as large as the template and `room` pixels more on each side."""
    height, width = template.inside.shape
    step = place.size / _CLOSE * np.array(picture.shape[1::-1])
    corner = np.array((place.x, place.y)) * picture.shape[1::-1] - step * (width / 2 + room, height / 2 + room)
    turn = np.array([[step[0], 0, corner[0]], [0, step[1], corner[1]]])
    return cv2.warpAffine(
        picture, turn, (width + 2 * room, height + 2 * room),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def _is_listed(product: Product, key: str) -> bool:
    """Could the marketplace have written these words, attributes and all?"""
    category, title = CATEGORIES[key], product.title.casefold()
    return (
        product.category == category.name
        and any(noun in title for noun in category.nouns)
        and all(product.attributes.get(name) in values for name, values in category.attributes.items())
    )


def _colours(product: Product, words: str) -> list[str]:
    told = {name.casefold(): value.strip().upper() for name, value in product.attributes.items()}
    named = (told.get("colour") or told.get("color") or "").replace("GRAY", "GREY")
    if named in COLOURS:
        return [named]
    return [colour for colour in COLOURS if colour.casefold() in words.split()]
