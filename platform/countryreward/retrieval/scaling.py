"""How long a knowledge base takes on so many nodes: a cost model of four terms, fitted to builds that were timed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, kw_only=True)
class ScalingModel:
    """T(n) = start + serial + work / n + per_node * n, in seconds, on n nodes that have one encoder each."""

    start: float
    """Until the first encoder can work, whatever comes after: measured, not fitted."""
    serial: float
    """What one process does alone: tables, array files, the publish."""
    work: float
    """What the encoders share: its seconds on one node."""
    per_node: float
    """What each node adds: one more actor to start, one more sender to take results from."""

    def seconds(self, nodes: int) -> float:
        """T(n)."""
        return self.start + self.serial + self.work / nodes + self.per_node * nodes

    def most_nodes(self) -> float:
        """sqrt(work / per_node), where T(n) is least: more nodes make the build slower. Infinite where nodes add nothing."""
        return float(np.sqrt(self.work / self.per_node)) if self.per_node > 0 else float("inf")


def fit_scaling(nodes: Sequence[int], seconds: Sequence[float], *, start: float) -> ScalingModel:
    """Least squares over builds of `seconds` on `nodes`, no coefficient below 0. Raises `ValueError` below three node counts.

    Errors count as shares of the time measured, or the slow builds on few nodes would decide alone.
    """
    if len(set(nodes)) < 3:
        raise ValueError(f"nodes: {sorted(set(nodes))} cannot tell three terms apart; time at least three node counts")
    n, t = np.asarray(nodes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    terms = np.stack([np.ones_like(n), 1 / n, n], axis=1)
    serial, work, per_node = nnls(terms / t[:, None], (t - start) / t)[0]
    return ScalingModel(start=start, serial=float(serial), work=float(work), per_node=float(per_node))
