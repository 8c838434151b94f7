"""CountryReward: which of these ad images will win in this country, and why.

Importing the package does nothing; the public names below are loaded when first asked for.
"""

import importlib

from countryreward import renamed_modules

__version__ = "0.1.0"

renamed_modules.install()

_PUBLIC = {
    "CountryReward": "countryreward.scoring.country_reward",
    "Client": "countryreward.client",
    "AsyncClient": "countryreward.client",
    "PriorScorer": "countryreward.scoring.prior_scorer",
    "Copy": "countryreward.scoring.contracts",
    "Creative": "countryreward.scoring.contracts",
    "KnownResult": "countryreward.scoring.contracts",
    "PairRequest": "countryreward.scoring.contracts",
    "Product": "countryreward.scoring.contracts",
    "Ranking": "countryreward.scoring.contracts",
    "ScoreRequest": "countryreward.scoring.contracts",
    "SideResult": "countryreward.scoring.contracts",
    "Scorer": "countryreward.scoring.contracts",
    "Verdict": "countryreward.scoring.contracts",
    "UserError": "countryreward.errors",
}
__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'countryreward' has no attribute {name!r}")
