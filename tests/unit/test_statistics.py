"""The bootstrap resamples units and not rows; paired differences; McNemar and Holm on literals."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from countryreward.data.records import item_keys
from countryreward.equations.metrics import item_sums, metrics_of, row_sums, total
from countryreward.evaluation.simple_judges import constant_letter, market_blind_oracle, other_markets, shuffled
from countryreward.evaluation.statistics import (
    bootstrap_p,
    bootstrap_totals,
    difference_intervals,
    holm,
    interval,
    intervals,
    mcnemar_p,
    unit_weights,
)


def width(found: dict[str, Any]) -> float:
    return found["high"] - found["low"]


def judged(units: int, copies: int, seed: int = 0):
    """`units` products of one verdict each, repeated over `copies` items: the copies are no new evidence."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(0, 2, units), copies).astype(np.int8)
    logit = np.repeat(rng.normal(size=units), copies)
    return item_sums(label, logit, np.arange(units * copies), units * copies), np.repeat(np.arange(units), copies)


def test_more_rows_of_the_same_products_are_no_more_evidence():
    one, ten = judged(200, 1), judged(200, 10)
    by_product = [width(intervals(s, unit_weights(u, draws=1000))["accuracy"]) for s, u in (one, ten)]
    assert by_product[0] == pytest.approx(by_product[1], rel=1e-6)  # same draws, same numbers
    by_row = width(intervals(ten[0], unit_weights(np.arange(2000), draws=1000))["accuracy"])
    assert by_row < by_product[1] / 2.5  # what resampling rows would have pretended


def test_interval_has_the_width_theory_says():
    sums, units = judged(400, 1)
    found: dict[str, Any] = intervals(sums, unit_weights(units, draws=2000))["accuracy"]
    p = found["value"]
    assert width(found) == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.1)


def test_weights_are_counts_of_products():
    weights = np.concatenate(list(unit_weights(["a", "a", "b", "c"], draws=500, seed=1).chunks()))
    assert weights.shape == (500, 4)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 1:].sum(axis=1) == 3).all()  # three units drawn with replacement
    again = np.concatenate(list(unit_weights(["a", "a", "b", "c"], draws=500, seed=1).chunks()))
    assert (weights == again).all()


def test_vertex_bootstrap_multiplies_the_counts_of_both_images():
    weights = np.concatenate(list(unit_weights(["x", "x", "y"], ["y", "z", "z"], draws=3000).chunks()))
    x, y, z = 1, 1, 1
    assert weights.mean(axis=0) == pytest.approx(np.full(3, 1 - 1 / 3), abs=0.06)  # E[n_1 n_2] = 1 - 1/3
    for first, second, third in weights:  # xy, xz, yz of counts that sum to 3
        assert (first, second, third) in {
            (x * y, x * z, y * z), (2, 0, 0), (0, 2, 0), (0, 0, 2), (0, 0, 0)
        }  # fmt: skip


IMAGES, PAIRS = 60, 300


def pairs_of_images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A graph as a split by image leaves it: every image in ten pairs."""
    every = np.array([(i, j) for i in range(IMAGES) for j in range(i + 1, IMAGES)])
    chosen = np.random.default_rng(seed).permutation(len(every))[:PAIRS]
    return every[chosen, 0], every[chosen, 1]


def test_intervals_over_images_hold_the_truth_and_over_pairs_do_not():
    """Labels in two countries and answers come from the images; the judge knows nothing, so its true ordering is .5."""
    one, two = pairs_of_images()
    rng = np.random.default_rng(1)
    item = np.repeat(np.arange(PAIRS), 2)
    over = {
        "images": unit_weights(one, two, draws=300),
        "pairs": unit_weights(np.arange(PAIRS), draws=300),
    }
    held = dict.fromkeys(over, 0)
    for _ in range(150):
        worth, taste, says, leans = rng.normal(size=(4, IMAGES)) * [[1], [0.3], [1], [0.5]]
        label, logit = [], []
        for sign in (1, -1):  # two countries, of opposite taste
            label.append((worth + sign * taste)[one] > (worth + sign * taste)[two])
            logit.append((says + sign * leans)[one] - (says + sign * leans)[two])
        sums = item_sums(np.stack(label, 1).ravel().astype(np.int8), np.stack(logit, 1).ravel(), item, PAIRS)
        part = {name: sums[name] for name in ("discordant", "discordant_ordered")}
        for name, weights in over.items():
            drawn = bootstrap_totals({"": part}, weights)[""]
            ordering = [t["discordant_ordered"] / t["discordant"] for t in (total(part), drawn)]
            found: dict[str, Any] = interval(float(ordering[0]), ordering[1])
            held[name] += found["low"] <= 0.5 <= found["high"]
    assert held["images"] >= 0.93 * 150
    assert held["pairs"] <= 0.9 * 150


@pytest.mark.slow
def test_p_of_a_difference_over_images_does_not_cry_wolf():
    """Two judges that know nothing, in one market: McNemar's test, which takes pairs as independent, tells them apart."""
    one, two = pairs_of_images()
    rng, item = np.random.default_rng(2), np.arange(PAIRS)
    weights = unit_weights(one, two, draws=300)
    found = {"bootstrap": 0, "mcnemar": 0}
    for _ in range(150):
        worth, *says = rng.normal(size=(3, IMAGES))
        label = (worth[one] > worth[two]).astype(np.int8)
        logits = [each[one] - each[two] for each in says]
        sums = {str(n): row_sums(label, logit, item, PAIRS) for n, logit in enumerate(logits)}
        drawn = {name: metrics_of(table)["accuracy"] for name, table in bootstrap_totals(sums, weights).items()}
        value = {name: float(metrics_of(total(table))["accuracy"]) for name, table in sums.items()}
        right = [(logit >= 0) == (label == 1) for logit in logits]
        found["bootstrap"] += bootstrap_p(value["0"] - value["1"], drawn["0"] - drawn["1"]) < 0.05
        found["mcnemar"] += mcnemar_p(*right) < 0.05
    assert found["bootstrap"] <= 0.07 * 150
    assert found["mcnemar"] >= 0.15 * 150


def test_bootstrap_p_literals():
    draws = np.array([-1.0, 1.0] * 50)  # spread 1
    assert bootstrap_p(1.959964, draws) == pytest.approx(0.05, abs=1e-6)
    assert bootstrap_p(-1.959964, draws) == pytest.approx(0.05, abs=1e-6)
    assert bootstrap_p(0.0, draws) == 1.0
    assert bootstrap_p(0.3, np.full(9, np.nan)) == 1.0  # too few units: nothing is claimed


def test_chunks_do_not_depend_on_how_many_follow():
    a = next(unit_weights(np.arange(50), draws=10, seed=3).chunks())
    assert a.dtype == np.float32
    assert a.sum(axis=1).tolist() == [50.0] * 10


def test_paired_difference_of_a_variant_with_itself_is_exactly_zero():
    sums, units = judged(100, 2)
    draws = bootstrap_totals({"a": sums, "b": sums}, unit_weights(units, draws=200))
    value = metrics_of(total(sums))
    found = difference_intervals(value, value, metrics_of(draws["a"]), metrics_of(draws["b"]))
    assert found["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_paired_difference_is_tighter_than_two_intervals():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500).astype(np.int8)
    base = rng.normal(size=500)
    better = np.where(rng.random(500) < 0.1, np.where(label == 1, 3.0, -3.0), base)
    item = np.arange(500)
    sums = {"base": item_sums(label, base, item, 500), "better": item_sums(label, better, item, 500)}
    drawn = {name: metrics_of(t) for name, t in bootstrap_totals(sums, unit_weights(item, draws=1000)).items()}
    value = {name: metrics_of(total(t)) for name, t in sums.items()}
    found: dict[str, Any] = difference_intervals(value["better"], value["base"], drawn["better"], drawn["base"])[
        "accuracy"
    ]
    assert found["low"] > 0
    single = interval(float(value["base"]["accuracy"]), drawn["base"]["accuracy"])
    assert width(found) < width(single) / 1.5


def test_no_denominator_is_null():
    assert interval(float("nan"), np.array([0.1])) == {"value": None, "low": None, "high": None}
    found = intervals(item_sums(np.array([1]), np.array([1.0]), np.array([0]), 1), unit_weights(["p"], draws=10))
    assert found["sensitivity"] == {"value": None, "low": None, "high": None}


def test_calibration_interval_holds_its_value():
    rng = np.random.default_rng(4)
    logit = rng.normal(size=300)
    label = (rng.random(300) < 1 / (1 + np.exp(-logit))).astype(np.int8)  # calibrated: the value is about 0
    weights = unit_weights(np.arange(300), draws=500)
    found: dict[str, Any] = intervals(item_sums(label, logit, np.arange(300), 300), weights)["ece"]
    assert 0 <= found["low"] <= found["value"] <= found["high"]


def test_mcnemar_literals():
    right = np.array([True] * 8 + [False] * 2 + [True] * 5)
    other = np.array([False] * 8 + [True] * 2 + [True] * 5)
    # exact: 10 rows part 8 to 2; two-sided binomial: 2 (1 + 10 + 45) / 1024
    assert mcnemar_p(right, other) == pytest.approx(2 * 56 / 1024)
    assert mcnemar_p(right, right) == 1.0


def test_holm_literal():
    # sorted .01 .02 .04: times 3, 2, 1, never decreasing
    found = holm({"JP": 0.04, "US": 0.01, "BR": 0.02})
    assert found == pytest.approx({"JP": 0.04, "US": 0.03, "BR": 0.04})
    assert holm({}) == {}


FRAME = pd.DataFrame(
    {
        "record_id": list("abcdef"),
        "pair_id": ["p", "p", "p", "q", "q", "r"],
        "market": ["JP", "US", "BR", "JP", "US", "JP"],
        "label": [1, 1, 0, 0, 1, 0],
        "as_of": [None] * 6,
    }
)


def test_baselines_by_hand():
    train = pd.DataFrame({"label": [0, 0, 1]})
    assert constant_letter(train, FRAME).tolist() == [-1.0] * 6
    assert constant_letter(train.head(0), FRAME).tolist() == [1.0] * 6
    assert market_blind_oracle(FRAME).tolist() == [1, 1, 1, 1, 1, -1]  # 2 of 3 A; tie -> A; B


def test_other_markets_by_hand():
    told = FRAME.assign(impressions_a=None, impressions_b=None, value_a=0.0, value_b=0.0)
    # of the others: p JP 1 of 2, US 1 of 2, BR 2 of 2; q JP 1 of 1, US 0 of 1; r none
    votes = np.log([2 / 2, 2 / 2, 3 / 1, 2 / 1, 1 / 2, 1])
    assert other_markets(told.head(0), told) == pytest.approx(votes)
    counted = told.assign(impressions_a=100, impressions_b=200, value_a=0.1, value_b=0.2)
    assert other_markets(told.head(0), counted)[0] == pytest.approx(math.log(20.5 / 180.5) - math.log(80.5 / 320.5))
    revealed = told.assign(revealed=[True, False, False, False, False, False])
    assert other_markets(told.head(0), revealed) == pytest.approx(np.log([1, 2, 2, 1, 1, 1]))


def test_shuffled_stays_within_the_item_and_ignores_row_order():
    logits = np.arange(6.0)
    found = shuffled(logits, FRAME, draws=1, seed=5)[0]
    assert sorted(found[:3]) == [0, 1, 2]
    assert sorted(found[3:5]) == [3, 4]
    assert found[5] == 5
    order = np.array([5, 2, 4, 0, 3, 1])
    assert (shuffled(logits[order], FRAME.iloc[order], draws=1, seed=5)[0] == found[order]).all()


def test_shuffled_is_uniform_over_the_permutations():
    draws = [tuple(draw[:3]) for draw in shuffled(np.arange(6.0), FRAME, draws=600)]
    counts = pd.Series(draws).value_counts()
    assert len(counts) == 6
    assert counts.min() > 60  # 100 expected; the identity is one of the six


def test_a_window_is_part_of_the_item_when_markets_repeat():
    twice = pd.concat([FRAME.assign(as_of="2024-01-01"), FRAME.assign(as_of="2024-02-01")])
    assert item_keys(twice).nunique() == 6
    with pytest.raises(ValueError, match="twice in one item"):
        item_keys(pd.concat([FRAME, FRAME]))
