"""What is planned. Standard library only, so that `--help` is quick."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError
from countryreward.models.reward_config import LoraOptions, RewardOptions, preset
from countryreward.training.training_config import LoopConfig

PAPER_HOURS, PAPER_PAIRS_PER_SECOND, PAPER_GPUS, PAPER_EPOCHS = 20.0, 34.3, 8, 3
"""Appendix G: about 20 hours on 8 x A100, 3 epochs; 34.3 pairs/s together, 4.29 each."""
PAPER_RECORDS = round(PAPER_HOURS * 3600 * PAPER_PAIRS_PER_SECOND / PAPER_EPOCHS, -2)
"""Records of the paper's training set, derived: 20 h x 34.3 pairs/s / 3 epochs."""
PAPER_TEXT_TOKENS = 200
"""Tokens of a pair's prompt that are no image: the reference workload's 712 less 2 x 256 visual tokens at 448 px."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, by its datasheet."""

    name: str
    """Product and gigabytes, as `--gpus` writes it."""
    memory_gib: float
    """Memory as CUDA reports it."""
    bf16_tflops: float
    """Dense bfloat16 matrix products, TFLOP/s; without sparsity."""
    fp32_tflops: float
    """float32 without TF32, which is PyTorch's default."""
    bandwidth_tb: float
    """Memory bandwidth, TB/s."""


DEVICES = {
    device.name: device
    for device in (
        Device(name="A100-40", memory_gib=39.4, bf16_tflops=312, fp32_tflops=19.5, bandwidth_tb=1.56),
        Device(name="A100-80", memory_gib=79.2, bf16_tflops=312, fp32_tflops=19.5, bandwidth_tb=2.04),
        Device(name="H100-80", memory_gib=79.1, bf16_tflops=989, fp32_tflops=67, bandwidth_tb=3.35),
        Device(name="H200-141", memory_gib=139.8, bf16_tflops=989, fp32_tflops=67, bandwidth_tb=4.8),
        Device(name="B200-180", memory_gib=178, bf16_tflops=2250, fp32_tflops=80, bandwidth_tb=8.0),
        Device(name="L40S-48", memory_gib=44.4, bf16_tflops=362, fp32_tflops=91.6, bandwidth_tb=0.864),
        Device(name="L4-24", memory_gib=22.0, bf16_tflops=121, fp32_tflops=30, bandwidth_tb=0.30),
        Device(name="A10G-24", memory_gib=22.1, bf16_tflops=70, fp32_tflops=35, bandwidth_tb=0.60),
        Device(name="RTX4090-24", memory_gib=23.5, bf16_tflops=165, fp32_tflops=82.6, bandwidth_tb=1.01),
    )
}
"""The datasheets' SXM versions where there are several."""
HERE = "here"


def gpus(text: str) -> tuple[int, Device]:
    """`8xA100-80` -> (8, that device). Raises `UserError` for what is not in the table."""
    match = re.fullmatch(r"(?:(\d+)\s*x\s*)?(.+)", text.strip(), re.IGNORECASE)
    count = int(match[1] or 1) if match else 0
    named = {name.lower(): device for name, device in DEVICES.items()}
    device = named.get(match[2].strip().lower()) if match else None
    if device is None or count < 1:
        raise UserError(
            f"--gpus: {text!r} is unknown; write here, or a count and one of {', '.join(DEVICES)}, such as 8xA100-80"
        )
    return count, device


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A training, as far as its cost depends on it."""

    preset: str = "qwen2-vl-7b"
    """Shape, picture size and loop, as in `RewardTraining`."""
    gpus: str = "8xA100-80"
    """Count and device (see `DEVICES`), or `here`: this machine, with its speed measured."""
    pairs: int = 0
    """Records of the training set; 0: the paper's, derived (`PAPER_RECORDS`)."""
    image_px: int = 0
    """Side of a picture; 0: the preset's."""
    text_tokens: int = 0
    """Prompt tokens that are no image; 0: the paper's 200, or for `tiny` a sample prompt's."""
    features: Literal["stored", "decoded"] = "stored"
    """stored: the tower runs before the training and not in it. decoded: it runs in every step, as in the paper."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The optimisation."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes."""

    def __post_init__(self) -> None:
        chosen = preset(self.preset)
        if self.gpus != HERE:
            gpus(self.gpus)
        if self.pairs < 0 or self.text_tokens < 0:
            raise UserError(f"--pairs, --text_tokens: {self.pairs}, {self.text_tokens} must be at least 0")
        if self.image_px % 28 or self.image_px < 0:
            raise UserError(f"--image_px: {self.image_px} is not a multiple of 28; write 112, 448, ... or 0")
        if self.features not in ("stored", "decoded"):
            raise UserError(f"--features: {self.features!r} is unknown; write stored or decoded")
        object.__setattr__(self, "loop", self.loop.resolved(chosen))
        object.__setattr__(self, "reward", self.reward.resolved())

    @property
    def px(self) -> int:
        """Side of a picture."""
        return self.image_px or preset(self.preset).image_px

    @property
    def records(self) -> int:
        """Records of the training set."""
        return self.pairs or int(PAPER_RECORDS)

    @property
    def rows_per_pair(self) -> int:
        """Passes of the language model per pair and step: 2 where both orders are asked."""
        both = self.reward.option("antisymmetric") == "on" and self.loop.value("orders") == "both"
        return 2 if both else 1

    def with_loop(self, **changes: object) -> "PlanOptions":
        """The same with another loop."""
        return dataclasses.replace(self, loop=dataclasses.replace(self.loop, **changes))
