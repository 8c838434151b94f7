"""Judges to compare with that need no trained model: a constant letter, the best blind judge in hindsight, shuffling.

Each returns one logit per row of a records frame (columns of RECORDS, docs/data.md).
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.records import item_keys
from countryreward.equations.calibration import fit_temperature


def constant_letter(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
    """The majority letter of the train records on every test row [R], as +1 (A) or -1; a tie, or no train record, says A."""
    share = float(train["label"].to_numpy().mean()) if len(train) else 0.5
    return np.full(len(test), 1.0 if share >= 0.5 else -1.0)


def market_blind_oracle(test: pd.DataFrame) -> NDArray[np.float64]:
    """Per item the letter most of its markets chose, read off the evaluated labels themselves [R]; a tie says A.

    No judge that ignores the market can be more accurate on these rows, and none can be right on both sides of a
    discordant country pair, this one included. The logit is +1 or -1 and states no probability.
    """
    share = test["label"].groupby(item_keys(test).to_numpy()).transform("mean").to_numpy()
    return np.where(share >= 0.5, 1.0, -1.0)


def other_markets(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
    """What the same two creatives did in the item's other markets, pooled, as log-odds of A [R]: "it won elsewhere".

    Counts: the log odds ratio of the pooled success rates, half a success added on each side. Other evidence: the share of the
    other markets that A won, as log-odds of (wins + 1) / (markets + 2). One temperature, fitted on the train records, makes
    probabilities of it. Where records are marked as revealed only those are read. 0 for an item without other markets.
    """
    raw = _elsewhere(test)
    if not len(train):
        return raw
    known = _elsewhere(train)
    return raw / fit_temperature(train["label"].to_numpy(np.float64), known)


def _elsewhere(records: pd.DataFrame) -> NDArray[np.float64]:
    item = pd.factorize(item_keys(records))[0]
    revealed = records["revealed"].to_numpy(bool) if "revealed" in records else np.zeros(len(records), bool)
    read = revealed if revealed.any() else np.ones(len(records), bool)

    def others(values: NDArray[Any]) -> NDArray[np.float64]:
        mine = np.where(read, np.nan_to_num(values), 0.0)
        return np.bincount(item, mine, item.max(initial=-1) + 1).astype(np.float64)[item] - mine

    counts = {}
    for side in ("a", "b"):
        shown = records[f"impressions_{side}"].astype("Float64").to_numpy(np.float64, na_value=0.0)
        rate = records[f"compared_{side}" if f"compared_{side}" in records else f"value_{side}"].to_numpy(np.float64)
        successes, shown = others(np.where(shown > 0, rate, 0.0) * shown), others(shown)
        counts[side] = successes, shown
    label = records["label"].to_numpy(np.float64)
    won, markets = others(label), others(np.ones(len(records)))
    votes = np.log((won + 1) / (markets - won + 1))
    (clicks_a, shown_a), (clicks_b, shown_b) = counts["a"], counts["b"]
    counted = (shown_a > 0) & (shown_b > 0)
    odds_a = np.log(clicks_a + 0.5) - np.log(np.maximum(shown_a - clicks_a, 0.0) + 0.5)
    odds_b = np.log(clicks_b + 0.5) - np.log(np.maximum(shown_b - clicks_b, 0.0) + 0.5)
    return np.where(counted, odds_a - odds_b, votes)


def shuffled(logits: NDArray[np.float64], test: pd.DataFrame, *, draws: int = 20, seed: int = 0) -> NDArray[np.float64]:
    """The logits [R] of each item handed to its markets in a uniformly random order, several times over [S, R].

    What is left is all a judge knows about the item and nothing about the country; its discordant ordering is .5 in
    expectation. One draw alone strays from that by a point or more, hence several. The identity is allowed: forcing every
    market to get another's logit (a derangement) would, with two markets, be the exact inverse, and its ordering 1 minus the
    original's instead of .5. Rows are first put in an order of their own, so the result does not depend on the frame's.
    """
    rng = np.random.default_rng(seed)
    item = pd.factorize(item_keys(test), sort=True)[0]
    rows = np.lexsort((pd.factorize(test["market"], sort=True)[0], item))
    result = np.empty((draws, rows.size))
    for draw in result:
        dealt = rows[np.lexsort((rng.random(rows.size), item[rows]))]  # rows and dealt list the same items in one order
        draw[rows] = np.asarray(logits, dtype=np.float64)[dealt]
    return result
