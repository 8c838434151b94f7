"""Evidence behind a label and behind a neighbour's vote (method.md; ours, the paper uses raw CTR).

Legend: C creatives of one market, P products, R pairs. `product` maps each creative to 0..P-1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BetaPrior:
    """Beta(alpha, beta) over the CTRs of one market."""

    alpha: float
    beta: float

    @property
    def concentration(self) -> float:
        """alpha + beta: how many impressions the prior is worth."""
        return self.alpha + self.beta


MAX_CONCENTRATION = 1e8
"""Where creatives differ by nothing but sampling noise the likelihood rises without end; it stops here."""


def fit_beta(clicks: Floats, impressions: Floats) -> BetaPrior:
    """Empirical-Bayes prior of a market: maximum marginal (beta-binomial) likelihood. [C], [C] -> BetaPrior.

    A flat prior would read a noise ceiling of .75 where there is nothing but noise; this one finds the real spread of CTRs
    between creatives, none included. Creatives without impressions are ignored; without any clicks the rate is half a click.
    """
    shown = impressions > 0
    clicks, impressions = clicks[shown].astype(float), impressions[shown].astype(float)
    total = impressions.sum()
    if total == 0:
        return BetaPrior(1.0, 1.0)
    rate = np.clip(clicks.sum() / total, 0.5 / (total + 1), 1 - 0.5 / (total + 1))

    def negative_log_likelihood(theta: Floats) -> tuple[float, Floats]:
        """Mean over creatives, and its gradient: finite differences would stop somewhere else on every processor."""
        mean, concentration = special.expit(theta[0]), np.exp(theta[1])
        alpha, beta = mean * concentration, (1 - mean) * concentration
        a, b = clicks + alpha, impressions - clicks + beta
        value = np.mean(special.betaln(a, b) - special.betaln(alpha, beta))
        both = special.digamma(a + b)
        by_alpha = np.mean(special.digamma(a) - both) - special.digamma(alpha) + special.digamma(concentration)
        by_beta = np.mean(special.digamma(b) - both) - special.digamma(beta) + special.digamma(concentration)
        by_mean = (by_alpha - by_beta) * concentration * mean * (1 - mean)
        return -float(value), -np.array([by_mean, by_alpha * alpha + by_beta * beta])

    start = np.array([special.logit(rate), np.log(200.0)])
    bounds = [(start[0] - 3, start[0] + 3), (0.0, np.log(MAX_CONCENTRATION))]
    exact = {"ftol": 1e-15, "gtol": 1e-10}
    optimum = optimize.minimize(
        negative_log_likelihood, start, jac=True, method="L-BFGS-B", bounds=bounds, options=exact
    ).x
    mean, concentration = float(special.expit(optimum[0])), float(np.exp(optimum[1]))
    return BetaPrior(mean * concentration, (1 - mean) * concentration)


def probability_greater(
    alpha_a: Floats, beta_a: Floats, alpha_b: Floats, beta_b: Floats, *, nodes: int = 161
) -> Floats:
    """Soft label: P(X > Y) for independent X ~ Beta(alpha_a, beta_a), Y ~ Beta(alpha_b, beta_b). [R] each -> [R].

    The trapezoid rule on the logit scale over 12 standard deviations around the narrower of the two, where the integrand
    decays fast at both ends and the other's distribution function is smooth; within 1e-6 of the exact value (tests).
    """

    def spread(alpha: Floats, beta: Floats) -> Floats:
        return np.sqrt(special.polygamma(1, alpha) + special.polygamma(1, beta))

    swap = spread(alpha_a, beta_a) > spread(alpha_b, beta_b)  # then integrate over Y: P(X > Y) = 1 - P(Y > X)
    alpha_x, alpha_y = np.where(swap, alpha_b, alpha_a), np.where(swap, alpha_a, alpha_b)
    beta_x, beta_y = np.where(swap, beta_b, beta_a), np.where(swap, beta_a, beta_b)
    centre, scale = special.digamma(alpha_x) - special.digamma(beta_x), spread(alpha_x, beta_x)
    weighted, mass = np.zeros_like(centre), np.zeros_like(centre)
    for node in np.linspace(-12, 12, nodes):  # one node at a time: memory stays [R]
        logit = centre + scale * node
        log_x, log_not_x = special.log_expit(logit), special.log_expit(-logit)
        density = np.exp(alpha_x * log_x + beta_x * log_not_x - special.betaln(alpha_x, beta_x))
        weighted += density * special.betainc(alpha_y, beta_y, np.exp(log_x))
        mass += density
    greater = weighted / mass
    return np.where(swap, 1 - greater, greater)


def lift_from_counts(clicks: Floats, impressions: Floats, product: Ints, prior: BetaPrior) -> Floats:
    """Within-product lift: log(shrunk rate of the creative / shrunk rate of its product). [C] x 3 -> [C], natural log.

    Every creative is shrunk by the market's concentration towards its product's rate (itself shrunk to the market's), and the
    product's rate is then that of its shrunk creatives together. So a creative without impressions is an average one of its
    product, not of the market, and the only creative of a product has lift 0 however good the product is.
    """
    kappa = prior.concentration
    centre = (np.bincount(product, clicks) + prior.alpha) / (np.bincount(product, impressions) + kappa)
    clicks, impressions = clicks + kappa * centre[product], impressions + kappa
    product_rate = np.bincount(product, clicks) / np.bincount(product, impressions)
    return np.log(clicks / impressions) - np.log(product_rate[product])


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
