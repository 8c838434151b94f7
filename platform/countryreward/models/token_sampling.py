"""Sampling that does not depend on who else is in the batch.

Legend: B rows, V words.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):
    """Greedy search on what this returns is sampling: Gumbel noise, one generator per row (the Gumbel-max trick).

    So a row's answer follows from its prompt and its seed, whatever batch it is in (up to rounding of the logits).
    """

    def __init__(self, seeds: Sequence[int], *, temperature: float, top_p: float) -> None:
        """temperature: 0 takes the likeliest word. top_p: words beyond this much probability are left out; 1: none is."""
        self.temperature, self.top_p = temperature, top_p
        self.draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """scores: logits [B, V]."""
        assert len(scores) == len(self.draws), "one seed per row"
        if self.temperature == 0:
            return scores
        logits_BV = scores.float() / self.temperature
        if self.top_p < 1:
            ordered, order = logits_BV.sort(dim=-1, descending=True)
            shares = ordered.softmax(-1)
            ordered[shares.cumsum(-1) - shares >= self.top_p] = -torch.inf  # the likeliest one always stays
            logits_BV = torch.empty_like(logits_BV).scatter_(1, order, ordered)
        uniform_BV = torch.stack([torch.rand(scores.shape[1], generator=draw) for draw in self.draws])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-20, 1 - 1e-7)))
        return logits_BV + noise_BV.to(scores.device)
