"""Several images of one product put in order, from the verdicts of their pairs."""

from collections.abc import Sequence

import numpy as np

from countryreward.scoring.contracts import Ranking, ScoreRequest, Verdict


def ranking(market: str, images: int, judged: Sequence[tuple[int, int, Verdict]]) -> Ranking:
    """judged: (position of A, position of B, verdict) of every pair of so many images, in one market."""
    wins = np.full((images, images), np.nan)
    for a, b, verdict in judged:
        wins[a, b] = verdict.stated_probability
        wins[b, a] = 1 - wins[a, b]
    shares = np.nanmean(wins, axis=1) if judged else np.full(images, 0.5)
    return Ranking(
        market=market,
        order=tuple(int(i) for i in np.argsort(-shares, kind="stable")),
        win_share=tuple(float(share) for share in shares),
        verdicts=tuple(judged),
    )


def rankings(request: ScoreRequest, verdicts: Sequence[Verdict]) -> list[Ranking]:
    """One ranking of the request's creatives per market. verdicts: in the order of the request's questions."""
    rest = iter(verdicts)
    return [
        ranking(market, len(request.creatives), [(a, b, next(rest)) for a, b in request.pairs])
        for market in request.market_codes()
    ]
