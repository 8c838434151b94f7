"""The words of simulated ads (level `delivered`): headlines whose opening each market likes a little more or less."""

from collections.abc import Sequence

import numpy as np

from countryreward.data.marketplace.random_streams import stream

OPENINGS: tuple[str, ...] = (
    "New in", "Loved by thousands", "This week only", "Made to last", "The perfect gift", "Best value",
)  # fmt: skip
"""How a headline begins; the product's title follows."""

BODY = "Free returns within 30 days."
CALL_TO_ACTION = "Shop now"

_LIKING_SD = 0.08  # log-odds, a third of what pictures of one product differ by


def headline(opening: str, title: str) -> str:
    """The headline of an ad, such as "New in: Alder stoneware mug"."""
    return f"{opening}: {title}"


def opening_liking(openings: Sequence[str], market: str, *, world_seed: int) -> np.ndarray:
    """Log-odds [N] that each opening adds to a click in a market; an empty one, an ad without words, adds nothing."""
    liking = _LIKING_SD * stream(world_seed, f"headlines {market}").standard_normal(len(OPENINGS))
    of = {"": 0.0, **dict(zip(OPENINGS, liking.tolist(), strict=True))}
    return np.array([of[opening] for opening in openings])
