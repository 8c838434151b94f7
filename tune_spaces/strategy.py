"""How the prior enters (Table 4), with and without the country adapter (Eq. 4-6): 5 x 2 trials."""

from typing import Any


def space() -> dict[str, Any]:
    """Every combination, in this order."""
    from ray import tune

    return {
        "reward.strategy": tune.grid_search(["none", "instruct", "embedding", "scaled", "soft"]),
        "reward.adapter": tune.grid_search([True, False]),
    }
