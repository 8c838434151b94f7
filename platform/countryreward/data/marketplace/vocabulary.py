"""The words designs are made of, the choices (`Spec`) that they stand for, and the way between a spec and a design."""

import re
from dataclasses import dataclass, fields
from functools import cache

from countryreward.data.design import Design
from countryreward.errors import UserError

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One choice of an axis: the sentence a design says it with, and what free text may call it."""

    phrase: str
    """What our own designs write."""
    keywords: tuple[str, ...]
    """Lower-case words or word beginnings (ending in *) that free text may use for it."""


@dataclass(frozen=True, kw_only=True)
class Palette(Word):
    """Colours of the staging."""

    colourfulness: float
    """Nominal colourfulness, 0 (grey) to 10."""
    light: RGB
    """Walls and skies."""
    middle: RGB
    """Ground and large things."""
    accent: RGB
    """Small things and promotional text."""
    second: RGB
    """A second accent."""
    dark: RGB
    """Outlines and shadows."""


@dataclass(frozen=True, kw_only=True)
class Clutter(Word):
    """How much stands around the product."""

    complexity: float
    """Nominal visual complexity, 0 to 10."""
    props: int
    """Number of things drawn beside the product."""


SCENES: dict[str, Word] = {
    "studio": Word(
        phrase="a plain studio backdrop",
        keywords=("studio*", "backdrop*", "plain", "seamless", "podium", "solid"),
    ),
    "living_room": Word(
        phrase="a living room with a window, a sofa and a framed picture",
        keywords=("living room", "sofa*", "couch*", "lounge", "interior", "home", "apartment", "bedroom", "room",
                  "balcony"),
    ),
    "kitchen": Word(
        phrase="a kitchen with tiles, shelves and a countertop",
        keywords=("kitchen*", "countertop*", "tile*", "stove", "dining", "cook*", "cafe", "café"),
    ),
    "garden": Word(
        phrase="a garden with a hedge, flowers and a lawn",
        keywords=("garden*", "lawn", "flower*", "hedge*", "park", "meadow*", "grass*", "forest*", "leaves", "jungle",
                  "tree*"),
    ),
    "beach": Word(
        phrase="a beach with sand, sea and a palm tree",
        keywords=("beach*", "sand", "sandy", "sea", "seaside", "ocean", "palm*", "shore*", "coast*", "waves",
                  "island*"),
    ),
    "city": Word(
        phrase="a city street with high-rise buildings",
        keywords=("city*", "street*", "urban", "skyline", "skyscraper*", "building*", "high-rise", "downtown",
                  "avenue"),
    ),
    "mountains": Word(
        phrase="snow-capped mountains above hills and a lake",
        keywords=("mountain*", "alpine", "peak*", "snow*", "hill*", "lake*", "valley", "cliff*", "panoram*"),
    ),
    "night_market": Word(
        phrase="a night market with stalls and hanging lanterns",
        keywords=("night market", "lantern*", "stall*", "bazaar", "market", "souk", "festival*", "festive"),
    ),
}  # fmt: skip

PALETTES: dict[str, Palette] = {
    "monochrome": Palette(
        phrase="monochrome whites, greys and black", colourfulness=0.5,
        keywords=("monochrom*", "black and white", "grey*", "gray*", "white", "black", "silver*", "achromatic"),
        light=(236, 236, 236), middle=(190, 190, 191), accent=(70, 70, 72), second=(128, 128, 130), dark=(42, 42, 44),
    ),
    "neutral": Palette(
        phrase="neutral beige, cream and linen", colourfulness=2.0,
        keywords=("neutral*", "beige", "cream*", "linen", "ivory", "muted", "nude", "taupe", "sand"),
        light=(240, 232, 218), middle=(213, 198, 176), accent=(150, 124, 96), second=(184, 164, 140), dark=(88, 74, 62),
    ),
    "pastel": Palette(
        phrase="pastel pink, mint and lavender", colourfulness=3.5,
        keywords=("pastel*", "mint", "lavender", "powder", "blush", "baby blue", "candy", "pink"),
        light=(250, 226, 234), middle=(196, 228, 216), accent=(205, 168, 222), second=(250, 200, 190),
        dark=(118, 98, 136),
    ),
    "earth": Palette(
        phrase="earthy terracotta, ochre and olive", colourfulness=5.0,
        keywords=("earth*", "terracotta", "ochre", "olive", "brown*", "rust*", "wood*", "autumn*", "clay"),
        light=(232, 205, 168), middle=(178, 116, 72), accent=(186, 74, 40), second=(122, 124, 58), dark=(72, 46, 30),
    ),
    "ocean": Palette(
        phrase="ocean blues, teal and white foam", colourfulness=6.2,
        keywords=("ocean*", "blue*", "teal", "navy", "aqua*", "marine", "turquoise", "cool", "cyan"),
        light=(186, 226, 246), middle=(52, 140, 190), accent=(0, 176, 190), second=(24, 84, 160), dark=(12, 42, 84),
    ),
    "sunset": Palette(
        phrase="sunset orange, coral and plum", colourfulness=7.5,
        keywords=("sunset", "orange*", "coral*", "plum", "warm*", "peach*", "amber", "gold*", "red*"),
        light=(255, 204, 142), middle=(240, 120, 74), accent=(214, 40, 92), second=(255, 176, 40), dark=(84, 24, 82),
    ),
    "tropical": Palette(
        phrase="tropical green, yellow and hot pink", colourfulness=8.8,
        keywords=("tropical", "green*", "yellow*", "hot pink", "lime", "vibrant", "colorful", "colourful", "lush"),
        light=(255, 232, 84), middle=(22, 178, 92), accent=(246, 34, 130), second=(0, 176, 222), dark=(8, 74, 62),
    ),
    "neon": Palette(
        phrase="neon magenta, electric cyan and acid green", colourfulness=10.0,
        keywords=("neon*", "magenta", "electric", "acid", "fluorescent", "saturated", "violet", "purple*", "rainbow"),
        light=(0, 226, 255), middle=(142, 20, 255), accent=(255, 0, 158), second=(120, 255, 0), dark=(30, 0, 92),
    ),
}  # fmt: skip

CLUTTERS: dict[str, Clutter] = {
    "minimal": Clutter(
        phrase="The product alone", complexity=0.8, props=0,
        keywords=("alone", "single", "only", "minimal*", "nothing else", "isolated", "clean", "simple", "empty"),
    ),
    "few": Clutter(
        phrase="The product with two small props beside it", complexity=3.6, props=2,
        keywords=("two", "few", "couple", "small props", "paired", "beside", "accent*", "next to", "subtle"),
    ),
    "rich": Clutter(
        phrase="The product among many decorative props", complexity=6.4, props=7,
        keywords=("many", "several", "decor*", "arranged", "surrounded", "assorted", "variety", "collection", "rich*"),
    ),
    "crowded": Clutter(
        phrase="The product in a busy, crowded heap of props and confetti", complexity=9.4, props=18,
        keywords=("busy", "crowded", "heap*", "confetti", "packed", "piles", "overflowing", "cluttered", "maximal*"),
    ),
}  # fmt: skip

LIGHTINGS: dict[str, Word] = {
    "daylight": Word(
        phrase="soft natural daylight",
        keywords=("soft", "natural", "daylight", "diffus*", "window light", "even", "gentle"),
    ),
    "high_key": Word(
        phrase="bright high-key studio light",
        keywords=("high-key", "high key", "bright*", "studio light*", "flash", "crisp", "white light", "luminous",
                  "airy"),
    ),
    "golden": Word(
        phrase="golden-hour sun from the left",
        keywords=("golden", "golden-hour", "sunset", "warm*", "sunrise", "sunlight", "sun", "candle*"),
    ),
    "spotlight": Word(
        phrase="a spotlight on the product in a dark room",
        keywords=("spotlight*", "spot", "dramatic", "vignette", "focused", "beam*"),
    ),
    "moody": Word(
        phrase="moody, dim, cold light",
        keywords=("moody", "dim", "cold", "dark", "low-key", "low key", "overcast", "night", "shadow*"),
    ),
    "backlight": Word(
        phrase="backlight with a bright halo from above",
        keywords=("backlight*", "backlit", "halo", "rim", "glow*", "from behind", "contre-jour"),
    ),
}  # fmt: skip

TEXTS: dict[str, Word] = {
    "none": Word(
        phrase="no promotional text",
        keywords=("no promotional text", "no text", "without text"),
    ),
    "new": Word(
        phrase="a corner ribbon reading NEW",
        keywords=("new", "ribbon*", "badge*", "label*"),
    ),
    "sale": Word(
        phrase="a burst reading SALE",
        keywords=("sale", "burst*", "discount*", "% off", "percent", "offer*", "deal*", "promo"),
    ),
    "delivery": Word(
        phrase="a strip reading FREE DELIVERY",
        keywords=("delivery", "strip", "shipping", "banner*", "slogan*", "caption*"),
    ),
}  # fmt: skip

AXES: dict[str, dict[str, Word]] = {
    "scene": SCENES,
    "palette": dict(PALETTES),
    "clutter": dict(CLUTTERS),
    "lighting": LIGHTINGS,
    "text": TEXTS,
}
"""Axis of a spec -> its choices."""

COLOURS: dict[str, RGB] = {
    "PINK": (240, 128, 170), "BLUE": (44, 96, 190), "RED": (206, 36, 44), "GREEN": (44, 146, 76),
    "IVORY": (248, 241, 220), "BLACK": (32, 32, 36), "WHITE": (252, 252, 252), "PURPLE": (128, 60, 160),
    "YELLOW": (246, 208, 48), "ORANGE": (240, 130, 32), "SILVER": (184, 190, 198), "GOLD": (206, 164, 66),
    "CREAM": (255, 243, 200), "BROWN": (120, 76, 44), "GREY": (126, 128, 132),
}  # fmt: skip
"""Named product colours, RGB."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A design as choices of the vocabulary."""

    scene: str = "studio"
    """Key of SCENES."""
    palette: str = "neutral"
    """Key of PALETTES."""
    clutter: str = "few"
    """Key of CLUTTERS."""
    lighting: str = "daylight"
    """Key of LIGHTINGS."""
    text: str = "none"
    """Key of TEXTS."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) not in AXES[item.name]:
                raise UserError(
                    f"{item.name}: {getattr(self, item.name)!r} is unknown; write one of {', '.join(AXES[item.name])}"
                )


_FIELDS: dict[str, tuple[str, ...]] = {
    "scene": ("background", "foreground"),
    "palette": ("color_tone", "background", "foreground", "lighting"),
    "clutter": ("foreground", "background"),
    "lighting": ("lighting", "color_tone", "background"),
    "text": ("foreground",),
}


def spec_to_design(spec: Spec) -> Design:
    """The words of a spec; `design_to_spec` reads them back exactly."""
    return Design(
        foreground=f"{CLUTTERS[spec.clutter].phrase}, {TEXTS[spec.text].phrase}.",
        background=f"{_capital(SCENES[spec.scene].phrase)}.",
        color_tone=f"{_capital(PALETTES[spec.palette].phrase)}.",
        lighting=f"{_capital(LIGHTINGS[spec.lighting].phrase)}.",
    )


def design_to_spec(design: Design) -> Spec:
    """The nearest spec of any free text.

    Per axis, the fields that usually carry it are read in order (the scene from the background, else from the
    foreground, ...); our own phrase decides at once, else the choice with most keyword hits, ties to the one named
    first. An axis nobody speaks of takes the default of `Spec`: studio, neutral, few, daylight, none.
    """
    chosen = {}
    for axis, names in _FIELDS.items():
        for name in names:
            choice = _best_choice(axis, getattr(design, name).lower())
            if choice is not None:
                chosen[axis] = choice
                break
    return Spec(**chosen)


def _best_choice(axis: str, text: str) -> str | None:
    best: tuple[int, int, str] | None = None  # hits, minus the position of the first hit, choice
    for choice, word in AXES[axis].items():
        if word.phrase.lower() in text:
            return choice
        hits = [match.start() for match in _pattern(axis, choice).finditer(text)]
        if hits and (best is None or (len(hits), -hits[0]) > best[:2]):
            best = (len(hits), -hits[0], choice)
    return best[2] if best else None


@cache
def _pattern(axis: str, choice: str) -> re.Pattern[str]:
    ordered = sorted(AXES[axis][choice].keywords, key=len, reverse=True)  # "night market" before "market"
    parts = [re.escape(word.removesuffix("*")) + (r"\w*" if word.endswith("*") else r"(?!\w)") for word in ordered]
    return re.compile(r"(?<!\w)(?:" + "|".join(parts) + ")")


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
