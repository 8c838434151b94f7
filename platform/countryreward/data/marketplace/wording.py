"""Between a spec (choices of our vocabulary) and a design (words)."""

import re
from functools import cache

from countryreward.data.design import Design
from countryreward.data.marketplace.vocabulary import AXES, CLUTTERS, LIGHTINGS, PALETTES, SCENES, TEXTS, Spec

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
        hits = [found.start() for found in _pattern(axis, choice).finditer(text)]
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
