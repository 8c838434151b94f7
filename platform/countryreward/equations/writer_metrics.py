"""Is a design writer better? The paper's Table 2 by our definition, the way from the reference, and diversity, which is ours.

Legend: N cases (one per product, market and draw) or designs. Table 2's caption says neither who is compared with whom nor what
its percentages are shares of; docs/method.md says what we decided. A design is given as its fields in words (foreground,
background, color tone, lighting). A *draw* is one design that a writer wrote for a (product, market); several draws have
different seeds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def preferred(probability: Floats) -> Floats:
    """1 where a judge prefers the ad (p > .5), .5 where it has no opinion (p = .5 exactly), 0 else; NaN stays. Shapes [N].

    The mean over cases is the share of Table 2. An ad against itself, or a judge that always says .5, has exactly .5.
    """
    return np.where(np.isnan(probability), np.nan, (1 + np.sign(probability - 0.5)) / 2)


def log_ratio(log_prob: Floats, log_prob_reference: Floats) -> Floats:
    """log pi(design) - log pi_ref(design), in nats, each log probability summed over the design's tokens. Shapes [N].

    Its mean over designs *sampled from pi* estimates KL(pi || pi_ref) in nats per design, without bias; single values, and
    the mean of few, may be below 0.
    """
    return log_prob - log_prob_reference


WordSets = tuple[frozenset[str], ...]
"""A design as one set of lower-case words per field."""

_WORD = re.compile(r"\w+")


def word_sets(fields: Iterable[str]) -> WordSets:
    """The fields as sets of lower-case words: runs of letters, digits and underscores. Order and repetition do not count.

    Text without spaces between words (Chinese, Japanese) is one word from one mark of punctuation to the next.
    """
    return tuple(frozenset(_WORD.findall(field.lower())) for field in fields)


def distance(first: WordSets, second: WordSets) -> float:
    """Share of words that differ, in [0, 1]: per field 1 - |words in both| / |words in either|, mean over the fields.

    Jaccard's distance. 0 exactly where every field has the same words, 1 where no field shares one. Two empty fields are equal.
    """
    return sum(_jaccard(a, b) for a, b in zip(first, second, strict=True)) / len(first)


def within_market(draws: Sequence[Sequence[WordSets]]) -> float:
    """Mean distance of two draws of one (product, market), for one product; NaN where no market has two draws.

    draws: the product's designs, a sequence per market. Every pair of draws of a market counts alike, then every market.
    """
    means = [_mean(distance(a, b) for a, b in combinations(each, 2)) for each in draws if len(each) > 1]
    return _mean(means)


def across_markets(draws: Sequence[Sequence[WordSets]], seeds: Sequence[Sequence[int]] | None = None) -> float:
    """Mean distance of two designs of one product for different markets; NaN where there is no such pair.

    draws: the product's designs, a sequence per market; every pair of markets counts alike. seeds: the writer's, shaped as
    draws. Two draws of one seed are no pair: a writer that ignores the market gives both markets the same answer to the same
    seed, and would seem to be less diverse across markets than within one.
    """
    means = []
    for first, second in combinations(range(len(draws)), 2):
        pairs = [
            distance(a, b)
            for i, a in enumerate(draws[first])
            for j, b in enumerate(draws[second])
            if seeds is None or seeds[first][i] != seeds[second][j]
        ]
        if pairs:
            means.append(_mean(pairs))
    return _mean(means)


def market_effect(across: float, within: float) -> float:
    """How much more two designs differ because their markets do: across_markets - within_market, in [-1, 1].

    A writer that ignores the market has 0 in expectation, since all its draws of a product have one distribution. Otherwise the
    expectation is not below 0: 1 - Jaccard is a distance of negative type (Gower and Legendre 1986), for which this
    difference, averaged over pairs of markets, is an energy distance (Szekely and Rizzo 2013). NaN where either is.
    """
    return across - within


def commonest(designs: Sequence[WordSets]) -> tuple[int, float]:
    """(how many different designs, share of the most frequent one); (0, NaN) without designs.

    Two designs are the same where their distance is 0. n equal designs give (1, 1.0), n different ones (n, 1 / n).
    """
    if not designs:
        return 0, float("nan")
    counted = Counter(designs)
    return len(counted), max(counted.values()) / len(designs)


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    if first == second:
        return 0.0
    both = len(first & second)
    return 1 - both / (len(first) + len(second) - both)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else float("nan")
