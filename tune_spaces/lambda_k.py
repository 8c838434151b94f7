"""Lambda of Eq. 11 against the k of both retrieval stages (Eq. 1): 3 x 2 x 2 trials."""

from typing import Any


def space() -> dict[str, Any]:
    """Every combination, in this order."""
    from ray import tune

    return {
        "reward.focus_weight": tune.grid_search([0.0, 0.1, 0.3]),
        "search.text_k": tune.grid_search([32, 127]),
        "search.image_k": tune.grid_search([10, 39]),
    }
