"""Laws that hold for any input, tried on random ones."""

import datetime as dt
import tempfile
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from countryreward.data.artifacts import open_artifact, publish
from countryreward.data.data_config import RecordsConfig, SplitConfig
from countryreward.data.dataset import Dataset
from countryreward.data.records import build_records
from countryreward.data.splits import hashed_share, unit_split
from countryreward.equations.calibration import reliability_curve
from tests.unit.conftest import observations

pytestmark = pytest.mark.slow  # left to `make test`: `make check` has 90 s

# The same examples in every run; no explanations, which would take minutes on a failure.
settings.register_profile("ours", deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink))
settings.load_profile("ours")

PRODUCTS, HASHES, MARKETS = ("p1", "p2", "p3"), ("h1", "h2", "h3", "h4"), ("BR", "KR")
DAY = dt.date(2026, 1, 1)


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    """Kind and values of one observation, with many ties and some low counts."""
    kind = draw(st.sampled_from(["counts", "counts", "rate", "orders", "score"]))
    if kind == "counts":
        impressions = draw(st.sampled_from([1, 99, 100, 101, 5_000, 10**9]))
        return {"kind": kind, "impressions": impressions, "clicks": draw(st.integers(0, min(impressions, 200)))}
    if kind == "rate":
        return {"kind": kind, "rate": draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))}
    if kind == "orders":
        return {"kind": kind, "orders": float(draw(st.integers(0, 3)))}
    rated = {"score_n": draw(st.integers(1, 50)), "score_sd": 1.0} if draw(st.booleans()) else {}
    return {"kind": kind, "score": draw(st.sampled_from([-2.0, 0.0, 3.5])), **rated}


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Up to 3 products with up to 4 creatives, images that recur in and across products, periods with and without dates."""
    creatives = [
        (f"{product}-{number}", product, draw(st.sampled_from(HASHES)))
        for product in PRODUCTS
        for number in range(draw(st.integers(1, 4)))
    ]
    rows = []
    for name, _, _ in creatives:
        for market in MARKETS:
            for month in range(draw(st.integers(0, 2))):
                start = DAY + dt.timedelta(days=30 * month + draw(st.integers(0, 5)))
                end = start + dt.timedelta(days=draw(st.integers(0, 20)))
                dated = {"period_start": start, "period_end": end} if draw(st.booleans()) else {}
                rows.append({"creative_id": name, "market": market, **dated, **draw(values())})
    if not rows:
        rows = [{"creative_id": creatives[0][0], "market": "KR", **draw(values())}]
    listed = None
    if draw(st.booleans()):
        both = st.tuples(st.sampled_from(creatives), st.sampled_from(creatives), st.sampled_from(MARKETS))
        asked = [(a, b, market) for a, b, market in draw(st.lists(both, max_size=8)) if a[1] == b[1] and a[0] != b[0]]
        listed = pd.DataFrame(
            [(a[1], a[0], b[0], market) for a, b, market in asked],
            columns=["product_id", "creative_1", "creative_2", "market"],
            dtype="str",
        )
    return Dataset(
        products=pd.DataFrame({"product_id": list(PRODUCTS)}),
        creatives=pd.DataFrame(creatives, columns=["creative_id", "product_id", "content_hash"]),
        observations=observations(rows),
        listed_pairs=listed,
    )


SPLITS = st.sampled_from(
    [
        SplitConfig(by="product", validation=0.3, test=0.3),
        SplitConfig(by="image", validation=0.0, test=0.5),
        SplitConfig(by="time", train_until="2026-01-25", validation_until="2026-02-05"),
    ]
)


def candidates(dataset: Dataset) -> int:
    """How many pairs x markets an undated split looks at, counted by hand: images of a product seen in a market."""
    of = {name: (product, image) for name, product, image in dataset.creatives.itertuples(index=False)}
    rows = dataset.observations[["creative_id", "market"]].itertuples(index=False)
    seen = {(of[name][0], market, of[name][1]) for name, market in rows}
    images = Counter((product, market) for product, market, _ in seen)
    return sum(len(list(combinations(range(count), 2))) for count in images.values())


@settings(max_examples=35)
@given(
    dataset=datasets(), split=SPLITS, least=st.sampled_from([0, 100]), reading=st.sampled_from(["paper", "repaired"])
)
def test_records_always_add_up(dataset: Dataset, split: SplitConfig, least: int, reading: Any):
    built = build_records(dataset, RecordsConfig(split=split, min_impressions=least, reading=reading))
    pairs, frame = built.counts["pairs"], built.frame
    assert pairs["input"] == pairs["records"] + pairs["dropped"] + pairs["quarantined"]
    assert pairs["records"] == len(frame) == sum(built.counts["splits"].values())
    assert pairs["dropped"] == sum(pairs["dropped_by_reason"].values())
    looked_at = built.counts["observations"]
    assert looked_at["input"] == len(dataset.observations) == looked_at["kept"] + looked_at["dropped"]
    if split.by != "time":
        expected = candidates(dataset) if dataset.listed_pairs is None else len(dataset.listed_pairs)
        assert pairs["input"] == expected

    assert frame["record_id"].is_unique
    assert (frame["value_a"] != frame["value_b"]).all()
    assert (frame["label"] == (frame["value_a"] > frame["value_b"])).all()
    assert (frame["hash_a"] != frame["hash_b"]).all()
    assert (frame.groupby("pair_id")[["product_id"]].nunique() == 1).all(axis=None)
    assert (frame.groupby("pair_id")[["hash_a", "hash_b"]].nunique() == 1).all(axis=None)  # as in every other market
    counted = frame["kind"] == "counts"
    assert (frame["soft_label"].notna() == counted).all()
    assert frame["soft_label"].dropna().between(0, 1).all()
    soft = counted & (reading == "repaired")
    assert (frame["target"] == frame["soft_label"].where(soft, frame["label"]).astype(float)).all()
    assert (frame.loc[counted, ["impressions_a", "impressions_b"]] >= least).all(axis=None)


@settings(max_examples=15)
@given(dataset=datasets(), split=SPLITS, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_record(dataset: Dataset, split: SplitConfig, shuffle: Any):
    def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
        order = list(range(len(frame)))
        shuffle.shuffle(order)
        return frame.iloc[order].reset_index(drop=True)

    turned = Dataset(
        products=shuffled(dataset.products),
        creatives=shuffled(dataset.creatives),
        observations=shuffled(dataset.observations),
        listed_pairs=None if dataset.listed_pairs is None else shuffled(dataset.listed_pairs),
    )
    config = RecordsConfig(split=split)
    first, second = build_records(dataset, config), build_records(turned, config)
    assert first.counts["pairs"] == second.counts["pairs"]
    pd.testing.assert_frame_equal(first.frame, second.frame, rtol=1e-9)
    pd.testing.assert_frame_equal(first.units, second.units)


def test_splits_and_orientation_are_these_on_every_machine():
    """Literal: another hash would move products between train and test of every user."""
    config = SplitConfig(validation=0.1, test=0.2)
    assert [n for n in range(12) if unit_split(f"p{n:05d}", config) != "train"] == [4, 5, 8]
    assert {unit_split(f"p{n:05d}", config) for n in (4, 5, 8)} == {"test"}
    assert hashed_share(0, "split", "p00000") == pytest.approx(0.731862561980396, abs=1e-15)


@settings(max_examples=200)
@given(unit=st.text(), seed=st.integers(0, 2**31), shares=st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)))
def test_a_unit_keeps_its_split_and_more_test_never_takes_from_test(unit: str, seed: int, shares: tuple[float, float]):
    validation, test = shares
    config = SplitConfig(validation=validation, test=test, seed=seed)
    split = unit_split(unit, config)
    assert split == unit_split(unit, SplitConfig(validation=validation, test=test, seed=seed))
    share = hashed_share(seed, "split", unit)
    assert 0 <= share < 1
    assert (split == "test") == (share < test)
    if split == "test":
        assert unit_split(unit, SplitConfig(validation=validation, test=test + 0.05, seed=seed)) == "test"
    if split == "train":
        assert unit_split(unit, SplitConfig(validation=validation / 2, test=test / 2, seed=seed)) == "train"


NAMES = st.from_regex(r"[a-z]{1,6}(/[a-z]{1,4})?\.(bin|json)", fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=5)


def version_of(folder: Path, name: str, files: list[tuple[str, bytes]]) -> str:
    with publish(folder / name, kind="test") as draft:
        for path, data in files:
            (draft.path / path).parent.mkdir(exist_ok=True)
            (draft.path / path).write_bytes(data)
    return open_artifact(folder / name, kind="test").manifest.version


@settings(max_examples=15)
@given(files=FILES, shuffle=st.randoms(use_true_random=False))
def test_an_artifacts_version_is_its_content_in_any_order(files: dict[str, bytes], shuffle: Any):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        one = list(files.items())
        other = list(files.items())
        shuffle.shuffle(other)
        version = version_of(folder, "one", one)
        assert version_of(folder, "other", other) == version
        name, data = other[0]
        assert version_of(folder, "changed", [(name, data + b"!"), *other[1:]]) != version
        assert version_of(folder, "renamed", [(f"z{name}z.other", data), *other[1:]]) != version
        assert version_of(folder, "more", [*other, ("extra.file", b"")]) != version


@settings(max_examples=200)
@given(rows=st.lists(st.integers(0, 500), min_size=1, max_size=15), share=st.floats(0, 1))
def test_wilson_bounds_hold_the_observed_share(rows: list[int], share: float):
    n = np.array(rows, dtype=float)
    for wins in (np.zeros_like(n), n, np.floor(share * n)):
        for point in reliability_curve(n, n / 2, wins):
            assert 0 <= point["low"] <= point["observed"] <= point["high"] <= 1
