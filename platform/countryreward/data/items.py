"""The item of a record: what Eq. 15 pairs the countries of."""

import numpy as np
import pandas as pd


def item_keys(records: pd.DataFrame) -> pd.Series:
    """The item of each row.

    That is the pair. With time windows one pair meets one market several times; then the window (as_of) is part of the
    item, for a country pair compares two markets and not two windows of one.
    """
    pair = records["pair_id"].astype(str).to_numpy()
    if records.duplicated(["pair_id", "market"]).any():
        pair = np.array([f"{name}|{window}" for name, window in zip(pair, records["as_of"], strict=True)], dtype=object)
    keys = pd.Series(pair, index=records.index)
    if pd.DataFrame({"key": pair, "market": records["market"].to_numpy()}).duplicated().any():
        raise ValueError("records: a market occurs twice in one item (pair_id and as_of); keep one row of each")
    return keys
