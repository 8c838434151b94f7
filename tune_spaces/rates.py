"""Peak learning rates of the parts (Appendix G), around the tiny preset's: as many draws as `sweep.samples` says.

Also for Optuna (`sweep.searcher=optuna`), which draws where it went well.
"""

from typing import Any


def space() -> dict[str, Any]:
    """Independent draws, uniform in the logarithm."""
    from ray import tune

    return {
        "learning_rates.llm": tune.loguniform(1e-4, 3e-3),
        "learning_rates.merger": tune.loguniform(1e-4, 3e-3),
        "learning_rates.adapter": tune.loguniform(1e-3, 2e-2),
        "learning_rates.classifier": tune.loguniform(1e-3, 3e-2),
        "reward.focus_weight": tune.loguniform(0.01, 1.0),
    }
