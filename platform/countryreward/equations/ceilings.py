"""How well can anyone do? Expected metrics of a judge who knows the true preference probabilities.

q [R] is P(the observed label is A | truth) of one item in one market. Labels of different markets are independent
given the truth. The expectations come as the same sums per item as the metrics', so `metrics_of` and the bootstrap
apply to them unchanged; a metric's ceiling is then a ratio of expectations. Ours (docs/method.md).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom

from countryreward.equations.country_pairs import Floats, Ints, padded, per_item
from countryreward.equations.metrics import Sums


def informed_answers(q: Floats) -> NDArray[np.bool_]:
    """The accuracy-optimal judge [R]: A where q >= .5."""
    return q >= 0.5


def blind_answers(q: Floats, item: Ints, n_items: int) -> NDArray[np.bool_]:
    """The best judge that ignores the market [R]: one answer per item, A where the mean of its markets' q >= .5.

    The mean is compared as a sum against half the count with a hair's tolerance, so that q and 1 - q cancel to a tie.
    """
    surplus = per_item(q - 0.5, item, n_items)
    return (surplus >= -1e-12)[item]


def expected_item_sums(q: Floats, answers: NDArray[np.bool_], score: Floats, item: Ints, n_items: int) -> Sums:
    """Expected sums per item [I] of a judge with these answers [R] and this score [R] to order markets by.

    P(right) is q where the answer is A, else 1 - q.
    accuracy                sum P(right) / rows; for the informed judge the mean of max(q, 1 - q)
    balanced_accuracy       sum q [answer A] / sum q, and sum (1 - q) [answer B] / sum (1 - q), averaged
    sensitivity             sum over country pairs of P(right_j) P(right_k) / country pairs
    discordant_sensitivity  sum over country pairs with different answers of P(right_j) P(right_k)
                            / sum over country pairs of q_j (1 - q_k) + (1 - q_j) q_k: both right and the labels
                            differ only if the answers differ
    discordant_ordering     per country pair q_j (1 - q_k) if score_j > score_k, (1 - q_j) q_k if below, half of both
                            if equal, over the same denominator; with score = q that is the larger of the two
    """
    p_right = np.where(answers, q, 1 - q)
    sums: Sums = {
        "rows": per_item(np.ones_like(q), item, n_items),
        "right": per_item(p_right, item, n_items),
        "rows_a": per_item(q, item, n_items),
        "right_a": per_item(q * answers, item, n_items),
    }
    names = ("pairs", "pairs_right", "discordant", "discordant_right", "discordant_ordered")
    sums |= {name: np.zeros(n_items) for name in names}
    qs, valid = padded(q, item, n_items)
    rights, _ = padded(p_right, item, n_items)
    letters, _ = padded(answers, item, n_items)
    scores, _ = padded(score, item, n_items)
    for j in range(qs.shape[1]):
        for k in range(j + 1, qs.shape[1]):
            there = (valid[:, j] & valid[:, k]).astype(float)
            a_then_b = qs[:, j] * (1 - qs[:, k]) * there
            b_then_a = (1 - qs[:, j]) * qs[:, k] * there
            both = rights[:, j] * rights[:, k] * there
            up = (1 + np.sign(scores[:, j] - scores[:, k])) / 2
            sums["pairs"] += there
            sums["pairs_right"] += both
            sums["discordant"] += a_then_b + b_then_a
            sums["discordant_right"] += both * (letters[:, j] != letters[:, k])
            sums["discordant_ordered"] += up * a_then_b + (1 - up) * b_then_a
    sums["concordant"] = sums["pairs"] - sums["discordant"]
    sums["concordant_right"] = sums["pairs_right"] - sums["discordant_right"]
    return sums


def noise_ceiling_sums(q: Floats, item: Ints, n_items: int) -> Sums:
    """Expected sums of the judge who knows q: what the noise of the labels leaves to win."""
    return expected_item_sums(q, informed_answers(q), q, item, n_items)


def market_blind_ceiling_sums(q: Floats, item: Ints, n_items: int) -> Sums:
    """Expected sums of the judge who knows q and must give one answer per item, the same in every market."""
    return expected_item_sums(q, blind_answers(q, item, n_items), np.zeros_like(q), item, n_items)


EXACT_BELOW_CLICKS = 50.0
"""Below this many expected clicks on either side `label_probability` sums both binomials, not approximates."""


def label_probability(ctr_a: Floats, ctr_b: Floats, n_a: NDArray, n_b: NDArray) -> Floats:
    """q [R] = P(observed CTR_A > CTR_B | not equal), true CTRs as shares [R] or scalars, impressions n_a, n_b >= 1.

    Clicks are independent binomials. With few clicks the lattice decides: with n_a = 1000 and n_b = 1003 equal clicks
    make A the winner, and 5 expected clicks are equal one time in eight. So below EXACT_BELOW_CLICKS it is the exact
    sum over A's clicks. Above, the difference of the observed rates is normal with mean ctr_a - ctr_b and variance
    sum of ctr (1 - ctr) / n, on a lattice of step gcd(n_a, n_b) / (n_a n_b): the half step on either side of 0 is a
    tie. Ties are conditioned away. Where approximated it is within .01 of the exact sum (tests/unit/test_ceilings.py).
    Without variance (both rates 0 or 1) it is 1, 0, or .5 when equal.
    """
    a, b, m, n = np.broadcast_arrays(
        np.atleast_1d(ctr_a).astype(float), np.atleast_1d(ctr_b).astype(float), np.asarray(n_a), np.asarray(n_b)
    )
    m, n = m.astype(np.int64), n.astype(np.int64)
    variance = a * (1 - a) / m + b * (1 - b) / n
    sd = np.sqrt(np.where(variance > 0, variance, 1.0))
    half_step = np.gcd(m, n) / (m.astype(float) * n) / 2
    above, below = ndtr((a - b - half_step) / sd), ndtr((b - a - half_step) / sd)
    few = np.minimum(a * m, b * n) < EXACT_BELOW_CLICKS
    for rows in np.array_split(np.flatnonzero(few), max(1, int(few.sum()) // 5_000)):  # bounds the [rows, clicks] table
        if rows.size:
            above[rows], below[rows] = _exact_order(a[rows], b[rows], m[rows], n[rows])
    certain = (np.sign(a - b) + 1) / 2
    return np.where(variance > 0, above / np.maximum(above + below, 1e-300), certain)


def _exact_order(a: Floats, b: Floats, m: NDArray, n: NDArray) -> tuple[Floats, Floats]:
    """(P(X/m > Y/n), P(X/m < Y/n)) [R] for X ~ Binomial(m, a), Y ~ Binomial(n, b), summed over the fewer clicks."""
    swap = a * m > b * n
    p, q = np.where(swap, b, a), np.where(swap, a, b)  # the side summed over, and the other
    size, other = np.where(swap, n, m), np.where(swap, m, n)
    spread = 8 * np.sqrt(size * p) + 12  # beyond it lies less than 1e-9 of a binomial
    first = np.maximum(0, np.floor(size * p - spread)).astype(np.int64)
    clicks = first[:, None] + np.arange(int(2 * spread.max(initial=0)) + 2)  # [R, clicks]
    weight = binom.pmf(clicks, size[:, None], p[:, None])
    equal, remainder = np.divmod(clicks * other[:, None], size[:, None])  # Y = equal is a tie where nothing remains
    lower = binom.cdf(equal - (remainder == 0), other[:, None], q[:, None])
    higher = binom.sf(equal, other[:, None], q[:, None])
    wins, losses = (weight * lower).sum(1), (weight * higher).sum(1)
    return np.where(swap, losses, wins), np.where(swap, wins, losses)
