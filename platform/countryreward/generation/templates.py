"""Designs that every market can be offered before a design writer is at hand.

Each names a scene, a palette, how much stands around the product, a light and what is promised in the drawer's own phrases, so
the drawer understands it exactly; a diffusion model reads the same words as plain English.
"""

from dataclasses import dataclass

import numpy as np

from countryreward.data.design import Design
from countryreward.data.marketplace.vocabulary import Spec, spec_to_design
from countryreward.errors import UserError


@dataclass(frozen=True)
class Template:
    """One design of the list."""

    name: str
    """For people."""
    design: Design


def _template(name: str, scene: str, palette: str, clutter: str, lighting: str, text: str = "none") -> Template:
    spec = Spec(scene=scene, palette=palette, clutter=clutter, lighting=lighting, text=text)
    return Template(name=name, design=spec_to_design(spec))


TEMPLATES: tuple[Template, ...] = (
    _template("Clean studio", "studio", "neutral", "minimal", "high_key"),
    _template("Black and white studio", "studio", "monochrome", "minimal", "spotlight"),
    _template("Pastel studio", "studio", "pastel", "few", "daylight", "new"),
    _template("Neon studio", "studio", "neon", "rich", "backlight", "sale"),
    _template("Calm living room", "living_room", "neutral", "few", "daylight"),
    _template("Warm living room", "living_room", "earth", "rich", "golden"),
    _template("Pastel living room", "living_room", "pastel", "rich", "high_key", "new"),
    _template("Bright kitchen", "kitchen", "neutral", "few", "high_key"),
    _template("Lively kitchen", "kitchen", "tropical", "rich", "daylight", "sale"),
    _template("Ocean blue kitchen", "kitchen", "ocean", "minimal", "daylight", "delivery"),
    _template("Spring garden", "garden", "pastel", "rich", "daylight"),
    _template("Tropical garden", "garden", "tropical", "few", "backlight", "new"),
    _template("Golden garden", "garden", "earth", "minimal", "golden"),
    _template("Sunny beach", "beach", "ocean", "few", "daylight"),
    _template("Beach at sunset", "beach", "sunset", "minimal", "golden"),
    _template("Beach party", "beach", "tropical", "crowded", "high_key", "sale"),
    _template("City by day", "city", "monochrome", "minimal", "daylight", "delivery"),
    _template("City at dusk", "city", "sunset", "few", "backlight"),
    _template("Neon city", "city", "neon", "rich", "moody", "new"),
    _template("Mountain air", "mountains", "ocean", "minimal", "daylight"),
    _template("Autumn mountains", "mountains", "earth", "few", "golden", "delivery"),
    _template("Night market", "night_market", "sunset", "rich", "moody"),
    _template("Festival sale", "night_market", "neon", "crowded", "spotlight", "sale"),
    _template("Quiet lanterns", "night_market", "neutral", "few", "backlight", "new"),
)
"""All different. New ones go to the end: the order is part of what `draw_templates` gives for a seed."""


def draw_templates(n: int, seed: int) -> list[Template]:
    """n different templates in a random order that the seed fixes. Raises `UserError` beyond the list's length."""
    if not 1 <= n <= len(TEMPLATES):
        raise UserError(f"n: {n} designs; the list holds {len(TEMPLATES)}, write 1 to {len(TEMPLATES)}")
    order = np.random.default_rng(seed).permutation(len(TEMPLATES))
    return [TEMPLATES[i] for i in order[:n]]


def draw_designs(n: int, seed: int) -> list[Design]:
    """The designs of `draw_templates`."""
    return [template.design for template in draw_templates(n, seed)]


def name_of(design: Design) -> str | None:
    """The short name of a design of the list; None: it is none of them."""
    return next((template.name for template in TEMPLATES if template.design == design), None)
