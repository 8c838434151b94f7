"""The evaluation metrics (Eq. 15 and what it hides), as sums that add up over items.

Every metric is a ratio of sums, so it is computed in two steps: `item_sums` once per variant, then `metrics_of` on
their total. A bootstrap draw reweights the sums and never touches a row again.
Legend: R rows (item x market), I items, `...` any leading shape (bootstrap draws). Logits are log-odds of A in nats.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from countryreward.equations.calibration import bin_sums, brier_terms, calibration_errors, log_loss_terms
from countryreward.equations.country_pairs import Floats, Ints, ordered_pair_sums, per_item, right_pair_sums

Sums = dict[str, Floats]
"""Name -> sums per item, [I], or [I, K] for the calibration bins."""

RANKING_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "discordant_sensitivity",
    "concordant_sensitivity",
    "discordant_ordering",
)
"""What can be asked of letters and of an order."""

PROBABILITY_METRICS = ("brier", "log_loss", "ece")
"""What can be asked only of a judge that states probabilities."""


def predicts_a(logit: NDArray) -> NDArray[np.bool_]:
    """Eq. 9's rounding, y_hat [R]: A where P(A) = sigmoid(logit) >= .5, that is logit >= 0."""
    return logit >= 0


def row_sums(label: NDArray, logit: Floats, item: Ints, n_items: int) -> Sums:
    """Sums per item of everything that is a mean over rows. label [R]: 1 for A, 0 for B, .5 a tie; item [R] holds codes 0..I-1.

    A tie is half a row that A won and half a row that B won, so that every answer to it is half right.
    """
    is_a = label.astype(np.float64)
    says_a = predicts_a(logit).astype(np.float64)
    right = is_a * says_a + (1 - is_a) * (1 - says_a)
    return {
        "rows": per_item(np.ones_like(is_a), item, n_items),
        "right": per_item(right, item, n_items),
        "rows_a": per_item(is_a, item, n_items),
        "right_a": per_item(says_a * is_a, item, n_items),
        "brier": per_item(brier_terms(label, logit), item, n_items),
        "log_loss": per_item(log_loss_terms(label, logit), item, n_items),
        **bin_sums(label, logit, item, n_items),
    }


def item_sums(label: NDArray, logit: Floats, item: Ints, n_items: int) -> Sums:
    """Sums per item of every metric: those over rows and those over country pairs (one market once per item, ties left out)."""
    right = predicts_a(logit) == (label == 1)
    return {
        **row_sums(label, logit, item, n_items),
        **right_pair_sums(label, right, item, n_items),
        "discordant_ordered": ordered_pair_sums(label, logit, item, n_items),
    }


def total(sums: Sums) -> Sums:
    """Sums over all items."""
    return {name: values.sum(axis=0) for name, values in sums.items()}


def metrics_of(totals: Mapping[str, Floats]) -> dict[str, Floats]:
    """Every metric the totals [...] allow, each [...]; NaN where the denominator is 0.

    accuracy                mean I(y_hat = y)
    balanced_accuracy       mean of the recall of A and the recall of B
    sensitivity             Eq. 15: country pairs of one item both right / country pairs
    discordant_sensitivity  the same over country pairs whose labels differ (market-blind: exactly 0)
    concordant_sensitivity  the same over country pairs whose labels agree
    discordant_ordering     country pairs whose labels differ and whose logits are in their order (blind, coin: .5)
    discordant_share        country pairs whose labels differ / country pairs
    brier, log_loss         means over rows
    ece, ece_plain          debiased and plain calibration error (calibration.py)
    """
    t = totals
    values: dict[str, Floats] = {
        "accuracy": ratio(t["right"], t["rows"]),
        "balanced_accuracy": (
            ratio(t["right_a"], t["rows_a"]) + ratio(t["right"] - t["right_a"], t["rows"] - t["rows_a"])
        )
        / 2,
    }
    if "pairs" in t:
        values["sensitivity"] = ratio(t["pairs_right"], t["pairs"])
        values["discordant_sensitivity"] = ratio(t["discordant_right"], t["discordant"])
        values["concordant_sensitivity"] = ratio(t["concordant_right"], t["concordant"])
        values["discordant_ordering"] = ratio(t["discordant_ordered"], t["discordant"])
        values["discordant_share"] = ratio(t["discordant"], t["pairs"])
    if "brier" in t:
        values["brier"] = ratio(t["brier"], t["rows"])
        values["log_loss"] = ratio(t["log_loss"], t["rows"])
        values["ece_plain"], values["ece"] = calibration_errors(t)
    return values


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, NaN where the denominator is not above 0."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def metrics(label: NDArray, logit: Floats, item: Ints) -> dict[str, float]:
    """Every metric of one set of rows; `item` [R] may be any codes >= 0."""
    sums = item_sums(label, logit, item, int(item.max(initial=-1)) + 1)
    return {name: float(value) for name, value in metrics_of(total(sums)).items()}


def swap_consistency(logit_ab: Floats, logit_ba: Floats) -> float:
    """Share of rows whose answer follows the image when A and B change places; NaN without rows.

    Consistent: sign(logit(A, B)) = -sign(logit(B, A)). Two zeros (no evidence either way) are consistent.
    """
    if logit_ab.size == 0:
        return float("nan")
    return float(np.mean(np.sign(logit_ab) == -np.sign(logit_ba)))
