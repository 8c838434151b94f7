"""Country pairs of one item (Eq. 15's C2(S_i)), counted per item in closed form.

Legend: R rows (one per item x market), I items, M the largest number of markets of an item.
Paper: CountryReward, section 4.1, Eq. 15; the discordant and concordant parts are ours (docs/method.md).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def per_item(values: NDArray, item: Ints, n_items: int) -> Floats:
    """Sum of values [R] over the rows of each item [I]; item [R] holds codes 0..I-1."""
    return np.bincount(item, weights=values, minlength=n_items).astype(np.float64)


def padded(values: NDArray, item: Ints, n_items: int) -> tuple[NDArray, NDArray[np.bool_]]:
    """Rows [R] laid out as one line per item [I, M], and which cells are real [I, M]; the others hold 0."""
    order = np.argsort(item, kind="stable")
    sizes = np.bincount(item, minlength=n_items)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(item.size) - starts[item[order]]
    width = int(sizes.max(initial=0))
    table = np.zeros((n_items, width), dtype=values.dtype)
    valid = np.zeros((n_items, width), dtype=bool)
    table[item[order], place] = values[order]
    valid[item[order], place] = True
    return table, valid


def right_pair_sums(label: NDArray, right: NDArray, item: Ints, n_items: int) -> dict[str, Floats]:
    """Eq. 15, numerator and denominator per item, and their split into discordant and concordant country pairs.

    label [R] is 1 for A, 0 for B; rows of a tie (.5) are left out. right [R] is I(y_hat = y). With n markets of which r are
    right, Eq. 15 counts r(r-1)/2 of n(n-1)/2; with n_A labels A of which r_A right, n_B and r_B likewise, the discordant part is
    r_A r_B of n_A n_B and the concordant part is what remains. Returns counts per item, each [I].
    """
    is_a, is_b = (label == 1).astype(np.float64), (label == 0).astype(np.float64)
    is_right = right.astype(np.float64)
    n_a = per_item(is_a, item, n_items)
    n_b = per_item(is_b, item, n_items)
    r_a = per_item(is_a * is_right, item, n_items)
    r_b = per_item(is_b * is_right, item, n_items)
    pairs = _choose_2(n_a + n_b)
    both = _choose_2(r_a + r_b)
    return {
        "pairs": pairs,
        "pairs_right": both,
        "discordant": n_a * n_b,
        "discordant_right": r_a * r_b,
        "concordant": pairs - n_a * n_b,
        "concordant_right": both - r_a * r_b,
    }


def ordered_pair_sums(label: NDArray, logit: Floats, item: Ints, n_items: int) -> Floats:
    """Discordant country pairs of each item [I] whose two logits are in the order of their labels; ours.

    For markets j, k with y_j = A, y_k = B (a tie, .5, is neither) the pair counts 1 if logit_j > logit_k, 1/2 if equal, else 0.
    Equal logits count half so that a market-blind judge and a coin both get exactly .5 of them.
    """
    decided = label != 0.5
    labels, valid = padded(label.astype(np.int8)[decided], item[decided], n_items)
    logits, _ = padded(logit[decided], item[decided], n_items)
    ordered = np.zeros(n_items)
    for j in range(labels.shape[1]):  # at most about 20 markets: a loop over places, each step vectorised over items
        for k in range(j + 1, labels.shape[1]):
            direction = (labels[:, j] - labels[:, k]) * (valid[:, j] & valid[:, k])  # 0: concordant or not there
            agreement = np.sign(logits[:, j] - logits[:, k]) * direction
            ordered += np.where(direction == 0, 0.0, (1 + agreement) / 2)
    return ordered


def _choose_2(n: Floats) -> Floats:
    return n * (n - 1) / 2
