"""Learning-rate schedule (Appendix G: cosine; the warm-up is ours)."""

import math


def cosine_with_warmup(step: int, *, total: int, warmup_share: float) -> float:
    """Factor on every group's rate at `step` of `total`: up linearly over the warm-up, then half a cosine down to 0."""
    warmup = max(1, round(warmup_share * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
