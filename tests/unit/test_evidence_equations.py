"""Soft labels, empirical Bayes and lifts: literals and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from countryreward.equations import evidence as eq


def pairs_of(clicks: np.ndarray, shown: np.ndarray) -> eq.Contrasts:
    """Each row's first creative against its second. [R, 2] each."""
    y, n = clicks.astype(float), shown.astype(float)
    return eq.contrast(y[:, 0], n[:, 0], y[:, 1], n[:, 1], np.arange(len(clicks)), len(clicks))


def test_contrast_of_one_cell_by_hand():
    made = pairs_of(np.array([[30, 20]]), np.array([[1000, 1000]]))
    assert made.rate_a == pytest.approx([0.03])
    assert made.rate_b == pytest.approx([0.02])
    assert made.difference == pytest.approx([math.log(1.5)])
    assert made.variance == pytest.approx([1 / 30 - 1 / 1000 + 1 / 20 - 1 / 1000])
    assert made.cells_share == pytest.approx([1])
    assert len(made.heterogeneity[0]) == 0


def test_contrast_of_two_cells_is_that_of_mantel_and_haenszel():
    shown_a, shown_b = np.array([9000.0, 1000.0]), np.array([1000.0, 9000.0])
    made = eq.contrast(np.array([99.0, 44.0]), shown_a, np.array([10.0, 360.0]), shown_b, np.array([0, 0]), 1)
    # w = 900 in both cells: rates .011 and .044 against .010 and .040
    assert made.rate_a == pytest.approx([0.0275])
    assert made.rate_b == pytest.approx([0.025])
    assert made.difference == pytest.approx([math.log(0.0275 / 0.025)])
    # R = (99 x 1000 + 44 x 9000) / 10000, S = (10 x 9000 + 360 x 1000) / 10000
    r, s = 49.5, 45.0
    assert made.variance == pytest.approx([(0.09 * 109 - 0.099 + 0.09 * 404 - 1.584) / (r * s)])
    p = np.array([109, 404]) / 10_000
    information = 900 * p * (1 - p)
    assert made.cells_share == pytest.approx([(information**2).sum() / information.sum() ** 2])
    assert made.heterogeneity[1] == pytest.approx(np.array([0.001, 0.004]) / (p * (1 - p)))


def test_a_winner_that_was_shown_far_more_often_wins_by_no_less():
    # rates of .020 and .010, a log ratio of .69; one step from equality would say .51 and -1.00
    made = pairs_of(np.array([[2000, 10], [1000, 20]]), np.array([[100_000, 1000], [100_000, 1000]]))
    assert made.difference == pytest.approx([math.log(2), -math.log(2)])


def test_one_side_without_a_click_is_one_step_away():
    made = pairs_of(np.array([[5, 0]]), np.array([[1000, 1000]]))
    assert made.difference == pytest.approx([2.5 / (500 * 0.0025 * 0.9975)])
    assert made.variance == pytest.approx([1 / (500 * 0.0025 * 0.9975)])


def test_without_a_click_nothing_is_known():
    made = pairs_of(np.array([[0, 0]]), np.array([[100, 5000]]))
    assert (made.difference[0], made.variance[0]) == (0, np.inf)
    assert better(made, 0.3).tolist() == [0.5]


def better(made: eq.Contrasts, between: float, bias: float = 0.0) -> np.ndarray:
    each = np.ones(len(made.rate_a))
    return eq.probability_better(made, made.variance, between * each, bias * each)


def fitted(made: eq.Contrasts, expected: float = 0.2) -> float:
    pairs = len(made.rate_a)
    return eq.fit_between(made, made.variance, np.ones(pairs), np.ones(pairs, bool), expected=expected, worth=4.0)


def test_soft_label_by_hand():
    made = pairs_of(np.array([[300, 200], [200, 300], [300, 200]]), np.full((3, 2), 100_000))
    each = np.full(3, 1.0)
    # prior variance 2 x .3^2 = .18 and evidence with variance .18: half of z survives as sqrt(1/2)
    soft = eq.probability_better(made, 0.18 * each, 0.3 * each, 0 * each)
    z = math.log(1.5) / math.sqrt(0.18) * math.sqrt(0.5)
    assert soft == pytest.approx([stats.norm.cdf(z), stats.norm.cdf(-z), stats.norm.cdf(z)])
    assert better(made, 0.0).tolist() == [0.5, 0.5, 0.5]
    # what delivery adds is noise: .18 of 2 x .3^2
    assert eq.probability_better(made, 1e-9 * each, 0.3 * each, 0.3 * each) == pytest.approx(soft)


def test_few_successes_are_taken_as_they_are():
    made = pairs_of(np.array([[3, 1], [0, 2], [0, 0]]), np.array([[100, 100], [10, 1000], [10, 10]]))
    spread = 0.4 * math.sqrt(2)

    def posterior(a: int, b: int, exposure: float) -> float:
        def like(t: float) -> float:
            return stats.norm.pdf(t / spread) * special.expit(t + exposure) ** a * special.expit(-t - exposure) ** b

        return integrate.quad(like, 0, 8)[0] / integrate.quad(like, -8, 8)[0]

    assert better(made, 0.4) == pytest.approx([posterior(3, 1, 0), posterior(0, 2, math.log(0.01)), 0.5], abs=2e-3)


@pytest.mark.parametrize("clicks", [2, 5, 15])
def test_few_clicks_do_not_hide_the_spread(clicks: int):
    rng = np.random.default_rng(8)
    rates = 0.01 * np.exp(rng.normal(0, 0.3, (4000, 2)))
    shown = np.full((4000, 2), clicks * 100)
    made = pairs_of(rng.binomial(shown, rates), shown)
    assert fitted(made) == pytest.approx(0.3, abs=0.06)


def test_one_precise_tie_does_not_hide_a_clear_winner():
    made = pairs_of(
        np.array([[10_000, 10_010], [100, 200], [1, 2], [1, 2], [1, 2]]),
        np.array([[1_000_000] * 2, [10_000] * 2, [100] * 2, [100] * 2, [100] * 2]),
    )
    assert better(made, fitted(made))[1] < 0.001


@given(st.integers(0, 500), st.integers(500, 10**5), st.integers(0, 500), st.integers(500, 10**5), st.floats(0, 2))
def test_soft_labels_of_both_orders_sum_to_one(a: int, m: int, b: int, n: int, between: float):
    made = pairs_of(np.array([[a, b], [b, a]]), np.array([[m, n], [n, m]]))
    soft = better(made, between)
    assert soft.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("between", [0.0, 0.155, 0.4])
def test_the_spread_within_products_is_found_whatever_the_products_spread(between: float):
    rng = np.random.default_rng(3)
    products = rng.normal(math.log(0.02), 0.5, (6000, 1))
    rates = np.exp(products + rng.normal(0, between, (6000, 2)))
    shown = rng.integers(2000, 20_000, (6000, 2))
    made = pairs_of(rng.binomial(shown, rates), shown)
    assert fitted(made) == pytest.approx(between, abs=0.02 if between == 0 else 0.05 * between)


def test_nearly_nothing_known_gives_nearly_the_default():
    made = pairs_of(np.array([[10, 12]]), np.array([[1000, 1000]]))
    assert 0.1 < fitted(made) < 0.25
    assert fitted(pairs_of(np.zeros((0, 2)), np.zeros((0, 2)))) == pytest.approx(0.2, abs=1e-3)


def test_pure_noise_has_a_noise_ceiling_of_one_half():
    rng = np.random.default_rng(5)
    rates = np.exp(rng.normal(math.log(0.016), 0.3, (2000, 1)))
    shown = np.full((2000, 2), 3000)
    made = pairs_of(rng.binomial(shown, rates), shown)
    soft = better(made, fitted(made))
    assert np.maximum(soft, 1 - soft).mean() < 0.56


def test_overdispersion_is_what_cells_of_a_pair_differ_beyond_sampling():
    rng = np.random.default_rng(4)
    pair = np.repeat(np.arange(2000), 4)
    shown = np.full(8000, 5000)
    for extra in (0.0, 0.2):
        a, b = (rng.binomial(shown, 0.02 * np.exp(rng.normal(0, extra, 8000))).astype(float) for _ in "ab")
        made = eq.contrast(a, shown.astype(float), b, shown.astype(float), pair, 2000)
        assert eq.fit_cells(made) == pytest.approx(extra, abs=0.04 if extra == 0 else 0.01)


def test_votes_by_hand():
    assert eq.preferred_share(np.array([3.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx([0.75, 0.5])
    # Beta(1 + 3, 1 + 1): P(share > .5) = 1 - I_.5(4, 2) = 1 - 6/32
    assert eq.probability_preferred(np.array([3.0]), np.array([1.0]), 1.0) == pytest.approx([1 - 6 / 32])
    rng = np.random.default_rng(1)
    for size in (0.5, 5.0):
        votes = rng.binomial(20, rng.beta(size, size, 4000)).astype(float)
        assert eq.fit_votes(votes, 20 - votes) == pytest.approx(size, rel=0.1)


def test_lift_from_counts_by_hand():
    clicks, impressions = np.array([30.0, 10.0, 0.0]), np.array([900.0, 900.0, 0.0])
    alone = np.zeros(3, dtype=np.int64)
    # between = .5: k = 4; one cell: the rate r solves r = 40 / sum n_i (c_i + 4) / (900 r + 4)
    lift = eq.lift_from_counts(clicks, impressions, np.arange(3), alone, alone, 0.5, rounds=100)
    rate = 40 / 1800
    for _ in range(1000):
        rate = 40 / (900 * (34 + 14) / (900 * rate + 4))
    ratios = np.array([34 / (900 * rate + 4), 14 / (900 * rate + 4), 1])
    average = (ratios * (np.array([900, 900, 0]) * rate + 4)).sum() / (1800 * rate + 12)
    assert lift == pytest.approx(np.log(ratios / average))


def test_the_only_creative_of_a_product_has_no_lift():
    rng = np.random.default_rng(2)
    clicks = rng.integers(0, 50, 40).astype(float)
    own = np.arange(40)
    lift = eq.lift_from_counts(clicks, np.full(40, 500.0), own, own, own, 0.3)
    assert lift == pytest.approx(np.zeros(40), abs=1e-12)


def test_lift_ignores_how_good_the_product_is():
    clicks, impressions = np.array([2e4, 1e4, 2e5, 1e5]), np.full(4, 1e8)
    product = np.array([0, 0, 1, 1])
    lift = eq.lift_from_counts(clicks, impressions, np.arange(4), product, product, 0.5)
    assert lift[0] == pytest.approx(math.log(20 / 15), abs=1e-3)
    assert lift[0] == pytest.approx(lift[2], abs=1e-3)


def test_lift_compares_within_cells():
    # creative 0 was shown where everybody clicks little, 1 where they click much; in both cells 0 is the better by half
    clicks = np.array([90_000.0, 30_000.0, 6_000.0, 180_000.0])
    shown = np.array([9e6, 1e6, 0.9e6, 9e6])
    creative, cell = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    lift = eq.lift_from_counts(clicks, shown, creative, np.zeros(2, np.int64), cell, 1.0, rounds=200)
    assert lift[0] - lift[1] == pytest.approx(math.log(1.5), abs=1e-3)


def test_lift_from_orders_scores_and_rates():
    product = np.array([0, 0, 1])
    orders = eq.lift_from_orders(np.array([90.0, 10.0, 5.0]), product)
    # product 0: mean 50, sample variance 3200, so k = (50^2 x 2) / (2 x (3200 - 50)) = 2500 / 3150
    k = 2500 / 3150
    assert orders == pytest.approx([math.log((90 + k) / (50 + k)), math.log((10 + k) / (50 + k)), 0])
    scores = eq.lift_from_scores(np.array([3.0, 5.0, 9.0]), product)
    assert scores == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0])  # pooled sd: sqrt(2 / 1)
    rates = eq.lift_from_rates(np.array([0.0, 0.02, 0.03]), product)
    assert rates == pytest.approx(
        [math.log(0.01 / 0.02), math.log(0.03 / 0.02), 0]
    )  # e = .01, half of the smallest rate
    assert eq.lift_from_scores(np.array([4.0]), np.array([0])).tolist() == [0]
