"""Is a stated probability kept? Brier score, log loss, calibration error, reliability curve.

Legend: R rows, I items, K bins; `...` any leading shape, for instance bootstrap draws. p is P(A), y is 1 for A.
Bins are of equal width on [0, 1]: fixed edges make every sum additive over rows, so the bootstrap can reweight them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from countryreward.equations.country_pairs import Floats, Ints

BINS = 10
"""K: the number of equal-width bins of the calibration error and of the reliability curve."""


def brier_terms(label: NDArray, logit: Floats) -> Floats:
    """(p - y)^2 per row [R], p = sigmoid(logit) (Brier 1950, one class); of a tie (.5) the mean over both winners."""
    p = expit(logit)
    return label * (p - 1) ** 2 + (1 - label) * p**2


def log_loss_terms(label: NDArray, logit: Floats) -> Floats:
    """-log P(y) per row [R] in nats: log(1 + exp(-s logit)), s = +1 for A and -1 for B (Eq. 9's BCE on hard labels).

    Of a tie (.5) the mean over both winners.
    """
    return label * np.logaddexp(0.0, -logit) + (1 - label) * np.logaddexp(0.0, logit)


def fit_temperature(label: NDArray, logit: Floats) -> float:
    """The T > 0 whose logits / T have the least log loss on rows [R] (Guo et al. 2017, temperature scaling); in [.05, 20].

    One number for all markets: it changes no letter and no order. 1.0 where there is no row, or every logit is 0.
    """
    from scipy.optimize import minimize_scalar

    if logit.size == 0 or not np.any(logit):
        return 1.0

    def loss(log_t: float) -> float:
        return float(log_loss_terms(label, logit / np.exp(log_t)).mean())

    optimum = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(optimum.x))  # pyright: ignore[reportAttributeAccessIssue]


def bin_sums(label: NDArray, logit: Floats, item: Ints, n_items: int, bins: int = BINS) -> dict[str, Floats]:
    """Per item and bin [I, K]: rows, sum of p, sum of y. The last bin includes p = 1."""
    p = expit(logit)
    cell = item * bins + np.minimum((p * bins).astype(np.int64), bins - 1)
    size = n_items * bins

    def table(weights: NDArray | None) -> Floats:
        return np.bincount(cell, weights=weights, minlength=size).astype(np.float64).reshape(n_items, bins)

    return {"bin_rows": table(None), "bin_p": table(p), "bin_y": table(label.astype(np.float64))}


def expected_calibration_error(rows: Floats, p: Floats, y: Floats) -> Floats:
    """ECE [...] = sum_b n_b/N |mean p_b - mean y_b| (Naeini et al. 2015) from bin totals [..., K]; NaN without rows.

    Its expectation is above 0 even for a perfectly calibrated judge: the noise of each bin's mean counts as error.
    """
    share, gap, _ = _bins(rows, p, y)
    return np.where(rows.sum(-1) > 0, (share * gap).sum(-1), np.nan)


def debiased_calibration_error(rows: Floats, p: Floats, y: Floats) -> Floats:
    """ECE less its estimated bias [...], from bin totals [..., K]; may be below 0, NaN without rows.

    Kumar, Liang and Ma 2019, "Verified Uncertainty Calibration", whose published code (`normal_debiased_ce`) takes
    2 ECE - E[ECE*], where in ECE* each bin's mean y is redrawn from Normal(mean y_b, mean y_b (1 - mean y_b) / n_b).
    For a perfectly calibrated judge that takes away 41 % of the bias, for a badly calibrated one there is none.
    They draw; the expectation of |Normal(g, s^2)| is a folded normal's mean, s sqrt(2/pi) exp(-g^2/2s^2) +
    g (1 - 2 Phi(-g/s)), so we write it down. Rows are taken as independent: markets of one item are not quite.
    """
    share, gap, sd = _bins(rows, p, y)
    safe = np.where(sd > 0, sd, 1.0)
    folded = safe * np.sqrt(2 / np.pi) * np.exp(-((gap / safe) ** 2) / 2) + gap * (1 - 2 * ndtr(-gap / safe))
    expected = np.where(sd > 0, folded, gap)
    return np.where(rows.sum(-1) > 0, (share * (2 * gap - expected)).sum(-1), np.nan)


def reliability_curve(rows: Floats, p: Floats, y: Floats) -> list[dict[str, float]]:
    """One point per bin with rows, from totals [K]: mean stated p, observed share of A, its 95 % Wilson bounds, n."""
    z = 1.959963984540054
    curve = []
    for n, sum_p, sum_y in zip(rows, p, y, strict=True):
        if n == 0:
            continue
        mean = sum_y / n
        centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
        low, high = (
            max(0.0, min(centre - half, mean)),
            min(1.0, max(centre + half, mean)),
        )  # rounding may cross the mean
        point = {"p": sum_p / n, "observed": mean, "low": low, "high": high, "n": n}
        curve.append({key: float(value) for key, value in point.items()})
    return curve


def _bins(rows: Floats, p: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Share of rows, |mean p - mean y| and the sd of mean y, per bin [..., K]; all 0 in an empty bin."""
    n = np.where(rows > 0, rows, 1.0)
    mean_y = np.clip(y / n, 0.0, 1.0)
    total = np.maximum(rows.sum(-1, keepdims=True), 1e-300)
    return rows / total, np.abs(p - y) / n, np.sqrt(mean_y * (1 - mean_y) / n) * (rows > 0)


def calibration_errors(totals: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """(ECE, debiased ECE) from the totals of `bin_sums`."""
    parts = totals["bin_rows"], totals["bin_p"], totals["bin_y"]
    return expected_calibration_error(*parts), debiased_calibration_error(*parts)
