"""Distances of designs, worked out by hand, and the laws they promise."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countryreward.equations.writer_metrics import (
    across_markets,
    commonest,
    distance,
    market_effect,
    within_market,
    word_sets,
)

STUDIO = word_sets(("Bare.", "A white studio", "Neutral grey", "Soft light"))
BEACH = word_sets(("Bare.", "A sunny beach", "Neutral blue", "Hard sun"))
PARTY = word_sets(("Balloons", "Crowded street", "Neon pink", "Lanterns"))

texts = st.lists(st.sampled_from(["red", "green", "blue", "soft"]), max_size=3).map(" ".join)
designs = st.tuples(texts, texts, texts, texts).map(word_sets)


def test_words_are_lower_case_without_marks():
    assert word_sets(("Red, red BALLOONS!", "")) == (frozenset({"red", "balloons"}), frozenset())


def test_distance_by_hand():
    # foreground: same, 0; background: {a} of {a, white, studio, sunny, beach}, 4/5; tone: 1 of 3, 2/3; lighting: none, 1
    assert distance(STUDIO, BEACH) == pytest.approx((0 + 4 / 5 + 2 / 3 + 1) / 4)
    assert distance(STUDIO, STUDIO) == 0.0
    assert distance(STUDIO, PARTY) == 1.0


def test_within_and_across_by_hand():
    d = distance(STUDIO, BEACH)
    draws = [[STUDIO, BEACH], [STUDIO, STUDIO], [PARTY]]  # the third market has one draw: nothing within it
    assert within_market(draws) == pytest.approx((d + 0) / 2)
    first_second = (0 + 0 + d + d) / 4
    first_third, second_third = 1.0, 1.0  # nothing of either is in PARTY
    assert across_markets(draws) == pytest.approx((first_second + first_third + second_third) / 3)
    assert market_effect(0.7, 0.5) == pytest.approx(0.2)


def test_draws_of_one_seed_are_no_pair():
    draws, seeds = [[STUDIO, BEACH], [STUDIO, BEACH]], [[1, 2], [1, 2]]
    assert across_markets(draws, seeds) == pytest.approx(distance(STUDIO, BEACH))
    assert across_markets(draws) == pytest.approx(distance(STUDIO, BEACH) / 2)
    assert math.isnan(across_markets([[STUDIO], [STUDIO]], [[1], [1]]))


def test_nothing_to_compare_is_nan():
    assert math.isnan(within_market([[STUDIO], [BEACH]]))
    assert math.isnan(across_markets([[STUDIO, BEACH]]))
    assert math.isnan(commonest([])[1])


def test_commonest_by_hand():
    assert commonest([STUDIO, BEACH, STUDIO, PARTY]) == (3, 0.5)
    assert commonest([STUDIO, word_sets(("bare", "studio white a", "GREY neutral", "light soft"))]) == (1, 1.0)


@settings(deadline=None, derandomize=True)
@given(designs, designs, designs)
def test_distance_is_a_metric_on_sets_of_words(a, b, c):
    assert 0 <= distance(a, b) <= 1
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


@pytest.mark.slow
@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(designs, min_size=1, max_size=3), min_size=2, max_size=3))
def test_the_order_of_markets_and_draws_changes_nothing(draws):
    turned = [list(reversed(each)) for each in reversed(draws)]
    assert across_markets(turned) == pytest.approx(across_markets(draws))
    assert within_market(turned) == pytest.approx(within_market(draws), nan_ok=True)


@settings(deadline=None, derandomize=True)
@given(st.lists(designs, min_size=2, max_size=4))
def test_a_writer_that_ignores_the_market_has_no_effect_in_expectation(pool):
    """Exactly: over all equally likely pairs of draws, across and within are the same mean."""
    pairs = list(itertools.product(pool, repeat=2))
    within = sum(within_market([list(pair)]) for pair in pairs) / len(pairs)
    across = sum(across_markets([[a], [b]]) for a, b in pairs) / len(pairs)
    assert market_effect(across, within) == pytest.approx(0)


@settings(deadline=None, derandomize=True)
@given(st.lists(designs, min_size=1, max_size=3), st.lists(designs, min_size=1, max_size=3))
def test_the_effect_is_not_negative_in_expectation(one, other):
    """Two markets, each drawing from a list of its own: the energy distance of the two lists."""

    def mean(first, second):
        return sum(distance(a, b) for a in first for b in second) / (len(first) * len(second))

    within = (mean(one, one) + mean(other, other)) / 2
    assert market_effect(mean(one, other), within) >= -1e-12


def test_a_sampled_blind_writer_is_near_zero():
    rng = random.Random(0)
    pool = [word_sets((a, b, c, d)) for a in "xy" for b in "xy" for c in "xy" for d in "xy"]
    effects = []
    for _ in range(400):
        draws = [[rng.choice(pool), rng.choice(pool)] for _ in range(4)]
        effects.append(market_effect(across_markets(draws), within_market(draws)))
    mean = sum(effects) / len(effects)
    assert abs(mean) < 0.02
