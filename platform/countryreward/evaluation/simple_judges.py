"""Judges to compare with that need no trained model: a constant letter, the best blind judge in hindsight, shuffling.

Each returns one logit per row of a records frame (columns of RECORDS, docs/data.md).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.records import item_keys


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
