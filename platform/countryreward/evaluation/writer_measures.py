"""Everything that is measured of one variant of the design writer, case by case, ready to be averaged.

A case is one (product, market); its draws are averaged first, so that every case counts alike.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.design import LABELS
from countryreward.equations.writer_metrics import (
    WordSets,
    across_markets,
    commonest,
    log_ratio,
    market_effect,
    preferred,
    within_market,
    word_sets,
)
from countryreward.evaluation.paired_means import Key
from countryreward.evaluation.writer_cases import QUESTIONS, WriterCases

MEASURES = ("share", "probability")
"""share: of cases in which the ad is preferred (Table 2). probability: the mean of what the judge said."""
RECOGNISABLE = 0.5
"""Fidelity below which a product is counted as hardly recognisable."""
SPREADS = ("within", "across", "market_effect")
"""`equations/writer_metrics.py`, per product."""


def measures(variant: WriterCases, *, is_reference: bool) -> dict[Key, pd.Series]:
    """Key -> values indexed by (product, market), for diversity by product; a case without a value is left out.

    Keys: (question, judge, measure), ("fidelity", "mean" | "below_half"), ("diversity", spread), ("kl",). The reference has
    .5 head to head: it is its own rival.
    """
    found = _judged(variant, is_reference)
    fidelity = variant.cases["fidelity"].to_numpy(float)
    found["fidelity", "mean"] = _by_case(variant, fidelity)
    found["fidelity", "below_half"] = _by_case(variant, (fidelity < RECOGNISABLE).astype(float))
    found |= {("diversity", name): values for name, values in _spreads(variant).items()}
    if variant.log_probs is not None:
        told = variant.log_probs.set_index("key").reindex(variant.cases["key"])
        pair = (told[name].to_numpy(float) for name in ("log_prob", "log_prob_reference"))
        found["kl",] = _by_case(variant, log_ratio(*pair))
    return found


def collapse(variant: WriterCases, market: str) -> dict[str, Any]:
    """How many different designs there are in a market, and the share of the most frequent: of whole designs and by field."""
    here = variant.cases[variant.cases["market"] == market]
    designs = [word_sets(fields) for fields in zip(*(here[name].tolist() for name in LABELS), strict=True)]
    different, share = commonest(designs)
    by_field = {name: commonest([(design[at],) for design in designs])[1] for at, name in enumerate(LABELS)}
    return {
        "designs": len(designs),
        "products": int(here["product_id"].nunique()),
        "different": different,
        "commonest": share if designs else None,
        "by_field": by_field if designs else {},
    }


def _judged(variant: WriterCases, is_reference: bool) -> dict[Key, pd.Series]:
    found: dict[Key, pd.Series] = {}
    for judge in variant.judges():
        original = variant.probabilities("beats_original", judge)
        itself = np.where(np.isnan(original), np.nan, 0.5)
        rival = itself if is_reference else variant.probabilities("beats_reference", judge)
        for question, said in zip(QUESTIONS, (original, rival), strict=True):
            if not np.isnan(said).all():
                found[question, judge, "share"] = _by_case(variant, preferred(said))
                found[question, judge, "probability"] = _by_case(variant, said)
    return found


def _by_case(variant: WriterCases, values: NDArray[np.float64]) -> pd.Series:
    """Mean of the draws of each (product, market)."""
    case = [variant.cases[name].astype(str).to_numpy() for name in ("product_id", "market")]
    return pd.Series(values).groupby(case).mean().dropna()


def _spreads(variant: WriterCases) -> dict[str, pd.Series]:
    """The diversity of each product's designs."""
    frame = variant.cases
    grouped: dict[str, dict[str, list[tuple[WordSets, int]]]] = {}
    columns = (frame[name].tolist() for name in ("product_id", "market", "seed", *LABELS))
    for product, market, seed, *fields in zip(*columns, strict=True):
        grouped.setdefault(str(product), {}).setdefault(str(market), []).append((word_sets(fields), int(seed)))
    found: dict[str, dict[str, float]] = {name: {} for name in SPREADS}
    for product, markets in grouped.items():
        draws = [[design for design, _ in each] for each in markets.values()]
        within = within_market(draws)
        across = across_markets(draws, [[seed for _, seed in each] for each in markets.values()])
        for name, value in zip(SPREADS, (within, across, market_effect(across, within)), strict=True):
            found[name][product] = value
    return {name: pd.Series(values, dtype=float).dropna() for name, values in found.items()}
