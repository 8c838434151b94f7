"""From a design and a product to a picture: of simulated creatives and of generated designs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from countryreward.data.design import Design
from countryreward.data.marketplace.canvas import Canvas, mix, text_mask
from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.scenes import DRAW, Tint
from countryreward.data.marketplace.shapes import PATTERNS, ProductTile, product_tile
from countryreward.data.marketplace.vocabulary import CLUTTERS, COLOURS, PALETTES, RGB, Palette, Spec, design_to_spec
from countryreward.errors import UserError

_GAIN_ONE = 96  # a lighting gain of 1 as uint8, so gains reach 2.65


@dataclass(frozen=True, kw_only=True)
class ProductLook:
    """The appearance of a product, the same in every scene."""

    category: str
    """Key of CATEGORIES."""
    colour: str
    """Key of COLOURS."""
    pattern: str = "plain"
    """One of PATTERNS."""

    def __post_init__(self) -> None:
        for name, choices in (("category", CATEGORIES), ("colour", COLOURS), ("pattern", PATTERNS)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: {getattr(self, name)!r} is unknown; write one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class Craft:
    """What makes a picture good or bad in every market. The defaults are a good picture."""

    size: float = 0.6
    """Width of the product as a share of the picture, 0.1 to 1."""
    offset_x: float = 0.0
    """Distance of the product from the centre to the right, as a share of the picture."""
    offset_y: float = 0.0
    """Distance of the product from the centre downwards, as a share of the picture."""
    blur: float = 0.0
    """Standard deviation of the blur, as a share of the picture."""
    contrast: float = 1.0
    """Contrast about middle grey; 1 changes nothing."""

    def __post_init__(self) -> None:
        if not (0.1 <= self.size <= 1 and max(abs(self.offset_x), abs(self.offset_y)) <= 0.5):
            raise UserError(
                f"size, offset: {self.size}, {self.offset_x}, {self.offset_y}; size is 0.1 to 1, offsets -0.5 to 0.5"
            )
        if not (0 <= self.blur <= 0.1 and 0 < self.contrast <= 3):
            raise UserError(
                f"blur, contrast: {self.blur}, {self.contrast}; blur is 0 to 0.1, contrast above 0 and at most 3"
            )


GOOD_CRAFT = Craft()
TileOfSide = Callable[[int], ProductTile]  # a product that is none of the catalogue's: its tile at a side in pixels


def draw(
    design: Spec | Design, look: ProductLook | TileOfSide, *, px: int = 224, seed: int = 0, craft: Craft = GOOD_CRAFT
) -> np.ndarray:
    """The picture of a product staged by a design: uint8 RGB [px, px, 3]. The seed places what the design leaves open.

    Free text is understood by `design_to_spec`. The same arguments give the same array.
    """
    spec = design_to_spec(design) if isinstance(design, Design) else design
    rng = np.random.default_rng(seed)
    palette = PALETTES[spec.palette]
    canvas = Canvas(np.zeros((px, px, 3), np.uint8))
    DRAW[spec.scene](canvas, Tint(palette), rng)
    props = CLUTTERS[spec.clutter].props
    for _ in range(props - props // 3):
        _prop(canvas, palette, rng, behind=True)
    if spec.clutter == "crowded":
        _confetti(canvas, palette, rng)
    _product(canvas, look, craft)
    for _ in range(props // 3):
        _prop(canvas, palette, rng, behind=False)
    pixels = _light(canvas.pixels, spec.lighting)
    if craft.contrast != 1:
        pixels = cv2.convertScaleAbs(pixels, alpha=craft.contrast, beta=128 * (1 - craft.contrast))
    if craft.blur * px > 0.3:  # less is invisible
        pixels = cv2.GaussianBlur(pixels, (0, 0), craft.blur * px)
    _TEXT[spec.text](Canvas(pixels), palette)
    return pixels


def draw_variant(title: str, colour: str, *, px: int = 224) -> np.ndarray:
    """A plain studio picture, uint8 RGB [px, px, 3], of the product with this title in a colour.

    The colour is a key of COLOURS in any case; `UserError` names an unknown one. Shape and pattern come from a hash of
    the title, so variants of one product differ by colour alone. The background is a grey on which ivory can be seen.
    """
    name = colour.strip().upper().replace("GRAY", "GREY")
    digest = hashlib.sha256(title.strip().casefold().encode()).digest()
    category = list(CATEGORIES)[digest[0] % len(CATEGORIES)]
    look = ProductLook(category=category, colour=name, pattern=PATTERNS[digest[1] % len(PATTERNS)])
    canvas = Canvas(np.zeros((px, px, 3), np.uint8))
    canvas.gradient(0, 0.72, (196, 198, 202), (210, 212, 215))
    canvas.gradient(0.72, 1, (186, 188, 192), (200, 202, 205))
    _product(canvas, look, Craft(size=0.56 + digest[2] / 255 * 0.1))
    return canvas.pixels


def _product(canvas: Canvas, look: ProductLook | TileOfSide, craft: Craft) -> None:
    """Soft shadow, then the product, centred at (0.5, 0.56) plus its offset."""
    side = max(8, round(craft.size * canvas.px))
    if isinstance(look, ProductLook):
        tile = product_tile(look.category, COLOURS[look.colour], look.pattern, side)
    else:
        tile = look(side)
    x, y = 0.5 + craft.offset_x, 0.56 + craft.offset_y
    canvas.stamp(_shadow(round(side * tile.breadth)), x + 0.01, y + (tile.foot - 0.5) * craft.size, (16, 14, 20))
    canvas.paste(tile.premultiplied, tile.remainder, x, y)


@lru_cache(maxsize=256)
def _shadow(side: int) -> np.ndarray:
    """A blurred ellipse as wide as the product; mask uint8 [side, side, 3]."""
    mask = Canvas(np.zeros((side, side), np.uint8))
    mask.ellipse(0.5, 0.5, 0.4, 0.08, 150)
    return cv2.merge([cv2.GaussianBlur(mask.pixels, (0, 0), max(1.0, side * 0.035))] * 3)


def _prop(canvas: Canvas, palette: Palette, rng: np.random.Generator, *, behind: bool) -> None:
    """One thing beside (behind) or below (in front of) the product, never over its middle."""
    side = 1 if rng.random() < 0.5 else -1
    x = 0.5 + side * rng.uniform(0.26, 0.46)
    y = rng.uniform(0.62, 0.84) if behind else rng.uniform(0.86, 0.95)
    size = rng.uniform(0.05, 0.085)
    colour = (palette.accent, palette.second, palette.middle)[int(rng.integers(3))]
    kind = int(rng.integers(6))
    dark = mix(colour, palette.dark, 0.55)
    if kind == 0:  # gift box
        canvas.rect(x - size, y - size, x + size, y + size, colour)
        canvas.rect(x - size, y - size, x + size, y - 0.6 * size, dark)
        canvas.rect(x - 0.2 * size, y - size, x + 0.2 * size, y + size, mix(palette.light, (255, 255, 255), 0.4))
    elif kind == 1:  # ball
        canvas.ellipse(x, y, size, size, colour)
        canvas.ellipse(x - 0.3 * size, y - 0.3 * size, 0.3 * size, 0.3 * size, mix(colour, (255, 255, 255), 0.6))
    elif kind == 2:  # potted plant
        leaf = mix(palette.second, (50, 130, 60), min(0.6, palette.colourfulness / 8))
        for angle in (-0.9, -0.45, 0.0, 0.45, 0.9):
            tip = (x + 1.7 * size * np.sin(angle), y - 2.1 * size * np.cos(angle))
            canvas.poly([(x - 0.2 * size, y), tip, (x + 0.25 * size, y)], leaf)
        canvas.poly(
            [(x - 0.7 * size, y), (x + 0.7 * size, y), (x + 0.5 * size, y + size), (x - 0.5 * size, y + size)], colour
        )
    elif kind == 3:  # candle
        canvas.rect(x - 0.4 * size, y - size, x + 0.4 * size, y + size, colour)
        canvas.ellipse(x, y - 1.4 * size, 0.2 * size, 0.4 * size, mix(palette.light, (255, 220, 120), 0.5))
    elif kind == 4:  # star
        radius = [size * (1.2 if i % 2 == 0 else 0.5) for i in range(10)]
        tilt = rng.uniform(0, 1)
        points = [
            (x + r * np.sin(tilt + i * np.pi / 5), y - r * np.cos(tilt + i * np.pi / 5)) for i, r in enumerate(radius)
        ]
        canvas.poly(points, colour)
    else:  # bottle
        canvas.rect(x - 0.5 * size, y - 0.8 * size, x + 0.5 * size, y + size, colour)
        canvas.rect(x - 0.2 * size, y - 1.7 * size, x + 0.2 * size, y - 0.8 * size, dark)


def _confetti(canvas: Canvas, palette: Palette, rng: np.random.Generator) -> None:
    """Fine grain over the whole picture: a crowd is complex on every scale."""
    for _ in range(70):
        x, y = rng.uniform(0, 1), rng.uniform(0, 0.98)
        colour = (palette.accent, palette.second, palette.light)[int(rng.integers(3))]
        canvas.poly([(x, y), (x + 0.022, y + 0.009), (x + 0.013, y + 0.028)], colour)


def _light(pixels: np.ndarray, lighting: str) -> np.ndarray:
    gain, glow = _lighting_maps(lighting, pixels.shape[0])
    return cv2.add(cv2.multiply(pixels, gain, scale=1 / _GAIN_ONE), glow)


@lru_cache(maxsize=32)
def _lighting_maps(lighting: str, px: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain (uint8 in 96ths) and glow (added, uint8), both [px, px, 3]. Do not write to them."""
    y, x = np.mgrid[0:px, 0:px] / (px - 1)
    tone: RGB = (255, 255, 255)
    glow = np.zeros_like(x)
    if lighting == "daylight":
        gain = 1.04 - 0.14 * y
    elif lighting == "high_key":
        gain, glow = np.full_like(x, 1.14), np.full_like(x, 26.0)
    elif lighting == "golden":
        tone = (255, 208, 140)
        gain = 1.3 - 0.5 * x
        glow = 120 * np.exp(-((x + 0.02) ** 2 + (y - 0.08) ** 2) / 0.11)
    elif lighting == "spotlight":
        gain = 0.26 + 0.94 * np.exp(-(((x - 0.5) / 0.34) ** 4 + ((y - 0.56) / 0.38) ** 4))
        beam = np.clip(1 - np.abs(x - 0.5) / (0.05 + 0.36 * y), 0, 1)
        glow = 34 * np.sqrt(beam) * (y < 0.9)
    elif lighting == "moody":
        tone = (196, 214, 255)
        gain = 0.66 - 0.22 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    elif lighting == "backlight":
        gain = 0.82 - 0.12 * y
        glow = 165 * np.exp(-(((x - 0.5) / 0.42) ** 2 + ((y - 0.1) / 0.34) ** 2))
    else:
        raise AssertionError(lighting)
    share = np.array(tone) / 255
    gains = np.clip(np.rint(gain[:, :, None] * share * _GAIN_ONE), 0, 255).astype(np.uint8)
    return gains, np.clip(np.rint(glow[:, :, None] * share), 0, 255).astype(np.uint8)


def _ground(palette: Palette) -> RGB:
    """The accent, darkened where white text on it could not be read."""
    return mix(palette.accent, palette.dark, 0.6) if sum(palette.accent) > 560 else palette.accent


def _no_text(canvas: Canvas, palette: Palette) -> None:
    """Nothing is promised."""


def _new(canvas: Canvas, palette: Palette) -> None:
    canvas.poly([(0.64, 0), (0.82, 0), (1, 0.18), (1, 0.36)], _ground(palette))
    canvas.stamp(text_mask("NEW", max(6, round(0.085 * canvas.px)), angle=-45), 0.865, 0.135, (255, 255, 255))


def _sale(canvas: Canvas, palette: Palette) -> None:
    angles = np.arange(24) * np.pi / 12
    burst = [(0.17 + r * np.cos(a), 0.17 + r * np.sin(a)) for a, r in zip(angles, [0.155, 0.125] * 12, strict=True)]
    canvas.poly(burst, _ground(palette))
    canvas.stamp(text_mask("SALE", max(6, round(0.075 * canvas.px))), 0.17, 0.17, (255, 255, 255))


def _delivery(canvas: Canvas, palette: Palette) -> None:
    canvas.rect(0, 0.885, 1, 1, _ground(palette))
    canvas.stamp(text_mask("FREE DELIVERY", max(6, round(0.07 * canvas.px))), 0.5, 0.9425, (255, 255, 255))


_TEXT: dict[str, Callable[[Canvas, Palette], None]] = {
    "none": _no_text,
    "new": _new,
    "sale": _sale,
    "delivery": _delivery,
}
