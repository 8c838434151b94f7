"""The pretext: drawn creatives and the words for what can be seen in them.

The tiny backbone learns to see here, as real backbones come pretrained. A caption names the category, what the design
chose (scene, palette, clutter, lighting, text) and the craft in five grades (size, place, sharpness, contrast). Two
pictures side by side are compared: which product is larger, nearer to the middle, which picture sharper, of stronger
contrast. That is what can be seen, not what sells: there are no markets and no
observations in it. Pictures come from seeds of their own: `pretext_seed` is at least 10,000,000 and the picture's draw
seed at least 2**31, which `simulate` never reaches, so no evaluated picture is among them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.drawer import Craft, ProductLook, draw
from countryreward.data.marketplace.export import encode
from countryreward.data.marketplace.shapes import PATTERNS
from countryreward.data.marketplace.vocabulary import AXES, COLOURS, Spec
from countryreward.errors import UserError
from countryreward.models.pretrain_config import PRETEXT_SEED
from countryreward.models.processor import squared

DESCRIBE = "Describe:"
"""What follows the image when a caption is wanted."""
Answers = dict[str, str]
"""Attribute -> the word a caption says for it."""

_DRAW_SEED = 2**31
_SOURCE_PX = 224  # what the demo's pictures have before they are made small

GRADES: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "size": (0.34, 0.70, ("tiny", "small", "medium", "large", "huge")),
    "place": (0.17, 0.0, ("aside", "off", "shifted", "near", "centred")),
    "sharpness": (0.013, 0.0, ("blurred", "hazy", "soft", "crisp", "sharp")),
    "contrast": (0.58, 1.18, ("pale", "muted", "normal", "strong", "stark")),
}
"""Craft -> value at grade 0, value at grade 1, the words of its fifths. Place is the distance from the middle."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "category": tuple(category.name for category in CATEGORIES.values()),
    **{axis: tuple(key.replace("_", " ") for key in choices) for axis, choices in AXES.items()},
    **{name: words for name, (_, _, words) in GRADES.items()},
}
"""Everything a caption says, in its order, with all the words it can say."""

_PARTS = re.compile(r"\s+".join(f"{name} (?P<{name}>.+?)" for name in ATTRIBUTES) + r"\s*$", re.DOTALL)


def caption(answers: Mapping[str, str]) -> str:
    """`category Shoes scene living room palette ocean ...`: one line, fixed order, no punctuation: every token tells."""
    return " ".join(f"{name} {answers[name]}" for name in ATTRIBUTES)


def parse_caption(text: str) -> Answers:
    """The answers in a caption. Empty where the text is not a caption; words that are not of the vocabulary stay as they are."""
    match = _PARTS.match(text.strip())
    return match.groupdict() if match else {}


def comparison(grades_a: np.ndarray, grades_b: np.ndarray) -> str:
    """`size A place B sharpness A contrast B`: which of two pictures has the higher grade."""
    return " ".join(f"{name} {'A' if grades_a[i] > grades_b[i] else 'B'}" for i, name in enumerate(GRADES))


def pretext_creative(pretext_seed: int) -> tuple[np.ndarray, Answers, np.ndarray]:
    """One creative of the pretext: uint8 RGB [224, 224, 3] with its JPEG artefacts, what it shows, grades [4] from 0 to 1.

    Seeds 2 i and 2 i + 1 stage the same product: two ads to compare.
    """
    if pretext_seed < PRETEXT_SEED:
        raise UserError(f"seed: {pretext_seed} is not a pretext seed; write one of at least {PRETEXT_SEED}")
    rng = np.random.default_rng(pretext_seed)
    product_rng = np.random.default_rng([1, pretext_seed // 2])

    def pick(choices: Iterable[str], rng: np.random.Generator) -> str:
        keys = list(choices)
        return keys[int(rng.integers(len(keys)))]

    spec = Spec(**{axis: pick(choices, rng) for axis, choices in AXES.items()})
    category, colour, pattern = (pick(choices, product_rng) for choices in (CATEGORIES, COLOURS, PATTERNS))
    look = ProductLook(category=category, colour=colour, pattern=pattern)
    share = {name: rng.random() for name in GRADES}
    value = {name: low + (high - low) * share[name] for name, (low, high, _) in GRADES.items()}
    angle = rng.uniform(0, 2 * np.pi)
    craft = Craft(
        size=value["size"],
        offset_x=value["place"] * np.cos(angle),
        offset_y=0.6 * value["place"] * np.sin(angle),
        blur=value["sharpness"],
        contrast=value["contrast"],
    )
    pixels = draw(spec, look, px=_SOURCE_PX, seed=_DRAW_SEED + pretext_seed, craft=craft)
    answers = {"category": CATEGORIES[look.category].name}
    answers |= {axis: getattr(spec, axis).replace("_", " ") for axis in AXES}
    answers |= {name: words[int(share[name] * len(words))] for name, (_, _, words) in GRADES.items()}
    stored = cv2.imdecode(np.frombuffer(encode(pixels, "jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert stored is not None
    return np.ascontiguousarray(stored[:, :, ::-1]), answers, np.array([share[name] for name in GRADES])


@dataclass(frozen=True)
class Pretext:
    """Pictures and what they show."""

    images: np.ndarray  # uint8 RGB [count, px, px, 3]
    answers: list[Answers]
    grades: np.ndarray  # [count, 4] from 0 to 1, in the order of GRADES


def pretext_set(
    first_seed: int, count: int, *, px: int, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Pretext:
    """`count` creatives of the seeds `first_seed`, `first_seed + 1`, ..., px wide and high, drawn in `workers` threads."""
    images = np.empty((count, px, px, 3), np.uint8)
    answers: list[Answers] = []
    grades = np.empty((count, len(GRADES)))

    def small_creative(seed: int) -> tuple[np.ndarray, Answers, np.ndarray]:
        pixels, shown, shares = pretext_creative(seed)
        return np.asarray(squared(Image.fromarray(pixels), px)), shown, shares

    with ThreadPoolExecutor(workers) as pool:
        seeds = range(first_seed, first_seed + count)
        for i, (pixels, shown, shares) in enumerate(pool.map(small_creative, seeds)):
            images[i], grades[i] = pixels, shares
            answers.append(shown)
            if progress:
                progress(i + 1, count)
    return Pretext(images, answers, grades)
