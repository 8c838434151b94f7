"""From evidence to labels: what each pair's counts, votes, rates, orders or scores say, and how sure of it one can be."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from countryreward.data.pair_evidence import common_cells
from countryreward.data.tables import COMPARABLE, DELIVERIES, KINDS, RECORD_KINDS, STRATA
from countryreward.equations import evidence as equations
from countryreward.equations.evidence import Contrasts, Spread

_TIE = 1e-9  # relative difference of two compared values that is none: sums of decimal fractions differ in the last bit
_ENOUGH = 30  # comparable pairs from which on what delivery adds is fitted

_COLUMNS = ("value_1", "value_2", "compared_1", "compared_2", "impressions_1", "impressions_2", "label", "soft")


@dataclass(frozen=True)
class Comparison:
    """What the evidence says of each pair."""

    frame: pd.DataFrame
    """By pair: kind, delivery, strata (common cells), value (pooled, for display), compared (within common cells), impressions
    (there; NaN without counts) of both sides, label (1, 0, .5 of side 1) and soft (NaN without a posterior)."""
    reason: "pd.Series[str]"
    """Why a pair has no evidence; else empty."""
    voted: int
    """Pairs with votes that other evidence labels."""
    spread: dict[str, Any]
    """The fitted spreads, of all markets and by market; empty without counts."""


def compare(
    pairs: pd.DataFrame,
    observations: pd.DataFrame,
    votes: pd.DataFrame,
    *,
    outcome: Literal["clicks", "conversions", "value"] = "clicks",
) -> Comparison:
    """Compare both sides of every pair by the first kind of RECORD_KINDS for which they have common evidence.

    pairs: product_id, creative_1, creative_2, market, window; the index counts from 0. observations: columns of OBSERVATIONS
    and window, creative_id that of the creative. votes: creative_1 < creative_2, market, window, votes_1, votes_2. With an
    outcome other than clicks only counts that tell it, and votes, speak.
    """
    rows = _rows(observations, outcome)
    common = common_cells(pairs, rows)
    frame = pd.DataFrame(np.nan, index=pairs.index, columns=list(_COLUMNS))
    frame["kind"], frame["delivery"] = pd.Series(None, index=pairs.index, dtype="str"), "unknown"
    frame["strata"] = 0
    cells = common.frame
    voted = _voted(pairs, votes)
    spread: dict[str, Any] = {}
    for kind in RECORD_KINDS:
        free = frame["kind"].isna()
        if kind == "votes":
            at = pairs.index[free & voted.notna().all(axis=1)]
            _label_votes(frame, pairs, voted, at)
            continue
        mine = cells[(cells["kind"] == kind) & free.reindex(cells["pair"]).to_numpy()]
        if mine.empty:
            continue
        at, place = np.unique(mine["pair"].to_numpy(np.int64), return_inverse=True)
        unit = _value_unit(rows) if kind == "counts" and outcome == "value" else 1.0
        contrasts = _contrasts(mine, place, len(at), unit)
        frame.loc[at, "kind"] = kind
        frame.loc[at, "strata"] = np.bincount(place)
        delivery = mine.groupby(place)["delivery"].max().to_numpy(np.int64)
        frame.loc[at, "delivery"] = np.array(DELIVERIES, dtype=object)[delivery]
        frame.loc[at, "compared_1"], frame.loc[at, "compared_2"] = contrasts.rate_a, contrasts.rate_b
        frame.loc[at, "label"] = _order(contrasts.rate_a, contrasts.rate_b)
        if kind == "counts":
            for side in ("1", "2"):
                frame.loc[at, f"impressions_{side}"] = np.bincount(place, mine[f"shown_{side}"].to_numpy(np.float64))
            if np.isfinite(unit):  # without a conversion nobody can tell what money varies by
                soft, spread = _posterior(pairs.loc[at], contrasts, delivery < len(COMPARABLE))
                frame.loc[at, "soft"] = soft
    frame = _pooled_values(frame, pairs, rows)
    reason = common.reason.where(frame["kind"].isna(), "")
    otherwise = voted.notna().all(axis=1) & frame["kind"].notna() & (frame["kind"] != "votes")
    return Comparison(frame, reason, int(otherwise.sum()), spread)


def spread_between(observations: pd.DataFrame, product: np.ndarray) -> float:
    """Spread, log-odds of a click, of creatives within a product, from the counts of one market.

    observations: columns of OBSERVATIONS, of which those of kind counts are read; product: a number per row. Each creative is
    compared with the next of its product.
    """
    counted = (observations["kind"] == "counts").to_numpy()
    rows = _rows(observations[counted].assign(market="", window=""), "clicks")
    ads = pd.DataFrame({"product": product[counted], "creative": rows["creative_id"].to_numpy()}).drop_duplicates()
    ads = ads.sort_values(["product", "creative"], ignore_index=True)
    next_ad = ads["creative"].shift(-1)
    pairs = pd.DataFrame({"creative_1": ads["creative"], "creative_2": next_ad, "market": "", "window": ""})
    pairs = pairs[(ads["product"] == ads["product"].shift(-1)).to_numpy()].reset_index(drop=True)
    if pairs.empty:
        return equations.DEFAULT_BETWEEN
    cells = common_cells(pairs, rows).frame
    at, place = np.unique(cells["pair"].to_numpy(np.int64), return_inverse=True)
    contrasts = _contrasts(cells, place, len(at))
    variance = contrasts.variance + 2 * equations.fit_cells(contrasts) ** 2 * contrasts.cells_share
    everything = np.ones(len(at), bool)
    return equations.fit_between(contrasts, variance, np.ones(len(at)), everything, worth=equations.DEFAULT_WORTH)


def _contrasts(cells: pd.DataFrame, place: np.ndarray, pairs: int, unit: float = 1.0) -> Contrasts:
    """`equations.contrast` of cells as `common_cells` gives them; place: the pair of each, numbered from 0."""
    success_1, shown_1, success_2, shown_2 = (
        cells[name].to_numpy(np.float64) for name in ("amount_1", "shown_1", "amount_2", "shown_2")
    )
    place = place.astype(np.int64)
    return equations.contrast(success_1, shown_1, success_2, shown_2, place, pairs, variance_per_success=unit)


def _rows(observations: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """What `common_cells` sums: shown and amount of each observation, by its kind."""
    kind = observations["kind"]
    told = observations[outcome].notna() if outcome != "clicks" else pd.Series(True, index=observations.index)
    rows = observations[(kind == "counts") & told] if outcome != "clicks" else observations
    kind = rows["kind"]
    ratings = rows["score_n"].astype(float)
    ratings = ratings.where(ratings > 0, 1.0)
    shown = np.select([kind == "counts", kind == "score"], [rows["impressions"].astype(float), ratings], 1.0)
    amount = np.select(
        [kind == "counts", kind == "rate", kind == "orders"],
        [rows[outcome].astype(float), rows["rate"].astype(float), rows["orders"].astype(float)],
        rows["score"].astype(float) * ratings,
    )
    place = {name: number for number, name in enumerate(DELIVERIES)}
    delivery = rows["delivery"].fillna("unknown").map(place).astype(np.int64)
    columns = ["creative_id", "market", "window", "kind", *STRATA, "period_start", "period_end"]
    conversions = rows["conversions"].astype(float)
    return rows[columns].assign(shown=shown, amount=amount, delivery=delivery, conversions=conversions)


def _value_unit(rows: pd.DataFrame) -> float:
    """Variance of a market's value per unit of it: twice the mean value of a conversion, as if values were exponential."""
    told = rows["conversions"] > 0
    sold = rows.loc[told, "conversions"].sum()
    return float(2 * rows.loc[told, "amount"].sum() / sold) if sold else float("inf")


def _order(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """1 where one is larger, 0 where two is, .5 where they differ by less than rounding."""
    tie = np.abs(one - two) <= _TIE * np.maximum(np.abs(one), np.abs(two))
    return np.where(tie, 0.5, (one > two).astype(float))


def _posterior(pairs: pd.DataFrame, contrasts: Contrasts, comparable: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Soft label of every pair [R], and the spreads behind it.

    Spreads are fitted over all markets together and then by market, each market's drawn to that of all. Where there is comparable
    (randomised or rotated) evidence, the spread of creatives is read off it alone, and what other pairs spread beyond that is
    what delivery adds: it counts as noise of those pairs.
    """
    cells = equations.fit_cells(contrasts)
    variance = contrasts.variance + 2 * cells**2 * contrasts.cells_share
    group = pairs.groupby(["product_id", "market", "window"], sort=False).ngroup().to_numpy()
    compared = pd.DataFrame(
        {"group": np.tile(group, 2), "creative": pd.concat([pairs["creative_1"], pairs["creative_2"]])}
    )
    comparisons = 2 / compared.drop_duplicates().groupby("group").size().to_numpy(float)[group]
    told = comparable if comparable.sum() >= _ENOUGH else np.ones(len(pairs), bool)

    def fit(at: np.ndarray, expected: float, worth: float) -> float:
        return equations.fit_between(contrasts, variance, comparisons, at, expected=expected, worth=worth)

    between = fit(told, equations.DEFAULT_BETWEEN, equations.DEFAULT_WORTH)
    delivery = None
    if comparable.sum() >= _ENOUGH:
        delivery = 0.0
        if (~comparable).any():
            both = fit(~comparable, between, equations.DEFAULT_WORTH)
            delivery = float(np.sqrt(max(0.0, both**2 - between**2)))
    market = pairs["market"].to_numpy(str)
    spreads = {name: fit(told & (market == name), between, equations.MARKET_WORTH) for name in np.unique(market)}
    of_pair = np.array([spreads[name] for name in market])
    soft = equations.probability_better(contrasts, variance, of_pair, (delivery or 0.0) * ~comparable)
    whole = asdict(Spread(between=between, cells=cells, delivery=delivery))
    return soft, {"all": whole, "between_by_market": spreads}


def _voted(pairs: pd.DataFrame, votes: pd.DataFrame) -> pd.DataFrame:
    """votes_1 and votes_2 of each pair in its own order; NaN where nobody voted."""
    if votes.empty:
        return pd.DataFrame(np.nan, index=pairs.index, columns=["votes_1", "votes_2"])
    keys = ["creative_1", "creative_2", "market", "window"]
    turned = pairs["creative_1"] > pairs["creative_2"]
    low = pairs["creative_1"].where(~turned, pairs["creative_2"])
    high = pairs["creative_2"].where(~turned, pairs["creative_1"])
    found = pd.DataFrame({"creative_1": low, "creative_2": high, "market": pairs["market"], "window": pairs["window"]})
    merged = found.merge(votes[[*keys, "votes_1", "votes_2"]], on=keys, how="left").set_index(pairs.index)
    first, second = merged["votes_1"].astype(float), merged["votes_2"].astype(float)
    return pd.DataFrame({"votes_1": first.where(~turned, second), "votes_2": second.where(~turned, first)})


def _label_votes(frame: pd.DataFrame, pairs: pd.DataFrame, voted: pd.DataFrame, at: pd.Index) -> None:
    """Fill in the pairs `at` that are labelled by votes. Voters were shown both, so their delivery is comparable."""
    if at.empty:
        return
    one, two = (voted.loc[at, name].to_numpy(float) for name in ("votes_1", "votes_2"))
    frame.loc[at, "kind"], frame.loc[at, "delivery"], frame.loc[at, "strata"] = "votes", "randomised", 1
    frame.loc[at, "value_1"], frame.loc[at, "value_2"] = one, two
    share = equations.preferred_share(one, two)
    frame.loc[at, "compared_1"], frame.loc[at, "compared_2"] = share, 1 - share
    frame.loc[at, "label"] = _order(one, two)
    market = pairs.loc[at, "market"].to_numpy(str)
    soft = np.full(len(at), np.nan)
    for name in np.unique(market):
        here = market == name
        soft[here] = equations.probability_preferred(one[here], two[here], equations.fit_votes(one[here], two[here]))
    frame.loc[at, "soft"] = soft


def _pooled_values(frame: pd.DataFrame, pairs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add value_1 and value_2: all evidence of the pair's kind in market and window, common or not, for display."""
    keys = ["creative_id", "market", "window", "kind"]
    sums = rows.groupby(keys, sort=False, observed=True)[["shown", "amount"]].sum()
    value = (sums["amount"] / sums["shown"]).where(sums.index.get_level_values("kind") != "orders", sums["amount"])
    observed = frame["kind"].isin(KINDS)
    for side in ("1", "2"):
        asked = pairs.loc[observed, [f"creative_{side}", "market", "window"]].assign(kind=frame.loc[observed, "kind"])
        frame.loc[observed, f"value_{side}"] = value.reindex(pd.MultiIndex.from_frame(asked)).to_numpy()
    return frame
