"""Does the answer follow the image when A and B change places?"""

from typing import Any, Literal

import numpy as np
import pandas as pd

from countryreward.equations.metrics import swap_consistency
from countryreward.evaluation.statistics import bootstrap_totals, interval, unit_weights


def swap_interval(
    rows: pd.DataFrame,
    logit_ab: np.ndarray,
    logit_ba: np.ndarray,
    *,
    unit: Literal["product", "image"],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Swap consistency with its bootstrap interval over products (or images), and the rows asked."""
    names = [rows["product_id"]] if unit == "product" else [rows["hash_a"], rows["hash_b"]]
    weights = unit_weights(*[name.to_numpy(str) for name in names], draws=draws, seed=seed)
    same = (np.sign(logit_ab) == -np.sign(logit_ba)).astype(float)
    drawn = bootstrap_totals({"": {"same": same, "rows": np.ones(len(same))}}, weights)[""]
    with np.errstate(invalid="ignore"):
        return interval(swap_consistency(logit_ab, logit_ba), drawn["same"] / drawn["rows"]) | {"n": len(same)}
