"""Evidence behind a label and behind a neighbour's vote (method.md; ours, the paper uses raw CTR).

Legend: R pairs, K cells of pairs (a stratum and period in which both creatives of a pair were shown), C creatives, S cells of
creatives. Log-odds are natural. All fits use what lies *within* products: the spread between products says nothing of the ads of
one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DEFAULT_BETWEEN = 0.2
"""Spread of creatives within a product, log-odds, where nearly nothing is known: published A/B tests of headlines lie about
there."""
DEFAULT_WORTH = 4.0
"""Comparisons that the default is worth in the fit over all markets."""
MARKET_WORTH = 40.0
"""Comparisons that the spread over all markets is worth in the fit of one market."""
_LARGEST = 25.0  # of a fitted variance: a factor of e^5 between the ads of one product


@dataclass(frozen=True)
class Contrasts:
    """What the counts say of each pair: A against B within common cells. Arrays [R]."""

    rate_a: Floats
    """Successes per impression, standardised over the common cells (Mantel-Haenszel weights)."""
    rate_b: Floats
    difference: Floats
    """Log of the rate of A over that of B (Mantel-Haenszel rate ratio); its sign is that of rate_a - rate_b."""
    variance: Floats
    """Sampling variance of `difference`; infinite where there was no success at all."""
    cells_share: Floats
    """Sum over cells of the squared information shares: 1 for one cell, 1/n for n equal ones. Scales a variance per cell."""
    heterogeneity: tuple[Ints, Floats, Floats]
    """(pair, difference, sampling variance) of every cell with a success, of pairs with two or more such cells."""


def contrast(
    success_a: Floats,
    shown_a: Floats,
    success_b: Floats,
    shown_b: Floats,
    pair: Ints,
    n_pairs: int,
    *,
    variance_per_success: float = 1.0,
) -> Contrasts:
    """Compare both creatives of each pair within common cells. success, shown, pair: [K]; every shown > 0.

    In cell s with N = n_A + n_B, weight w = n_A n_B / N and pooled rate p: the Mantel-Haenszel rates are sum w rate / sum w, and
    the difference is their log ratio, log(R / S) with R = sum x_A n_B / N, S = sum x_B n_A / N and variance sum (n_A n_B (x_A +
    x_B) / N^2 - x_A x_B / N) / (R S) (Greenland and Robins 1985). Where one side has no success, R or S is 0 and one step from
    equality stands for it: sum w (rate_A - rate_B) / sum w p (1 - p), variance 1 / sum w p (1 - p) (Yusuf, Peto et al. 1985). One
    step everywhere would not do: with one side shown much more often, as platforms do, it bends large differences to 0.
    variance_per_success: of money instead of clicks, so that the rate's variance is p times it: with exponential values, twice
    the mean value. 1: successes are counted, and binomial.
    """
    weight = shown_a * shown_b / (shown_a + shown_b)
    pooled = (success_a + success_b) / (shown_a + shown_b)
    gap = success_a / shown_a - success_b / shown_b
    binomial = variance_per_success == 1.0
    scale = weight * pooled * np.where(binomial, 1 - pooled, 1.0)  # d (rate) / d (log-odds), weighted
    information = scale / variance_per_success

    def by_pair(values: Floats) -> Floats:
        return np.bincount(pair, values, n_pairs).astype(np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):
        total, scales, weights = by_pair(information), by_pair(scale), by_pair(weight)
        shown = shown_a + shown_b
        over, under = by_pair(success_a * shown_b / shown), by_pair(success_b * shown_a / shown)
        spread = weight * pooled * variance_per_success - np.where(binomial, success_a * success_b / shown, 0.0)
        both = (over > 0) & (under > 0) & (total > 0)
        one_step = np.where(scales > 0, by_pair(weight * gap) / scales, 0.0)
        difference = np.where(both, np.log(over / under), one_step)
        variance = np.where(both, by_pair(spread) / (over * under), np.where(total > 0, 1 / total, np.inf))
        share = np.where(total > 0, by_pair(information**2) / total**2, 1.0)
        rate_a = by_pair(weight * success_a / shown_a) / weights
        rate_b = by_pair(weight * success_b / shown_b) / weights
        informative = information > 0
        several = informative & (np.bincount(pair[informative], minlength=n_pairs) > 1)[pair]
        cells = (pair[several], weight[several] * gap[several] / scale[several], 1 / information[several])
    return Contrasts(rate_a, rate_b, difference, variance, share, cells)


@dataclass(frozen=True)
class Spread:
    """Standard deviations on the log-odds scale, of one market or of all together."""

    between: float
    """Of a creative's success around its product's: what a label is about."""
    cells: float
    """Of a creative's cell around the creative, beyond sampling (overdispersion)."""
    delivery: float | None
    """What delivery by a platform adds to a creative's; None where it cannot be told: no comparable evidence to compare with."""


def fit_cells(contrasts: Contrasts) -> float:
    """Overdispersion: sd of a creative's cell around the creative, from cells of one pair that differ by more than sampling.

    Solves sum over pairs of the weighted squares of the cells' differences around the pair's = sum of (cells - 1)
    (Paule and Mandel 1982), each side of a cell contributing its own deviation. 0 without pairs of two cells.
    """
    pair, difference, variance = contrasts.heterogeneity
    if not len(pair):
        return 0.0
    pair = np.unique(pair, return_inverse=True)[1]
    freedom = len(pair) - (int(pair.max()) + 1)

    def excess(extra: float) -> float:
        weight = 1 / (variance + 2 * extra)
        mean = np.bincount(pair, weight * difference) / np.bincount(pair, weight)
        return float((weight * (difference - mean[pair]) ** 2).sum() - freedom)

    return float(np.sqrt(_root(excess)))


def fit_between(
    difference: Floats, variance: Floats, comparisons: Floats, *, expected: float = DEFAULT_BETWEEN, worth: float
) -> float:
    """Spread of creatives within a product, from the pairs' differences. difference, variance, comparisons: [R].

    A pair's difference has variance 2 tau^2 + `variance`. Method of moments, each pair weighted by 1 / (its variance)^2 and by
    `comparisons` (2 / m for a product with m creatives: its m (m - 1) / 2 pairs hold m - 1 comparisons).
    expected, worth: a spread known beforehand, and how many comparisons without noise of their own it is worth.
    """
    known = np.isfinite(variance)
    difference, variance, comparisons = difference[known], variance[known], comparisons[known]
    floor = float(np.median(variance)) if len(variance) else 1.0

    def excess(between: float) -> float:
        weight = comparisons / (2 * between + variance) ** 2
        prior = worth / (2 * between + floor) ** 2
        return float((weight * (difference**2 - variance - 2 * between)).sum() + prior * 2 * (expected**2 - between))

    return float(np.sqrt(_root(excess)))


def _root(excess: Callable[[float], float]) -> float:
    """Where a falling function of a variance crosses 0: 0 when it starts below."""
    if excess(0.0) <= 0:
        return 0.0
    if excess(_LARGEST) >= 0:
        return _LARGEST
    return float(optimize.brentq(excess, 0.0, _LARGEST, xtol=1e-10))  # pyright: ignore[reportArgumentType]


def probability_better(difference: Floats, variance: Floats, between: Floats | float) -> Floats:
    """Soft label [R]: P(A's log-odds of success are above B's | evidence), from the posterior within the product.

    Prior of the true difference N(0, 2 between^2), evidence N(truth, variance): Phi(difference sqrt(B / variance)) with
    B = 2 between^2 / (2 between^2 + variance). Without evidence, or where creatives do not differ, .5.
    """
    prior = 2 * np.asarray(between, dtype=np.float64) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(variance), prior / (prior + variance), 0.0)
        z = np.where(np.isfinite(variance) & (variance > 0), difference / np.sqrt(variance), 0.0)
    return special.ndtr(z * np.sqrt(share))


def preferred_share(votes_a: Floats, votes_b: Floats) -> Floats:
    """Share of votes for A [R]; .5 without votes."""
    total = votes_a + votes_b
    return np.where(total > 0, votes_a / np.where(total > 0, total, 1), 0.5)


def fit_votes(votes_a: Floats, votes_b: Floats) -> float:
    """Symmetric Beta(s, s) over pairs of the share of voters who prefer A: s by maximum marginal likelihood, within [.05, 1000].

    votes: [R], half votes (ties) allowed. Large s: voters hardly differ in any pair; small: they nearly all agree. Two pairs'
    worth of Beta(2, 2) is known beforehand.
    """
    if not len(votes_a):
        return 2.0

    def loss(log_size: float) -> float:
        size = np.exp(log_size)
        likelihood = special.betaln(votes_a + size, votes_b + size) - special.betaln(size, size)
        return float(-likelihood.sum() + (log_size - np.log(2.0)) ** 2)

    best = optimize.minimize_scalar(loss, bounds=(np.log(0.05), np.log(1000.0)), method="bounded")
    return float(np.exp(best.x))  # pyright: ignore[reportAttributeAccessIssue]


def probability_preferred(votes_a: Floats, votes_b: Floats, size: float) -> Floats:
    """Soft label of votes [R]: P(more than half of all voters prefer A | votes) under Beta(size, size); exact."""
    return special.betainc(votes_b + size, votes_a + size, 0.5)


def lift_from_counts(
    clicks: Floats, impressions: Floats, creative: Ints, product: Ints, cell: Ints, between: float, *, rounds: int = 8
) -> Floats:
    """Within-product lift: log of the creative's shrunk success over its product's. -> [C], natural log.

    clicks, impressions, creative, cell: [S], one entry per creative and cell; cell numbers stratum and period within a product.
    product: [C]. A creative's clicks are compared with those expected from the cells it was shown in (the product's pooled rate
    there): (clicks + k) / (expected + k) with k = 1 / between^2, so that a creative without impressions is an average one of its
    product, and the only creative of a product has lift 0. The cells' rates are freed of the mix of creatives in `rounds` turns.
    """
    n, products = len(product), int(product.max(initial=-1)) + 1
    if between <= 0:
        return np.zeros(n)
    k = 1 / between**2
    ratio = np.ones(n)
    observed = np.bincount(creative, clicks, n)
    expected = observed
    for _ in range(rounds):
        rate = np.bincount(cell, clicks) / np.maximum(np.bincount(cell, impressions * ratio[creative]), 1e-300)
        expected = np.bincount(creative, impressions * rate[cell], n)
        ratio = (observed + k) / (expected + k)
    average = np.bincount(product, ratio * (expected + k), products) / np.bincount(product, expected + k, products)
    return np.log(ratio) - np.log(average[product])


def lift_from_orders(orders: Floats, product: Ints) -> Floats:
    """Lift of units sold under assumed equal exposure: log((orders + k) / (mean orders of the product + k)). [C] -> [C].

    k is the shape of a Gamma-Poisson prior around the product's mean, by moments over all products of the market.
    """
    size = np.bincount(product).astype(float)
    mean = np.bincount(product, orders) / np.maximum(size, 1)
    excess = np.where(
        size[product] > 1, (orders - mean[product]) ** 2 * size[product] / np.maximum(size[product] - 1, 1), 0
    )
    excess = np.where(size[product] > 1, excess - mean[product], 0).sum()
    power = np.where(size[product] > 1, mean[product] ** 2, 0).sum()
    shape = float(np.clip(power / excess, 0.1, 1e6)) if excess > 0 else 1e6
    return np.log(orders + shape) - np.log(mean[product] + shape)


def lift_from_rates(rates: Floats, product: Ints) -> Floats:
    """Lift where only CTRs are known, so nothing can be shrunk: log((rate + e) / (mean rate + e)). [C] -> [C].

    e is half the smallest positive rate of the market, so that a rate of zero stays finite.
    """
    positive = rates[rates > 0]
    floor = positive.min() / 2 if len(positive) else 1.0
    mean = np.bincount(product, rates) / np.maximum(np.bincount(product), 1)
    return np.log(rates + floor) - np.log(mean[product] + floor)


def lift_from_scores(scores: Floats, product: Ints) -> Floats:
    """Lift of ratings, which have no rate: deviation from the product's mean in pooled within-product sds. [C] -> [C]."""
    size = np.bincount(product)
    deviation = scores - (np.bincount(product, scores) / np.maximum(size, 1))[product]
    freedom = np.maximum(size - 1, 0).sum()
    pooled = np.sqrt((deviation**2).sum() / freedom) if freedom else 0.0
    return deviation / pooled if pooled > 0 else np.zeros_like(scores)
