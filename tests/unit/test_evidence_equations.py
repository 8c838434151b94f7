"""Soft labels, empirical Bayes and lifts: literals and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from countryreward.equations import evidence as eq

one = lambda value: np.array([float(value)])  # noqa: E731


@pytest.mark.parametrize(
    "parameters", [(50, 3000, 60, 3100), (0.7, 3, 2, 9), (1, 10, 69, 399), (2000, 6e4, 2100, 5.9e4)]
)
def test_soft_label_equals_numerical_integration(parameters: tuple[float, float, float, float]):
    a, b, c, d = parameters
    exact = integrate.quad(lambda u: stats.beta.cdf(stats.beta.ppf(u, a, b), c, d), 0, 1, limit=500)[0]
    assert eq.probability_greater(one(a), one(b), one(c), one(d))[0] == pytest.approx(exact, abs=1e-6)


def test_soft_label_by_hand():
    assert eq.probability_greater(one(5), one(9), one(5), one(9))[0] == pytest.approx(0.5, abs=1e-9)
    # X ~ Beta(2, 1), Y uniform: P(X > Y) = E[X] = 2/3
    assert eq.probability_greater(one(2), one(1), one(1), one(1))[0] == pytest.approx(2 / 3, abs=1e-6)


@given(st.floats(1, 500), st.floats(10, 1e5), st.floats(1, 500), st.floats(10, 1e5))
def test_soft_labels_of_both_orders_sum_to_one(a: float, b: float, c: float, d: float):
    forward = eq.probability_greater(one(a), one(b), one(c), one(d))
    backward = eq.probability_greater(one(c), one(d), one(a), one(b))
    assert forward + backward == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("concentration", [100, 1000])
def test_prior_finds_the_spread_of_rates(concentration: float):
    rng = np.random.default_rng(3)
    rates = rng.beta(0.02 * concentration, 0.98 * concentration, 3000)
    impressions = rng.integers(500, 20_000, 3000).astype(float)
    found = eq.fit_beta(rng.binomial(impressions.astype(int), rates).astype(float), impressions)
    assert found.concentration == pytest.approx(concentration, rel=0.1)
    assert found.alpha / found.concentration == pytest.approx(0.02, rel=0.05)


def test_the_prior_is_where_the_likelihood_is_flat():
    rng = np.random.default_rng(3)
    impressions = rng.integers(500, 20_000, 3000).astype(float)
    clicks = rng.binomial(impressions.astype(int), rng.beta(20, 980, 3000)).astype(float)
    found = eq.fit_beta(clicks, impressions)

    def likelihood(mean: float, concentration: float) -> float:
        alpha, beta = mean * concentration, (1 - mean) * concentration
        return float(np.mean(special.betaln(clicks + alpha, impressions - clicks + beta) - special.betaln(alpha, beta)))

    mean, concentration = found.alpha / (found.alpha + found.beta), found.alpha + found.beta
    best = likelihood(mean, concentration)
    for factor in (0.999, 1.001):  # .2 % away is what finite differences left
        assert best > likelihood(mean * factor, concentration)
        assert best > likelihood(mean, concentration * factor)


def test_pure_noise_has_a_noise_ceiling_of_one_half():
    rng = np.random.default_rng(5)
    impressions = np.full(2000, 3000.0)
    clicks = rng.binomial(3000, 0.016, 2000).astype(float)
    prior = eq.fit_beta(clicks, impressions)
    alpha, beta = prior.alpha + clicks, prior.beta + impressions - clicks
    soft = eq.probability_greater(alpha[:1000], beta[:1000], alpha[1000:], beta[1000:])
    assert np.maximum(soft, 1 - soft).mean() < 0.56
    flat = eq.probability_greater(
        1 + clicks[:1000], 1 + 3000 - clicks[:1000], 1 + clicks[1000:], 1 + 3000 - clicks[1000:]
    )
    assert np.maximum(flat, 1 - flat).mean() == pytest.approx(0.75, abs=0.02)  # what a flat prior would have claimed


def test_prior_without_clicks_or_impressions():
    assert eq.fit_beta(np.zeros(3), np.zeros(3)) == eq.BetaPrior(1.0, 1.0)
    assert eq.fit_beta(np.zeros(3), np.full(3, 100.0)).alpha > 0


def test_lift_from_counts_by_hand():
    prior = eq.BetaPrior(2.0, 98.0)  # 100 impressions at 2 %
    clicks, impressions = np.array([30.0, 10.0, 0.0]), np.array([900.0, 900.0, 0.0])
    centre = (40 + 2) / (1800 + 100)  # what creatives are shrunk to
    rates = [(30 + 100 * centre) / 1000, (10 + 100 * centre) / 1000, centre]
    product_rate = (40 + 300 * centre) / (1800 + 300)
    expected = [math.log(rate / product_rate) for rate in rates]
    assert eq.lift_from_counts(clicks, impressions, np.zeros(3, dtype=np.int64), prior) == pytest.approx(expected)


def test_the_only_creative_of_a_product_has_no_lift():
    rng = np.random.default_rng(2)
    clicks = rng.integers(0, 50, 40).astype(float)
    lift = eq.lift_from_counts(clicks, np.full(40, 500.0), np.arange(40), eq.BetaPrior(2.0, 98.0))
    assert lift == pytest.approx(np.zeros(40), abs=1e-12)


def test_lift_ignores_how_good_the_product_is():
    prior = eq.BetaPrior(0.002, 0.098)
    clicks, impressions = np.array([20.0, 10.0, 200.0, 100.0]), np.full(4, 1e5)
    lift = eq.lift_from_counts(clicks, impressions, np.array([0, 0, 1, 1]), prior)
    assert lift[0] == pytest.approx(math.log(20 / 15), abs=1e-3)
    assert lift[0] == pytest.approx(lift[2], abs=1e-3)


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
