"""What each market likes: published peaks of visual appeal, and invented likings per category.

Reinecke and Gajos, "Quantifying visual preferences around the world", CHI 2014: per country, the colourfulness and the
visual complexity (0 to 10) at which the appeal of a web page peaks. The 43 pairs of numbers are facts of that study,
taken from the LabintheWild code. All else here is invented and seeded: clicks made from it are semi-synthetic.

Imputation: South Korea is absent from the study and gets the mean of Japan, China, Hong Kong and Singapore; Saudi
Arabia and any other absent country get the mean of all 43. `is_imputed` tells which markets that concerns.

Stretch: the published peaks lie between 3.56 and 7.62 (colourfulness) and 2.51 and 4.77 (complexity), our vocabulary
spans 0 to 10. A peak z standard deviations from the mean of the 43 countries is placed at 5 + 3 z, cut to [0, 10].
"""

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.vocabulary import AXES, CLUTTERS, LIGHTINGS, PALETTES, SCENES

PEAKS: dict[str, tuple[float, float]] = {
    "AR": (5.62, 4.37), "AT": (4.55, 3.93), "AU": (5.53, 4.09), "BA": (6.42, 4.69), "BE": (5.28, 3.85),
    "BG": (4.63, 4.26), "BR": (5.15, 4.00), "CA": (5.89, 4.20), "CH": (4.25, 3.70), "CL": (6.95, 4.56),
    "CN": (6.27, 4.09), "DE": (4.45, 3.75), "DK": (4.24, 3.69), "ES": (5.76, 4.36), "FI": (3.56, 3.31),
    "FR": (4.41, 3.78), "GB": (6.52, 4.52), "GR": (6.21, 4.09), "HK": (5.68, 3.54), "HU": (5.93, 4.54),
    "IE": (6.37, 4.29), "IL": (5.08, 3.90), "IN": (5.73, 4.08), "IT": (5.63, 3.74), "JP": (5.36, 4.08),
    "LT": (6.15, 4.28), "MK": (7.62, 4.46), "MX": (6.36, 4.56), "MY": (6.97, 4.39), "NL": (5.35, 3.88),
    "NO": (4.77, 3.86), "NZ": (5.73, 4.22), "PH": (5.90, 4.28), "PL": (3.83, 3.75), "PT": (4.95, 3.99),
    "RO": (6.30, 4.50), "RS": (6.60, 4.77), "RU": (3.62, 2.51), "SE": (4.50, 3.39), "SG": (6.39, 4.53),
    "SK": (5.11, 3.94), "US": (6.09, 4.15), "ZA": (5.94, 4.54),
}  # fmt: skip
"""ISO code -> (peak colourfulness, peak complexity), both 0 to 10, of the 43 countries of the study."""

_NEIGHBOURS: dict[str, tuple[str, ...]] = {"KR": ("JP", "CN", "HK", "SG")}
_WIDTH = 5.0  # nominal points from the peak at which the fall-off reaches 1/2
_TERM_SD = {"scene": 0.30, "palette": 0.25, "lighting": 0.20}


@dataclass(frozen=True)
class SpecIndex:
    """Designs as positions in the vocabulary; every array is int64 [N]."""

    category: np.ndarray
    scene: np.ndarray
    palette: np.ndarray
    clutter: np.ndarray
    lighting: np.ndarray


def spec_index(specs: pd.DataFrame) -> SpecIndex:
    """The designs of a table with the columns category, scene, palette, clutter, lighting, as positions in the vocabulary."""
    choices = {**AXES, "category": CATEGORIES}
    place = {axis: {key: i for i, key in enumerate(choices[axis])} for axis in SpecIndex.__dataclass_fields__}
    return SpecIndex(**{axis: np.array([at[key] for key in specs[axis]]) for axis, at in place.items()})


@dataclass(frozen=True)
class MarketTaste:
    """The taste of one market. C categories, S scenes, P palettes, L lightings; terms are utilities without unit."""

    market: str
    colourfulness: float
    """Preferred colourfulness on the nominal scale, 0 to 10."""
    complexity: float
    """Preferred complexity on the nominal scale, 0 to 10."""
    scene: np.ndarray  # [C, S]
    palette: np.ndarray  # [C, P]
    lighting: np.ndarray  # [C, L]


def is_imputed(market: str) -> bool:
    """Whether the study has no numbers for this market, so that `published_peaks` imputes them."""
    return market not in PEAKS


def published_peaks(market: str) -> tuple[float, float]:
    """(colourfulness, complexity) as published, 0 to 10, or imputed by the rule of this module's docstring."""
    if market in PEAKS:
        return PEAKS[market]
    rows = np.array([PEAKS[code] for code in _NEIGHBOURS.get(market, tuple(PEAKS))])
    return float(rows[:, 0].mean()), float(rows[:, 1].mean())


def nominal_peaks(market: str) -> tuple[float, float]:
    """The peaks stretched to the vocabulary's scale: 5 + 3 z, cut to [0, 10]."""
    rows = np.array(list(PEAKS.values()))
    stretched = np.clip(5 + 3 * (np.array(published_peaks(market)) - rows.mean(axis=0)) / rows.std(axis=0), 0, 10)
    return float(stretched[0]), float(stretched[1])


@cache
def market_taste(market: str, *, world_seed: int, category_share: float = 0.5) -> MarketTaste:
    """The taste of a market in a world. It does not depend on which other markets are simulated.

    `category_share` of a term's variance is the category's in this market, the rest the market's own, so that neighbours of
    the same category say most, and others something.
    """
    rng = np.random.default_rng([world_seed, 1, zlib.crc32(market.encode())])
    terms = {}
    for name, size in (("scene", len(SCENES)), ("palette", len(PALETTES)), ("lighting", len(LIGHTINGS))):
        own, by_category = rng.standard_normal((1, size)), rng.standard_normal((len(CATEGORIES), size))
        terms[name] = _TERM_SD[name] * (np.sqrt(1 - category_share) * own + np.sqrt(category_share) * by_category)
    colourfulness, complexity = nominal_peaks(market)
    return MarketTaste(market=market, colourfulness=colourfulness, complexity=complexity, **terms)


def own_terms(index: SpecIndex, rng: np.random.Generator) -> np.ndarray:
    """Utility [N], without unit, of designs in invented likings of scenes, palettes and lighting, as wide as a market's terms."""
    vocabulary = {"scene": SCENES, "palette": PALETTES, "lighting": LIGHTINGS}
    terms = {name: _TERM_SD[name] * rng.standard_normal(len(choices)) for name, choices in vocabulary.items()}
    return terms["scene"][index.scene] + terms["palette"][index.palette] + terms["lighting"][index.lighting]


def utility(taste: MarketTaste, index: SpecIndex) -> np.ndarray:
    """Utility [N] of designs in a market: quadratic fall-off around both peaks plus the market's terms, without unit.

    -((colourfulness - peak)^2 + (complexity - peak)^2) / (2 width^2) + the category's scene, palette, lighting terms.
    """
    colourfulness = np.array([palette.colourfulness for palette in PALETTES.values()])[index.palette]
    complexity = np.array([clutter.complexity for clutter in CLUTTERS.values()])[index.clutter]
    distance = (colourfulness - taste.colourfulness) ** 2 + (complexity - taste.complexity) ** 2
    liking = (
        taste.scene[index.category, index.scene]
        + taste.palette[index.category, index.palette]
        + taste.lighting[index.category, index.lighting]
    )
    return liking - distance / (2 * _WIDTH**2)
