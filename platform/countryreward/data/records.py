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
from countryreward.data.creative_identity import with_keys
from countryreward.data.data_config import RecordsConfig
from countryreward.data.dataset import Dataset
from countryreward.data.pair_labels import compare
from countryreward.data.quarantine import check_counts
from countryreward.data.splits import as_of_day, hashed_share, time_windows, unit_split
from countryreward.equations.readings import resolve
from countryreward.errors import UserError


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

    Creatives of one product with the same picture and words are one creative and their evidence is pooled. A pair is compared
    within common strata and days (`pair_evidence.common_cells`) and labelled by the first kind of `tables.RECORD_KINDS` in which
    both of its creatives have evidence there. Counts: input = records + dropped + quarantined, where input is every pair x
    market (x time window) in which both creatives, or a listed or voted pair, were observed.
    """
    _check_outcome(dataset, config)
    creatives = with_keys(dataset.creatives)
    observations, left_out = _windowed(dataset.observations, creatives, config)
    votes, votes_left_out = _votes(dataset, creatives, config)
    candidates, repeated = _candidates(dataset, creatives, observations, votes)
    comparison = compare(candidates, observations, votes, outcome=config.label_outcome)
    pairs = pd.concat([candidates, comparison.frame], axis=1)
    reason = pd.Series("", index=pairs.index, dtype="str")

    def drop(rows: "pd.Series[bool]", why: str) -> None:
        reason[rows & (reason == "")] = why

    drop(pairs["key_1"] == pairs["key_2"], "same_creative")
    for why in ("no_common_evidence", "no_common_period", "no_common_stratum"):
        drop(comparison.reason == why, why)
    few = pairs[["impressions_1", "impressions_2"]].min(axis=1) < config.min_impressions
    drop(few & (pairs["kind"] == "counts"), "below_min_impressions")
    units = _units(dataset, pairs, config)
    pairs["split"], crosses = _split_of(pairs, units, config)
    drop(crosses, "crosses_split")

    kept = pairs[reason == ""].reset_index(drop=True)
    frame = _label(_orient(kept, config), config)
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
        **(
            {"votes": {**votes_left_out, "pairs_labelled_otherwise": comparison.voted}}
            if dataset.votes is not None
            else {}
        ),
        "splits": {str(name): int(count) for name, count in frame["split"].value_counts().items()},
        "spread": comparison.spread,
    }
    check_counts(counts["pairs"], "records")
    check_counts(counts["observations"], "observations in records")
    return Records(frame=frame, units=units, counts=counts)


def _check_outcome(dataset: Dataset, config: RecordsConfig) -> None:
    """Raises `UserError` where no observation tells the outcome that labels are asked of."""
    outcome = config.label_outcome
    if outcome != "clicks" and not dataset.observations[outcome].notna().any():
        raise UserError(
            f"records.label_outcome: {outcome!r}, but no observation has {outcome}; import the column "
            "(source.observations.columns), or label by clicks"
        )


def _windowed(
    observations: pd.DataFrame, creatives: pd.DataFrame, config: RecordsConfig
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Observations with product and window, under the id that stands for all ads of their creative."""
    frame = observations.merge(creatives[["creative_id", "product_id", "canonical"]], on="creative_id")
    frame = frame.assign(creative_id=frame["canonical"]).drop(columns="canonical")
    return _in_windows(frame, config)


def _in_windows(frame: pd.DataFrame, config: RecordsConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Dated rows with the window of each; those in no window, or in two, are left out and counted."""
    frame = frame.assign(window=time_windows(frame, config.split) if config.split.by == "time" else "all")
    outside = frame["window"].isin(["undated", "straddles_window"])
    by_reason = {str(name): int(count) for name, count in frame.loc[outside, "window"].value_counts().items()}
    counts = {"input": len(frame), "kept": int((~outside).sum()), "dropped": int(outside.sum()), "quarantined": 0}
    return frame[~outside], {**counts, "dropped_by_reason": by_reason}


def _votes(dataset: Dataset, creatives: pd.DataFrame, config: RecordsConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Votes summed over classes and periods: product_id, creative_1 < creative_2, market, window, votes_1, votes_2; ties half
    each."""
    columns = ["product_id", "creative_1", "creative_2", "market", "window", "votes_1", "votes_2"]
    if dataset.votes is None or dataset.votes.empty:
        none = pd.DataFrame({name: pd.Series(dtype="float64" if "votes" in name else "str") for name in columns})
        return none, {"input": 0, "kept": 0, "dropped": 0, "quarantined": 0}
    votes = dataset.votes.copy()
    canonical, product = (creatives.set_index("creative_id")[name] for name in ("canonical", "product_id"))
    for side in ("1", "2"):
        votes[f"creative_{side}"] = votes[f"creative_{side}"].map(canonical)
        votes[f"votes_{side}"] = votes[f"votes_{side}"].astype(float) + votes["votes_tie"].fillna(0).astype(float) / 2
    votes["product_id"] = votes["creative_1"].map(product)
    votes, counts = _in_windows(votes, config)
    turned = votes["creative_1"] > votes["creative_2"]
    for name in ("creative", "votes"):
        one, two = votes[f"{name}_1"], votes[f"{name}_2"]
        votes[f"{name}_1"], votes[f"{name}_2"] = one.where(~turned, two), two.where(~turned, one)
    return votes.groupby(columns[:5], as_index=False)[["votes_1", "votes_2"]].sum(), counts


def _candidates(
    dataset: Dataset, creatives: pd.DataFrame, observations: pd.DataFrame, votes: pd.DataFrame
) -> tuple[pd.DataFrame, int]:
    """Pairs of creatives per product, market and window, and how many listed ones came twice.

    Columns product_id, market, window, and creative, key (picture and words), hash (picture) and copy (words) of both sides.
    """
    keys = ["product_id", "market", "window"]
    if dataset.listed_pairs is None:
        observed = observations[[*keys, "creative_id"]].drop_duplicates()
        both = observed.merge(observed, on=keys, suffixes=("_1", "_2"))
        both = both[both["creative_id_1"] < both["creative_id_2"]]
        both = both.rename(columns={"creative_id_1": "creative_1", "creative_id_2": "creative_2"})
        voted = votes[[*keys, "creative_1", "creative_2"]]
        pairs = pd.concat([both, voted]).drop_duplicates(ignore_index=True) if len(voted) else both
        repeated = 0
    else:
        canonical = creatives.set_index("creative_id")["canonical"]
        listed = dataset.listed_pairs.copy()
        for side in ("1", "2"):
            listed[f"creative_{side}"] = listed[f"creative_{side}"].map(canonical)
        windows = pd.DataFrame({"window": sorted(observations["window"].unique())})
        listed = listed.merge(windows, how="cross")
        sides = np.sort(listed[["creative_1", "creative_2"]].to_numpy(dtype=str), axis=1)
        again = listed.assign(low=sides[:, 0], high=sides[:, 1]).duplicated([*keys, "low", "high"])
        pairs, repeated = listed[~again], int(again.sum())
    described = creatives.set_index("creative_id")
    for side in ("1", "2"):
        for name, column in (("key", "key"), ("hash", "content_hash"), ("copy", "copy_hash")):
            pairs = pairs.assign(**{f"{name}_{side}": pairs[f"creative_{side}"].map(described[column])})
    return pairs.reset_index(drop=True), repeated


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
    """Decide which creative is A, the same in every market. `hashed`: by a seeded hash of the product and the sorted keys.

    `as_given`: the first of the pair's first listing; a file that lists (A, B) in one market and (B, A) in another still
    has one orientation.
    """
    pairs = pairs.assign(low=pairs[["key_1", "key_2"]].min(axis=1), high=pairs[["key_1", "key_2"]].max(axis=1))
    items = pairs[["product_id", "low", "high", "key_1"]].drop_duplicates(["product_id", "low", "high"])
    names = list(zip(items["product_id"], items["low"], items["high"], strict=True))
    if resolve(config.reading, "orientation", config.orientation) == "hashed":
        low_is_a = [hashed_share(config.orientation_seed, "orientation", *name) < 0.5 for name in names]
        first = items["low"].where(np.array(low_is_a, dtype=bool), items["high"])
    else:
        first = items["key_1"]
    items = items.assign(pair_id=[_digest(*name) for name in names], first=first).drop(columns="key_1")
    pairs = pairs.merge(items, on=["product_id", "low", "high"], how="left")
    swap = pairs["key_1"] != pairs["first"]
    for name in ("creative", "hash", "copy", "value", "compared", "impressions"):
        left, right = pairs[f"{name}_1"], pairs[f"{name}_2"]
        pairs[f"{name}_a"], pairs[f"{name}_b"] = left.where(~swap, right), right.where(~swap, left)
    pairs["label"] = pairs["label"].where(~swap, 1 - pairs["label"])
    pairs["soft"] = pairs["soft"].where(~swap, 1 - pairs["soft"])
    return pairs


def _label(pairs: pd.DataFrame, config: RecordsConfig) -> pd.DataFrame:
    """Columns of RECORDS: ids, what training learns from, and the day a prior may look back from."""
    soft, label = pairs["soft"], pairs["label"]
    hard = resolve(config.reading, "label.kind", config.label_kind) == "hard"
    days = {window: as_of_day(str(window), config.split) for window in pairs["window"].unique()}
    revealed = [
        hashed_share(config.orientation_seed, "revealed", product, market) < config.reveal_markets
        for product, market in zip(pairs["product_id"], pairs["market"], strict=True)
    ]
    same = (
        "pair_id",
        "product_id",
        "market",
        "creative_a",
        "creative_b",
        "hash_a",
        "hash_b",
        "copy_a",
        "copy_b",
        "kind",
    )
    frame = pd.DataFrame(
        {
            "record_id": [
                _digest(*row) for row in zip(pairs["pair_id"], pairs["market"], pairs["window"], strict=True)
            ],
            **{name: pairs[name] for name in same},
            "outcome": pd.Series(config.label_outcome, index=pairs.index, dtype="str").where(pairs["kind"] == "counts"),
            "delivery": pairs["delivery"],
            **{name: pairs[name] for name in ("value_a", "value_b", "compared_a", "compared_b", "strata")},
            "impressions_a": pairs["impressions_a"].astype("Int64"),
            "impressions_b": pairs["impressions_b"].astype("Int64"),
            "label": label,
            "soft_label": soft.astype("Float64").mask(soft.isna()),
            "target": label if hard else soft.where(soft.notna(), label),
            "equal_exposure_assumed": pairs["kind"] == "orders",
            "revealed": np.array(revealed, dtype=bool),
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
