"""Section 3.1.1 (CC-RAG), Eq. 1-3, and Appendix F of the CountryReward paper, on numpy arrays.

Legend: K entries, n neighbours. Neighbour i = 1..n is the pair (i-th of N_A, i-th of N_B), best first.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def canonical_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> Floats:
    """Inner products q . T of Eq. 1, [K, D] x [D] -> [K] float64; several queries [Q, D] -> [Q, K].

    Each row is summed by itself in float64 (no BLAS), so the score of an entry does not depend on which other entries are
    scored beside it, and equal vectors have exactly equal scores.
    """
    queries = np.atleast_2d(query).astype(np.float64)
    scores = np.empty((len(queries), len(vectors)))
    block = np.empty((min(_BLOCK, len(vectors)), vectors.shape[1]))
    for start in range(0, len(vectors), _BLOCK):
        wide = vectors[start : start + _BLOCK].astype(np.float64)
        products = block[: len(wide)]
        for row, vector in zip(scores, queries, strict=True):
            np.multiply(wide, vector, out=products).sum(axis=1, out=row[start : start + _BLOCK])
    return scores if query.ndim == 2 else scores[0]


_BLOCK = 32
"""Rows scored at a time: few enough to stay in the processor's cache, and no large array is made and thrown away."""


def top(scores: Floats, ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Top-k of Eq. 1: positions of the k best, score descending, id ascending. [K], [K] -> [min(k, K)]."""
    if len(scores) <= k:
        return np.lexsort((ids, -scores))
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    best = np.flatnonzero(scores >= kth)  # only these are sorted: k, or more where several share the last place
    return best[np.lexsort((ids[best], -scores[best]))[:k]]


def position_weights(n: int, kind: str) -> Floats:
    """Weights w_i of Eq. 2 for i = 1..n -> [n].

    `n-i` is the paper's letter: the last neighbour counts nothing, and one neighbour alone would weigh nothing, so n = 1
    weighs 1. `n-i+1` is the repaired reading.
    """
    rank = np.arange(1, n + 1, dtype=np.float64)
    if kind == "n-i":
        return n - rank if n > 1 else np.ones(n)
    assert kind == "n-i+1", kind
    return n - rank + 1


def votes(evidence_a: Floats, evidence_b: Floats, *, vote: str, ties: str) -> Floats:
    """s_i of Eq. 2, the vote of each neighbour for A in [0, 1]. [n], [n] -> [n].

    `vote`: `indicator` is I[CTR_A >= CTR_B], the paper; `logistic` is sigma(evidence_A - evidence_B), which for lifts (log
    rates) is rate_A / (rate_A + rate_B). `ties` (only for the indicator): `letters` gives a tie to A, `half` splits it.
    """
    if vote == "logistic":
        return 1 / (1 + np.exp(np.clip(evidence_b - evidence_a, -700, 700)))
    assert vote == "indicator", vote
    for_a: Floats = np.asarray(evidence_a > evidence_b, dtype=np.float64)
    for_a[evidence_a == evidence_b] = 1.0 if ties == "letters" else 0.5
    return for_a


def votes_for_b(evidence_a: Floats, evidence_b: Floats, *, vote: str, ties: str) -> Floats:
    """The other side of Eq. 2: 1 - s_i, computed so that swapping A and B is exact to the last bit. [n], [n] -> [n]."""
    if vote == "indicator" and ties == "letters":
        return np.asarray(evidence_b > evidence_a, dtype=np.float64)
    return votes(evidence_b, evidence_a, vote=vote, ties=ties)


def preference_scores(weights: Floats, for_a: Floats, for_b: Floats) -> tuple[float, float]:
    """S_A and S_B of Eq. 2 (they sum to 1). [n] each. No neighbour: (0.5, 0.5)."""
    total = weights.sum()
    if total == 0:
        return 0.5, 0.5
    return float((weights * for_a).sum() / total), float((weights * for_b).sum() / total)


def letter(score_a: float, score_b: float, *, ties: str) -> str | None:
    """y_aug of Eq. 3: A if S_A > S_B, else B. With `ties = half` an exact tie has no letter (None)."""
    if score_a == score_b and ties == "half":
        return None
    return "A" if score_a > score_b else "B"


def log_odds(weights: Floats, for_a: Floats, for_b: Floats) -> float:
    """The prior of method.md: log-odds of (sum w s + a) / (sum w + 2a), a = mean weight. [n] each.

    The pseudo-votes a keep a unanimous vote finite; no neighbour gives exactly 0. Swapping A and B negates it exactly, save for
    CTR ties under `ties = letters`, which always go to A.
    """
    if len(weights) == 0:
        return 0.0
    pseudo = weights.mean()
    return float(np.log((weights * for_a).sum() + pseudo) - np.log((weights * for_b).sum() + pseudo))


def cumulative_decay(mean_similarity: Floats) -> Floats:
    """Appendix F: (s_1 - s_k) / (s_1 - s_K) for k = 1..K, s_k = mean similarity at rank k. [K] -> [K]. Flat list: zeros."""
    span = mean_similarity[0] - mean_similarity[-1]
    return (mean_similarity[0] - mean_similarity) / span if span > 0 else np.zeros_like(mean_similarity)


def choose_k(mean_similarity: Floats, *, threshold: float = 0.8) -> int:
    """Appendix F: the smallest k whose cumulative decay reaches `threshold`; K itself when the list is flat. [K] -> k."""
    reached = np.flatnonzero(cumulative_decay(mean_similarity) >= threshold)
    return int(reached[0]) + 1 if len(reached) else len(mean_similarity)
