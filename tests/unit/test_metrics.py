"""Eq. 15 and the other metrics on literals worked out by hand, and the closed forms against a plain loop."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countryreward.equations.calibration import (
    debiased_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from countryreward.equations.country_pairs import padded
from countryreward.equations.metrics import item_sums, metrics, metrics_of, swap_consistency, total

# Two items in three markets. Item 0: labels A B A, answers A A A -> right, wrong, right.
#                             Item 1: labels B B A, answers B A A -> right, wrong, right.
LABEL = np.array([1, 0, 1, 0, 0, 1], dtype=np.int8)
LOGIT = np.array([2.0, 0.5, 0.5, -1.0, 0.0, 1.0])
ITEM = np.array([0, 0, 0, 1, 1, 1])


def test_worked_example():
    found = metrics(LABEL, LOGIT, ITEM)
    # right: 4 of 6. A: 3 of 3, B: 1 of 3.
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((3 / 3 + 1 / 3) / 2)
    # country pairs: 3 per item; both right: (0, 2) in each item -> 2 of 6.
    assert found["sensitivity"] == pytest.approx(2 / 6)
    # item 0 discordant (0,1) (1,2): 0 both right; item 1 discordant (0,2) right, (1,2) not -> 1 of 4.
    assert found["discordant_sensitivity"] == pytest.approx(1 / 4)
    # concordant: item 0 (0,2) right; item 1 (0,1) not -> 1 of 2.
    assert found["concordant_sensitivity"] == pytest.approx(1 / 2)
    # ordering: 2.0 > 0.5 yes, 0.5 = 0.5 half; 1 > -1 yes, 1 > 0 yes -> 3.5 of 4.
    assert found["discordant_ordering"] == pytest.approx(3.5 / 4)
    assert found["discordant_share"] == pytest.approx(4 / 6)


def test_a_logit_of_zero_answers_a():  # Eq. 9: P >= .5 is A
    assert metrics(np.array([1, 0]), np.zeros(2), np.array([0, 1]))["accuracy"] == 0.5
    assert metrics(np.array([1]), np.zeros(1), np.array([0]))["accuracy"] == 1.0


def test_probability_scores_by_hand():
    # P = sigmoid(log 3) = .75 for A right, and for B wrong: (.25^2 + .75^2) / 2; -(log .75 + log .25) / 2.
    found = metrics(np.array([1, 0]), np.full(2, np.log(3)), np.array([0, 1]))
    assert found["brier"] == pytest.approx((0.0625 + 0.5625) / 2)
    assert found["log_loss"] == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2)


def test_calibration_errors_by_hand():
    # bin 1: 4 rows said .25, 2 were A (gap .25); bin 2: 6 rows said .75, 6 were A (gap .25, no noise to correct).
    rows, p, y = np.array([4.0, 6.0]), np.array([1.0, 4.5]), np.array([2.0, 6.0])
    assert expected_calibration_error(rows, p, y) == pytest.approx(0.25)
    # bin 1: sd = sqrt(.25 / 4) = .25 = gap; E|N(.25, .25^2)| = .25 (sqrt(2/pi) exp(-.5) + 1 - 2 Phi(-1)) = .291658
    assert debiased_calibration_error(rows, p, y) == pytest.approx(0.4 * (0.5 - 0.291658) + 0.6 * 0.25, abs=1e-6)
    curve = reliability_curve(rows, p, y)
    assert [(point["p"], point["observed"], point["n"]) for point in curve] == [(0.25, 0.5, 4), (0.75, 1.0, 6)]


def test_debiasing_removes_what_noise_adds():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1, 600)
    plain, debiased = [], []
    for _ in range(60):  # perfectly calibrated labels
        found = metrics((rng.random(600) < 1 / (1 + np.exp(-logit))).astype(np.int8), logit, np.arange(600))
        plain.append(found["ece_plain"])
        debiased.append(found["ece"])
    assert np.mean(plain) > 0.035
    assert np.mean(debiased) / np.mean(plain) == pytest.approx(0.59, abs=0.06)  # (2 - sqrt 2) of what is left


def test_blind_judge_is_exactly_zero_and_a_half():
    rng = np.random.default_rng(1)
    item = np.repeat(np.arange(200), 7)
    label = rng.integers(0, 2, item.size)
    found = metrics(label, rng.normal(size=200)[item], item)
    assert found["discordant_sensitivity"] == 0.0
    assert found["discordant_ordering"] == 0.5


def test_coin_gets_a_quarter():
    rng = np.random.default_rng(2)
    item = np.repeat(np.arange(4000), 6)
    found = metrics(rng.integers(0, 2, item.size), rng.normal(size=item.size), item)
    assert found["discordant_sensitivity"] == pytest.approx(0.25, abs=0.01)
    assert found["discordant_ordering"] == pytest.approx(0.5, abs=0.01)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.01)


def test_nothing_to_divide_by_is_nan():
    found = metrics(np.array([1, 1]), np.array([1.0, 1.0]), np.array([0, 1]))  # one market each, one letter only
    for name in ("sensitivity", "discordant_sensitivity", "discordant_ordering", "balanced_accuracy"):
        assert np.isnan(found[name])


def test_padded_keeps_every_row():
    table, valid = padded(np.array([5.0, 6.0, 7.0, 8.0]), np.array([2, 0, 2, 2]), 3)
    assert table.tolist() == [[6, 0, 0], [0, 0, 0], [5, 7, 8]]
    assert valid.sum(axis=1).tolist() == [1, 0, 3]


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-2, 2)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_closed_forms_equal_a_plain_loop(data):
    item, label, logit = (np.array(column) for column in zip(*data, strict=True))
    counts = dict.fromkeys(("pairs", "both", "disc", "disc_both", "ordered"), 0.0)
    for i, j in combinations(range(len(data)), 2):
        if item[i] != item[j]:
            continue
        right = (logit[i] >= 0) == (label[i] == 1) and (logit[j] >= 0) == (label[j] == 1)
        counts["pairs"] += 1
        counts["both"] += right
        if label[i] != label[j]:
            a, b = (i, j) if label[i] else (j, i)
            counts["disc"] += 1
            counts["disc_both"] += right
            counts["ordered"] += 1.0 if logit[a] > logit[b] else 0.5 if logit[a] == logit[b] else 0.0
    sums = total(item_sums(label.astype(np.int8), logit.astype(float), item, 5))
    names = ("pairs", "pairs_right", "discordant", "discordant_right", "discordant_ordered")
    assert [float(sums[name]) for name in names] == list(counts.values())
    assert sums["concordant"] == counts["pairs"] - counts["disc"]


def test_sums_add_up_over_items():
    sums = item_sums(LABEL, LOGIT, ITEM, 2)
    first = metrics(LABEL[:3], LOGIT[:3], ITEM[:3])
    weighted = metrics_of({name: values[0] for name, values in sums.items()})
    assert {k: float(v) for k, v in weighted.items()} == pytest.approx(first, nan_ok=True)


def test_swap_consistency():
    # flips, does not flip, no evidence both times, evidence one way only
    assert swap_consistency(np.array([1.0, 1.0, 0.0, 0.0]), np.array([-3.0, 2.0, 0.0, 1.0])) == 0.5


def test_a_tie_is_half_right_and_in_no_country_pair():
    label, item = np.array([1.0, 0.5, 0.0]), np.zeros(3, dtype=np.int64)
    values = metrics(label, np.array([1.0, 2.0, -1.0]), item)
    assert values["accuracy"] == pytest.approx(2.5 / 3)
    assert values["sensitivity"] == values["discordant_sensitivity"] == values["discordant_ordering"] == 1
    assert values["discordant_share"] == 1
    p = 1 / (1 + np.exp(-np.array([1.0, 2.0, -1.0])))
    assert values["brier"] == pytest.approx(((1 - p[0]) ** 2 + ((1 - p[1]) ** 2 + p[1] ** 2) / 2 + p[2] ** 2) / 3)
    assert values["log_loss"] == pytest.approx(-(np.log(p[0]) + np.log(p[1] * (1 - p[1])) / 2 + np.log(1 - p[2])) / 3)
