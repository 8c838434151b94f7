"""Records (contract 2): observations become labelled pairs, one row per pair and market. method.md, evidence behind a label."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data import tables
from countryreward.data.data_config import RecordsConfig
from countryreward.data.dataset import Dataset
from countryreward.data.pooled_evidence import pool
from countryreward.data.quarantine import check_counts
from countryreward.data.splits import as_of_day, hashed_share, time_windows, unit_split
from countryreward.equations.evidence import fit_beta, probability_greater
from countryreward.equations.readings import resolve


@dataclass(frozen=True)
class Records:
    """The labelled pairs, the split of every unit, and everything that was left out, counted by reason."""

    frame: pd.DataFrame
    units: pd.DataFrame
    counts: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write records.parquet and units.parquet."""
        for name, frame, schema in (
            ("records.parquet", self.frame, tables.RECORDS),
            ("units.parquet", self.units, tables.SPLIT_UNITS),
        ):
            pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), folder / name)


def build_records(dataset: Dataset, config: RecordsConfig) -> Records:
    """All labelled pairs of a dataset.

    Creatives of one product with the same bytes are one image and their evidence is pooled. A pair is labelled by the first
    kind of `tables.KINDS` that both of its creatives have. Counts: input = records + dropped + quarantined, where input is
    every pair x market (x time window) in which both creatives, or a listed pair, were observed.
    """
    observations, left_out = _windowed(dataset, config)
    evidence = pool(observations, ["product_id", "creative_id", "content_hash", "market", "window"])
    candidates, repeated = _candidates(dataset, evidence)
    pairs = _attach_evidence(candidates, evidence)
    reason = pd.Series("", index=pairs.index, dtype="str")

    def drop(rows: "pd.Series[bool]", why: str) -> None:
        reason[rows & (reason == "")] = why

    drop(pairs["hash_1"] == pairs["hash_2"], "same_image")
    drop(pairs["kind"].isna(), "no_common_evidence")
    few = pairs[["impressions_1", "impressions_2"]].min(axis=1) < config.min_impressions
    drop(few & (pairs["kind"] == "counts"), "below_min_impressions")
    drop(pairs["value_1"] == pairs["value_2"], "tie")
    units = _units(dataset, pairs, config)
    pairs["split"], crosses = _split_of(pairs, units, config)
    drop(crosses, "crosses_split")

    kept = pairs[reason == ""].reset_index(drop=True)
    frame = _label(_orient(kept, config), evidence, config)
    dropped = reason[reason != ""].value_counts().to_dict()
    if repeated:
        dropped["repeated_pair"] = repeated
    counts = {
        "pairs": {
            "input": len(pairs) + repeated,
            "records": len(frame),
            "dropped": sum(dropped.values()),
            "quarantined": 0,  # bad rows never get this far: the importer quarantined them
            "dropped_by_reason": {str(name): int(count) for name, count in dropped.items()},
        },
        "observations": left_out,
        "splits": {str(name): int(count) for name, count in frame["split"].value_counts().items()},
    }
    check_counts(counts["pairs"], "records")
    check_counts(counts["observations"], "observations in records")
    return Records(frame=frame, units=units, counts=counts)


def _windowed(dataset: Dataset, config: RecordsConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Observations with product, hash and window; of creatives with equal bytes in a product the smallest id stands for all."""
    creatives = dataset.creatives[["creative_id", "product_id", "content_hash"]].copy()
    first = creatives.groupby(["product_id", "content_hash"])["creative_id"].transform("min")
    frame = dataset.observations.merge(creatives.assign(canonical=first), on="creative_id")
    frame = frame.assign(creative_id=frame["canonical"]).drop(columns="canonical")
    frame["window"] = time_windows(frame, config.split) if config.split.by == "time" else "all"
    outside = frame["window"].isin(["undated", "straddles_window"])
    by_reason = {str(name): int(count) for name, count in frame.loc[outside, "window"].value_counts().items()}
    counts = {"input": len(frame), "kept": int((~outside).sum()), "dropped": int(outside.sum()), "quarantined": 0}
    return frame[~outside], {**counts, "dropped_by_reason": by_reason}


def _candidates(dataset: Dataset, evidence: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Pairs of creatives per product, market and window, and how many listed ones came twice."""
    keys = ["product_id", "market", "window"]
    observed = evidence[[*keys, "creative_id", "content_hash"]].drop_duplicates()
    if dataset.listed_pairs is None:
        both = observed.merge(observed, on=keys, suffixes=("_1", "_2"))
        both = both[both["creative_id_1"] < both["creative_id_2"]]
        return both.rename(columns=_SHORT).reset_index(drop=True), 0
    creatives = dataset.creatives[["creative_id", "product_id", "content_hash"]]
    first = creatives.groupby(["product_id", "content_hash"])["creative_id"].transform("min")
    canonical = creatives.assign(canonical=first).set_index("creative_id")
    listed = dataset.listed_pairs.copy()
    for side in ("1", "2"):
        listed[f"hash_{side}"] = listed[f"creative_{side}"].map(canonical["content_hash"])
        listed[f"creative_{side}"] = listed[f"creative_{side}"].map(canonical["canonical"])
    windows = pd.DataFrame({"window": sorted(evidence["window"].unique())})
    listed = listed.merge(windows, how="cross")
    sides = np.sort(listed[["creative_1", "creative_2"]].to_numpy(dtype=str), axis=1)
    repeated = listed.assign(low=sides[:, 0], high=sides[:, 1]).duplicated([*keys, "low", "high"])
    return listed[~repeated].reset_index(drop=True), int(repeated.sum())


_SHORT = {
    "creative_id_1": "creative_1",
    "creative_id_2": "creative_2",
    "content_hash_1": "hash_1",
    "content_hash_2": "hash_2",
}


def _attach_evidence(pairs: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """Add kind, value and counts of both sides: the most informative kind that both creatives have."""
    keys = ["market", "window"]
    pairs = pairs.assign(kind=pd.Series(None, index=pairs.index, dtype="str"))
    for column in ("value_1", "value_2", "impressions_1", "impressions_2", "clicks_1", "clicks_2"):
        pairs[column] = np.nan
    for kind in tables.KINDS:
        values = evidence.loc[evidence["kind"] == kind, ["creative_id", *keys, "value", "impressions", "clicks"]]
        if values.empty:
            continue
        sides = pairs[["creative_1", "creative_2", *keys]].copy()
        for side in ("1", "2"):
            renamed = values.rename(columns={name: f"{name}_{side}" for name in ("value", "impressions", "clicks")})
            renamed = renamed.rename(columns={"creative_id": f"creative_{side}"})
            sides = sides.merge(renamed, on=[f"creative_{side}", *keys], how="left")
        sides.index = pairs.index
        both = pairs["kind"].isna() & sides["value_1"].notna() & sides["value_2"].notna()
        pairs.loc[both, "kind"] = kind
        for column in ("value_1", "value_2", "impressions_1", "impressions_2", "clicks_1", "clicks_2"):
            pairs.loc[both, column] = sides.loc[both, column].astype(float)
    return pairs


def _units(dataset: Dataset, pairs: pd.DataFrame, config: RecordsConfig) -> pd.DataFrame:
    """The split of every unit, also of products without a pair: the knowledge base is built from the train units."""
    if config.split.by == "time":
        names = ["train", "validation", "test"]
        return pd.DataFrame({"unit": names, "split": names})
    column = {"product": dataset.products["product_id"], "image": dataset.creatives["content_hash"]}[config.split.by]
    units = sorted(column.unique())
    return pd.DataFrame({"unit": units, "split": [unit_split(unit, config.split) for unit in units]}, dtype="str")


def _split_of(
    pairs: pd.DataFrame, units: pd.DataFrame, config: RecordsConfig
) -> tuple["pd.Series[str]", "pd.Series[bool]"]:
    split = units.set_index("unit")["split"]
    if config.split.by == "image":
        first, second = pairs["hash_1"].map(split), pairs["hash_2"].map(split)
        return first, first != second
    unit = pairs["window"] if config.split.by == "time" else pairs["product_id"]
    return unit.map(split), pd.Series(False, index=pairs.index)


def _orient(pairs: pd.DataFrame, config: RecordsConfig) -> pd.DataFrame:
    """Decide which creative is A, the same in every market. `hashed`: by a seeded hash of the product and the sorted hashes.

    `as_given`: the first of the pair's first listing; a file that lists (A, B) in one market and (B, A) in another still
    has one orientation.
    """
    pairs = pairs.assign(low=pairs[["hash_1", "hash_2"]].min(axis=1), high=pairs[["hash_1", "hash_2"]].max(axis=1))
    items = pairs[["product_id", "low", "high", "hash_1"]].drop_duplicates(["product_id", "low", "high"])
    names = list(zip(items["product_id"], items["low"], items["high"], strict=True))
    if resolve(config.reading, "orientation", config.orientation) == "hashed":
        low_is_a = [hashed_share(config.orientation_seed, "orientation", *name) < 0.5 for name in names]
        first = items["low"].where(np.array(low_is_a, dtype=bool), items["high"])
    else:
        first = items["hash_1"]
    items = items.assign(pair_id=[_digest(*name) for name in names], first=first).drop(columns="hash_1")
    pairs = pairs.merge(items, on=["product_id", "low", "high"], how="left")
    swap = pairs["hash_1"] != pairs["first"]
    for name in ("creative", "hash", "value", "impressions", "clicks"):
        left, right = pairs[f"{name}_1"], pairs[f"{name}_2"]
        pairs[f"{name}_a"], pairs[f"{name}_b"] = left.where(~swap, right), right.where(~swap, left)
    return pairs


def _label(pairs: pd.DataFrame, evidence: pd.DataFrame, config: RecordsConfig) -> pd.DataFrame:
    """Hard label, soft label where there are counts, ids, and the day a prior may look back from."""
    soft = pd.Series(np.nan, index=pairs.index)
    for (market, window), group in pairs[pairs["kind"] == "counts"].groupby(["market", "window"]):
        here = evidence[
            (evidence["market"] == market) & (evidence["window"] == window) & (evidence["kind"] == "counts")
        ]
        prior = fit_beta(here["clicks"].to_numpy(float), here["impressions"].to_numpy(float))
        sides = [
            (prior.alpha + group[f"clicks_{side}"], prior.beta + group[f"impressions_{side}"] - group[f"clicks_{side}"])
            for side in ("a", "b")
        ]
        soft[group.index] = probability_greater(*(part.to_numpy(float) for side in sides for part in side))
    label = (pairs["value_a"] > pairs["value_b"]).astype("int8")
    hard = resolve(config.reading, "label.kind", config.label_kind) == "hard"
    days = {window: as_of_day(str(window), config.split) for window in pairs["window"].unique()}
    frame = pd.DataFrame(
        {
            "record_id": [
                _digest(*row) for row in zip(pairs["pair_id"], pairs["market"], pairs["window"], strict=True)
            ],
            **{name: pairs[name] for name in ("pair_id", "product_id", "market", "creative_a", "creative_b")},
            **{name: pairs[name] for name in ("hash_a", "hash_b", "kind", "value_a", "value_b")},
            "impressions_a": pairs["impressions_a"].astype("Int64"),
            "impressions_b": pairs["impressions_b"].astype("Int64"),
            "label": label,
            "soft_label": soft.astype("Float64").mask(soft.isna()),
            "target": label.astype(float) if hard else soft.where(soft.notna(), label.astype(float)),
            "equal_exposure_assumed": pairs["kind"] == "orders",
            "split": pairs["split"],
            "as_of": pairs["window"].map(days) if config.split.by == "time" else None,
        }
    )
    return frame.sort_values(["product_id", "pair_id", "market", "record_id"]).reset_index(drop=True)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def item_keys(records: pd.DataFrame) -> pd.Series:
    """The item of each record: what Eq. 15 pairs the countries of.

    An item is a pair of creatives. With time windows a pair meets one market several times; then the window (as_of) is part of
    the item, for a country pair compares two markets and not two windows of one. Raises `ValueError` where a market occurs twice
    in an item.
    """
    pair = records["pair_id"].astype(str).to_numpy()
    if records.duplicated(["pair_id", "market"]).any():
        pair = np.array([f"{name}|{window}" for name, window in zip(pair, records["as_of"], strict=True)], dtype=object)
    keys = pd.Series(pair, index=records.index)
    if pd.DataFrame({"key": pair, "market": records["market"].to_numpy()}).duplicated().any():
        raise ValueError("records: a market occurs twice in one item (pair_id and as_of); keep one row of each")
    return keys
