"""Ceilings on literals, against simulated labels, and the label probability against exact and simulated clicks."""

import numpy as np
import pytest
from scipy.stats import binom

from countryreward.equations.ceilings import (
    blind_answers,
    label_probability,
    market_blind_ceiling_sums,
    noise_ceiling_sums,
)
from countryreward.equations.metrics import item_sums, metrics_of, total

Q = np.array([0.9, 0.2])  # one item, two markets that want different ads
ITEM = np.array([0, 0])


def test_informed_judge_by_hand():
    found = metrics_of(total(noise_ceiling_sums(Q, ITEM, 1)))
    discordant = 0.9 * 0.8 + 0.1 * 0.2  # .74
    assert found["accuracy"] == pytest.approx((0.9 + 0.8) / 2)
    assert found["balanced_accuracy"] == pytest.approx((0.9 / 1.1 + 0.8 / 0.9) / 2)
    assert found["sensitivity"] == pytest.approx(0.72)
    assert found["discordant_sensitivity"] == pytest.approx(0.72 / discordant)
    assert found["concordant_sensitivity"] == pytest.approx(0.0)
    assert found["discordant_ordering"] == pytest.approx(0.72 / discordant)


def test_blind_judge_by_hand():  # mean q = .55: A everywhere
    found = metrics_of(total(market_blind_ceiling_sums(Q, ITEM, 1)))
    assert found["accuracy"] == pytest.approx(0.55)
    assert found["balanced_accuracy"] == pytest.approx(0.5)
    assert found["sensitivity"] == pytest.approx(0.18)
    assert found["discordant_sensitivity"] == 0.0
    assert found["concordant_sensitivity"] == pytest.approx(0.18 / 0.26)
    assert found["discordant_ordering"] == pytest.approx(0.5)


def test_blind_tie_says_a():
    assert blind_answers(np.array([0.3, 0.7, 0.1, 0.9]), np.array([0, 0, 1, 1]), 2).all()


@pytest.mark.slow
def test_ceilings_are_the_mean_over_labels():
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(50), rng.integers(1, 6, 50))
    q = rng.random(item.size)
    judges = {
        "noise": (noise_ceiling_sums(q, item, 50), q - 0.5),
        "blind": (market_blind_ceiling_sums(q, item, 50), np.where(blind_answers(q, item, 50), 1.0, -1.0)),
    }
    for sums, logit in judges.values():
        expected = total(sums)
        drawn = dict.fromkeys(expected, 0.0)
        for _ in range(1500):
            label = (rng.random(q.size) < q).astype(np.int8)
            found = total(item_sums(label, logit, item, 50))
            drawn = {name: drawn[name] + found[name] / 1500 for name in drawn}
        for name, value in expected.items():
            assert drawn[name] == pytest.approx(value, rel=0.02, abs=0.4), name


def exact(a: float, b: float, n_a: int, n_b: int) -> float:
    x = np.arange(n_a + 1)
    same, remainder = np.divmod(x * n_b, n_a)
    above = binom.pmf(x, n_a, a) @ binom.cdf(same - (remainder == 0), n_b, b)
    below = binom.pmf(x, n_a, a) @ binom.sf(same, n_b, b)
    return float(above / (above + below))


@pytest.mark.parametrize(
    ("a", "b", "n_a", "n_b", "within"),
    [
        (0.01, 0.012, 300, 300, 1e-9),  # 3 clicks
        (0.01, 0.012, 1000, 1003, 1e-9),  # almost the same impressions: the lattice decides
        (0.016, 0.020, 700, 2000, 1e-9),
        (0.020, 0.021, 4000, 4100, 0.01),  # 80 clicks: the normal approximation
        (0.016, 0.018, 20000, 20000, 0.002),
        (0.5, 0.48, 1000, 3000, 0.005),
    ],
)
def test_label_probability_against_the_exact_sum(a, b, n_a, n_b, within):
    found = label_probability(np.array([a, b]), np.array([b, a]), np.array([n_a, n_b]), np.array([n_b, n_a]))
    assert found[0] == pytest.approx(exact(a, b, n_a, n_b), abs=within)
    assert found.sum() == pytest.approx(1.0)  # swapping the images turns the probability around


def test_label_probability_against_simulated_clicks():
    rng = np.random.default_rng(0)
    for a, b, n_a, n_b in ((0.02, 0.025, 500, 800), (0.03, 0.028, 5000, 6000)):
        rate_a, rate_b = rng.binomial(n_a, a, 400_000) / n_a, rng.binomial(n_b, b, 400_000) / n_b
        simulated = (rate_a > rate_b).sum() / (rate_a != rate_b).sum()
        assert label_probability(np.array([a]), np.array([b]), np.array([n_a]), np.array([n_b]))[0] == pytest.approx(
            simulated, abs=0.006
        )


def test_label_probability_without_variance():
    ones = np.array([100, 100, 100])
    assert label_probability(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), ones, ones).tolist() == [1, 0, 0.5]
