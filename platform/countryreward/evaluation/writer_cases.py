"""What a variant of the design writer made, and everything that is measured of it, case by case, ready to be averaged.

A case is one (product, market); its draws are averaged first, so that every case counts alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.design import LABELS, Design
from countryreward.data.tables import CASES, JUDGES
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
from countryreward.errors import UserError
from countryreward.evaluation.statistics import Key

KIND = "cases"
QUESTIONS = ("beats_original", "beats_reference")
"""What every judge was asked of an ad: against the product's original creative, against the reference writer's ad."""
MEASURES = ("share", "probability")
"""share: of cases in which the ad is preferred (Table 2). probability: the mean of what the judge said."""
RECOGNISABLE = 0.5
"""Fidelity below which a product is counted as hardly recognisable."""
SPREADS = ("within", "across", "market_effect")
"""How much the designs of a product differ: two draws within a market, two markets, and the second less the first
(`equations/writer_metrics.py`)."""
JUDGE_NAMES = {
    "reward": "The reward that trained it",
    "held_out": "A held-out judge",
    "truth": "The simulated truth",
}


@dataclass(frozen=True, kw_only=True)
class WriterCases:
    """One variant: "reference" (before), "round-1", ..."""

    name: str
    """How tables and pictures call it."""
    cases: pd.DataFrame
    """CASES, the judges' maps as dicts or as lists of (judge, probability). Several draws of a (product, market) are rows of
    their own with other seeds."""
    log_probs: pd.DataFrame | None = None
    """key, log_prob, log_prob_reference (nats per design), tokens; None: not measured."""
    pairs: Mapping[str, int] = field(default_factory=dict)
    """Market -> preference pairs that this round was trained on; empty for the reference."""
    refused: int | None = None
    """Designs that could not be read and have no case; None: not known."""
    artifact: Artifact | None = None
    """Where it was read from, with the ads."""

    def probabilities(self, question: str, judge: str) -> NDArray[np.float64]:
        """What a judge said of every row [N]; NaN where it was not asked."""
        answers = (_as_dict(row).get(judge, np.nan) for row in self.cases[question])
        return np.fromiter(answers, np.float64, len(self.cases))

    def judges(self) -> tuple[str, ...]:
        """Judges that said something of an ad, those of `JUDGES` first."""
        named = {judge for question in QUESTIONS for row in self.cases[question] for judge in _as_dict(row)}
        return (*(judge for judge in JUDGES if judge in named), *sorted(named - set(JUDGES)))


def open_cases(path: str | Path, *, name: str, pairs: Mapping[str, int] | None = None) -> WriterCases:
    """Read a cases artifact: cases.parquet and, where it has one, log_probs.parquet.

    Refused designs are what the manifest counts as `designs.not_read`. Raises `UserError` for what is missing or altered.
    """
    artifact = open_artifact(path, kind=KIND)
    table = pq.read_table(artifact.path / "cases.parquet")
    missing = [column for column in CASES.names if column not in table.column_names]
    if missing:
        raise UserError(f"cases: {artifact.path} lacks {', '.join(missing)}; make the cases again")
    logs = artifact.path / "log_probs.parquet"
    counted = artifact.manifest.counts.get("designs")
    return WriterCases(
        name=name,
        cases=table.to_pandas(maps_as_pydicts="strict"),
        log_probs=pd.read_parquet(logs) if logs.exists() else None,
        pairs=dict(pairs or {}),
        refused=None if counted is None else counted.get("not_read", 0),
        artifact=artifact,
    )


def judge_name(judge: str) -> str:
    """A judge of writers in plain words."""
    return JUDGE_NAMES.get(judge, judge.replace("_", " "))


def design_of(row: Any) -> Design:
    """The design of a row of CASES."""
    return Design(**{name: str(row[name]) for name in LABELS})


def measures(variant: WriterCases, *, is_reference: bool) -> dict[Key, pd.Series]:
    """Key -> values indexed by (product, market), for diversity by product; a case without a value is left out.

    Keys: (question, judge, measure), ("fidelity", "mean" | "below_half"), ("diversity", spread), ("kl",). The reference has
    .5 head to head: it is its own rival.
    """
    values = _preferences(variant, is_reference)
    fidelity = variant.cases["fidelity"].to_numpy(float)
    values["fidelity", "mean"] = _by_case(variant, fidelity)
    values["fidelity", "below_half"] = _by_case(variant, (fidelity < RECOGNISABLE).astype(float))
    values |= {("diversity", name): by_product for name, by_product in _spreads(variant).items()}
    if variant.log_probs is not None:
        log_probs = variant.log_probs.set_index("key").reindex(variant.cases["key"])
        pair = (log_probs[name].to_numpy(float) for name in ("log_prob", "log_prob_reference"))
        values["kl",] = _by_case(variant, log_ratio(*pair))
    return values


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


def _preferences(variant: WriterCases, is_reference: bool) -> dict[Key, pd.Series]:
    """(question, judge, measure) -> values by case, for every question that a judge was asked."""
    values: dict[Key, pd.Series] = {}
    for judge in variant.judges():
        original = variant.probabilities("beats_original", judge)
        itself = np.where(np.isnan(original), np.nan, 0.5)
        rival = itself if is_reference else variant.probabilities("beats_reference", judge)
        for question, probability in zip(QUESTIONS, (original, rival), strict=True):
            if not np.isnan(probability).all():
                values[question, judge, "share"] = _by_case(variant, preferred(probability))
                values[question, judge, "probability"] = _by_case(variant, probability)
    return values


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
    spreads: dict[str, dict[str, float]] = {name: {} for name in SPREADS}
    for product, markets in grouped.items():
        draws = [[design for design, _ in market] for market in markets.values()]
        within = within_market(draws)
        across = across_markets(draws, [[seed for _, seed in market] for market in markets.values()])
        for name, value in zip(SPREADS, (within, across, market_effect(across, within)), strict=True):
            spreads[name][product] = value
    return {name: pd.Series(by_product, dtype=float).dropna() for name, by_product in spreads.items()}


def _as_dict(judged: Any) -> Mapping[str, float]:
    """Judge -> probability, from a dict, a list of pairs, or nothing."""
    if isinstance(judged, Mapping):
        return judged
    return {} if judged is None else dict(judged)
