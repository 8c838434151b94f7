"""Several images of one product put in order, from the verdicts of their pairs."""

from collections.abc import Sequence

import numpy as np

from countryreward.scoring.contracts import Ranking, Verdict


def ranking(market: str, images: int, judged: Sequence[tuple[int, int, Verdict]]) -> Ranking:
    """judged: (position of A, position of B, verdict) of every pair of so many images, in one market."""
    wins = np.full((images, images), np.nan)
    for a, b, verdict in judged:
        calibrated = verdict.calibrated_probability
        wins[a, b] = verdict.probability if calibrated is None else calibrated
        wins[b, a] = 1 - wins[a, b]
    shares = np.nanmean(wins, axis=1) if judged else np.full(images, 0.5)
    return Ranking(
        market=market,
        order=tuple(int(i) for i in np.argsort(-shares, kind="stable")),
        win_share=tuple(float(share) for share in shares),
        verdicts=tuple(judged),
    )
