"""Configs of the training room. Standard library only; rates are those of `models/reward_config.py`."""

from dataclasses import dataclass
from typing import Literal

from countryreward.errors import UserError


@dataclass(kw_only=True)
class LoopConfig:
    """The optimisation (Appendix G; warm-up and weight decay are ours)."""

    epochs: int = 3
    """Passes over the training records."""
    most_minutes: float = 0.0
    """Stop at the end of the schedule that fits into so many minutes, measured on the first steps; 0: all epochs."""
    batch_size: int = 8
    """Records per worker and forward pass."""
    accumulation: int = 2
    """Forward passes per optimizer step."""
    warmup: float = 0.03
    """Share of the steps that warm up."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and activations."""
    engine: Literal["torch", "deepspeed"] = "deepspeed"
    """Who steps: plain torch (DistributedDataParallel on several workers), or DeepSpeed ZeRO."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed: what is sharded (1 optimizer states, 2 gradients too, 3 weights too)."""
    log_every: int = 20
    """Optimizer steps between log lines."""
    validations: int = 8
    """How often to validate, the end included."""
    seed: int = 0
    """Of the order of records and of new weights."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "log_every", "validations"):
            if getattr(self, name) < 1:
                raise UserError(f"loop.{name}: {getattr(self, name)} must be at least 1")
        if not 0 <= self.warmup < 1:
            raise UserError(f"loop.warmup: {self.warmup} must be in [0, 1)")
