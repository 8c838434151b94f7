"""The judge that only a simulation has: which ad the simulated customers truly prefer."""

from collections.abc import Mapping, Sequence
from typing import Any

from countryreward.data.design import LABELS, Design
from countryreward.data.marketplace.true_preference import TruePreference

TRUTH = "truth"
"""Its name among `data.tables.JUDGES`."""


def add_truth(
    rows: Sequence[dict[str, Any]],
    truth: TruePreference,
    originals: Mapping[str, str],
    reference: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Adds it to `beats_original` and `beats_reference` of rows of CASES: 1 where the ad is truly preferred, .5 where neither is.

    originals: product -> creative id of its own picture. reference: rows of the reference writer's cases.
    """
    theirs = {(row["product_id"], row["market"], row["seed"]): _design(row) for row in reference}
    for row in rows:
        like, market = originals[row["product_id"]], row["market"]
        own = truth.of_design(_design(row), like, market)
        row["beats_original"][TRUTH] = _beats(own, truth.of_creative(like, market))
        rival = theirs.get((row["product_id"], market, row["seed"]))
        if rival is not None:
            row["beats_reference"][TRUTH] = _beats(own, truth.of_design(rival, like, market))


def _design(row: Mapping[str, Any]) -> Design:
    return Design(**{name: row[name] for name in LABELS})


def _beats(own: float, other: float) -> float:
    return 0.5 if own == other else float(own > other)
