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
_LARGEST = 5.0  # of a fitted spread: a factor of e^5 between the ads of one product
_ENOUGH_FEW = 20_000  # pairs with few successes that a fit reads


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
    few: "FewSuccesses"
    """The cells of pairs with so few successes that `difference` and `variance` do not hold what they say."""


FEW = 20.0
"""Below this many successes of either side a pair's likelihood is taken as it is, not as normal."""


@dataclass(frozen=True)
class FewSuccesses:
    """Pairs with few successes: given a cell's successes T, A has a binomial share n_A e^t / (n_A e^t + n_B) of them at log
    ratio t."""

    pairs: Ints
    """[F] positions in the contrasts, ascending."""
    first: Ints
    """[F] where each pair's cells begin; the cells of one pair stand together."""
    success_a: Floats
    success_b: Floats
    exposure: Floats
    """log(n_A / n_B) of each cell."""

    def at(self, wanted: Bools) -> "FewSuccesses":
        """Those of the wanted pairs [R]."""
        kept = wanted[self.pairs]
        cells = np.repeat(kept, np.diff(self.first, append=len(self.success_a)))
        sizes = np.diff(self.first, append=len(self.success_a))[kept]
        parts = (values[cells] for values in (self.success_a, self.success_b, self.exposure))
        return FewSuccesses(self.pairs[kept], np.cumsum(sizes) - sizes, *parts)

    def log_likelihood(self, ratio: Floats) -> Floats:
        """Log likelihood [F, K] of the log ratios [K], up to a constant of each pair."""
        if not len(self.pairs):
            return np.zeros((0, len(ratio)))
        odds = self.exposure[:, None] + ratio  # [cells, K]
        cells = self.success_a[:, None] * special.log_expit(odds) + self.success_b[:, None] * special.log_expit(-odds)
        return np.add.reduceat(cells, self.first, axis=0)


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
    scarce = np.minimum(by_pair(success_a), by_pair(success_b)) < (FEW if binomial else 0.0)
    order = np.argsort(pair, kind="stable")
    order = order[(scarce & np.isfinite(variance))[pair[order]]]
    numbers, first = np.unique(pair[order], return_index=True)
    exposure = np.log(shown_a[order] / shown_b[order])
    few = FewSuccesses(numbers, first.astype(np.int64), success_a[order], success_b[order], exposure)
    return Contrasts(rate_a, rate_b, difference, variance, share, cells, few)


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
    contrasts: Contrasts,
    variance: Floats,
    comparisons: Floats,
    at: Bools,
    *,
    expected: float = DEFAULT_BETWEEN,
    worth: float,
) -> float:
    """Spread of creatives within a product, by the likelihood of the pairs `at` [R].

    A pair's true log ratio is N(0, 2 tau^2). Its difference is N(truth, variance), where variance [R] may hold more than
    sampling; of pairs with few successes the likelihood itself is taken, over 25 nodes of the prior. comparisons [R] weighs the
    pairs: 2 / m for a product with m creatives, whose m (m - 1) / 2 pairs hold m - 1 comparisons.
    expected, worth: a spread known beforehand, and how many comparisons of the median precision it is worth.
    """
    few = contrasts.few.at(at)
    step = max(1, len(few.pairs) // _ENOUGH_FEW)  # more of them would say the same, and cost
    kept = np.zeros(len(at), bool)
    kept[few.pairs[::step]] = True
    few = few.at(kept)
    normal = at & np.isfinite(variance)
    normal[contrasts.few.pairs] = False
    difference, noise, weight = contrasts.difference[normal], variance[normal], comparisons[normal]
    floor = float(np.median(variance[at & np.isfinite(variance)])) if (at & np.isfinite(variance)).any() else 1.0
    temper = _temper(contrasts, variance)[few.pairs]
    node, share = np.polynomial.hermite_e.hermegauss(25)

    def loss(between: float) -> float:
        total = 2 * between**2 + noise
        value = (weight * (np.log(total) + difference**2 / total)).sum() / 2
        if len(few.pairs):
            known = few.log_likelihood(np.sqrt(2.0) * between * node) * temper[:, None]
            marginal = np.asarray(special.logsumexp(known, axis=1, b=share))
            value -= step * float((comparisons[few.pairs] * marginal).sum())
        prior = 2 * between**2 + floor
        return float(value + worth / 2 * (np.log(prior) + (2 * expected**2 + floor) / prior))

    best = optimize.minimize_scalar(loss, bounds=(0.0, _LARGEST), method="bounded", options={"xatol": 1e-4})
    found = float(best.x)  # pyright: ignore[reportAttributeAccessIssue]
    return found if loss(found) < loss(0.0) else 0.0


def _temper(contrasts: Contrasts, variance: Floats) -> Floats:
    """How much of a pair's likelihood counts where its variance holds more than sampling [R]: sampling / variance."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(variance) & (variance > 0), contrasts.variance / variance, 1.0)


def _root(excess: Callable[[float], float]) -> float:
    """Where a falling function of a variance crosses 0: 0 when it starts below."""
    if excess(0.0) <= 0:
        return 0.0
    if excess(_LARGEST**2) >= 0:
        return _LARGEST**2
    return float(optimize.brentq(excess, 0.0, _LARGEST**2, xtol=1e-10))  # pyright: ignore[reportArgumentType]


def probability_better(contrasts: Contrasts, variance: Floats, between: Floats, bias: Floats) -> Floats:
    """Soft label [R]: P(A is truly better | evidence), from the posterior within the product.

    The true log ratio u is N(0, 2 between^2); what was seen is u + b, b ~ N(0, 2 bias^2) the part of delivery. Where successes
    are many it is Phi(z sqrt(S / (S + V))) with S = 2 between^2, V = variance + 2 bias^2, z = difference / sqrt(V); of few
    successes the likelihood itself is taken, at 400 quantiles of the prior of u + b. variance, between, bias: [R]. Without
    evidence, or where creatives do not differ, .5.
    """
    prior, noise = 2 * between**2, variance + 2 * bias**2
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(np.isfinite(noise) & (noise > 0), contrasts.difference / np.sqrt(noise), 0.0)
        share = np.where(np.isfinite(noise), prior / (prior + noise), 0.0)
    soft = special.ndtr(z * np.sqrt(share))
    quantile = special.ndtri((np.arange(400) + 0.5) / 400)
    temper = _temper(contrasts, variance)
    spreads, group = np.unique(np.stack([between, bias]), axis=1, return_inverse=True)
    for number, (tau, delta) in enumerate(spreads.T):
        here = np.zeros(len(soft), bool)
        here[contrasts.few.pairs] = True
        here &= group == number
        for part in np.array_split(
            np.flatnonzero(here), max(1, int(here.sum()) // 5_000)
        ):  # bounds the [cells, K] table
            if not len(part):
                continue
            if tau == 0:
                soft[part] = 0.5
                continue
            chosen = np.zeros(len(soft), bool)
            chosen[part] = True
            few = contrasts.few.at(chosen)
            seen = np.sqrt(2 * (tau**2 + delta**2)) * quantile
            own = (
                special.ndtr(seen / np.sqrt(2) * tau / (delta * np.hypot(tau, delta)))
                if delta
                else (quantile > 0).astype(float)
            )
            known = few.log_likelihood(seen) * temper[few.pairs][:, None]
            weight = np.exp(known - known.max(axis=1, keepdims=True))
            soft[few.pairs] = (weight * own).sum(axis=1) / weight.sum(axis=1)
    return soft


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
