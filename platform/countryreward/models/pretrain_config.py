"""Configs of the tiny backbone. Standard library only, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal

from countryreward.errors import UserError

PRETEXT_SEED = 10_000_000
"""The lowest seed of a pretext picture; `make_marketplace` is never given one so high."""
HELD_OUT_SEED = 20_000_000
"""The lowest seed of the pretext pictures that measure and never train."""


@dataclass(kw_only=True)
class PretrainConfig:
    """Teach the tiny Qwen2-VL to describe drawn creatives. It sees no markets and no observations."""

    out: str = "runs/backbone"
    """Folder to publish: weights, tokenizer, image processor, pretext.json."""
    start: str = ""
    """Go on from this backbone's weights and tokenizer (`shipped`: the package's); empty: from random weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast), about twice as fast on processors with AVX512-BF16 or AMX."""
    minutes: float = 8.0
    """Training time; drawing before it and measuring after it come on top. 0: measure and publish `start` as it is."""
    steps: int = 0
    """Stop after so many steps, whatever the time; 0: only the time counts."""
    images: int = 20_000
    """Pictures drawn to train on, seen several times."""
    held_out: int = 1_000
    """Pictures drawn to measure accuracy on."""
    px: int = 112
    """Width and height the model sees, in pixels; a multiple of 28. 112 gives 16 visual tokens."""
    batch: int = 64
    """Pictures per step: alone in one step, in pairs in the next."""
    learning_rate: float = 2e-3
    """Highest rate, after the warm-up; it falls to a hundredth as a cosine of the time."""
    warm_up: float = 0.04
    """Share of the training spent on raising the rate from 0."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; embeddings, norms and biases have none."""
    noise: float = 0.7
    """Standard deviation of the noise between the prompt's last state and the summary's heads, over the state's own size."""
    vocab_size: int = 2_000
    """Largest size of the tokenizer's vocabulary."""
    seed: int = 0
    """Seed of the initial weights and of the order; the pictures' seeds start at 10,000,000 and shift with it."""
    threads: int = 2
    """Processor threads for drawing and training."""
    ship: bool = False
    """Also copy the result into the package as the backbone of the `tiny` preset."""

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 0),
            ("images", 2),
            ("held_out", 1),
            ("batch", 1),
            ("vocab_size", 300),
            ("threads", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is too small; write at least {least}")
        if self.px < 28 or self.px % 28:
            raise UserError(f"px: {self.px} is not a multiple of 28; write 56, 84 or 112")
        if self.minutes < 0 or self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warm_up < 1:
            raise UserError(
                f"minutes, learning_rate, weight_decay, warm_up: {self.minutes}, {self.learning_rate}, {self.weight_decay}, "
                f"{self.warm_up}; the rate is above 0, minutes and decay at least 0, the warm-up from 0 to below 1"
            )
        if self.noise < 0:
            raise UserError(f"noise: {self.noise} must be at least 0")
        if not 0 <= self.seed < 100 or self.images > 100_000:
            raise UserError(f"seed, images: {self.seed}, {self.images}; a seed is 0 to 99, images at most 100,000")
