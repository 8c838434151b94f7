"""What the paper's Table 2 counts, by our definition, and how far a writer went from its reference. On arrays.

Legend: N cases (one per product, market and draw) or designs. Table 2's caption says neither who is compared with whom nor what
its percentages are shares of; docs/method.md says what we decided.
"""

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
