"""From observations by period to one value per creative, market and kind."""

import numpy as np
import pandas as pd

VALUE_COLUMNS = ["impressions", "clicks", "rate", "orders", "score"]


def pool(observations: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Pool periods: counts and orders are summed, rates are averaged, scores are averaged by their number of ratings.

    Returns one row per `keys` and kind with impressions, clicks (NaN where not counts) and `value`: CTR, rate, orders or
    score.
    """
    frame = observations.assign(
        ratings=observations["score_n"]
        .fillna(0)
        .astype(float)
        .clip(lower=0)
        .where(observations["score_n"].fillna(0) > 0, 1.0)
    )
    frame["weighted_score"] = frame["score"].astype(float) * frame["ratings"]
    grouped = frame.groupby([*keys, "kind"], sort=True, observed=True)
    pooled = grouped.agg(
        impressions=("impressions", "sum"),
        clicks=("clicks", "sum"),
        rate=("rate", "mean"),
        orders=("orders", "sum"),
        weighted_score=("weighted_score", "sum"),
        ratings=("ratings", "sum"),
    ).reset_index()
    kind = pooled["kind"]
    impressions, clicks = pooled["impressions"].astype(float), pooled["clicks"].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.select(
            [kind == "counts", kind == "rate", kind == "orders"],
            [clicks / impressions, pooled["rate"].astype(float), pooled["orders"].astype(float)],
            pooled["weighted_score"].astype(float) / pooled["ratings"],
        )
    counted = kind == "counts"
    return pooled[[*keys, "kind"]].assign(
        impressions=impressions.where(counted), clicks=clicks.where(counted), value=value
    )
