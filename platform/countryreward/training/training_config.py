"""Configs of the training room. Standard library only; rates are those of `models/reward_config.py`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.errors import UserError
from countryreward.models.reward_config import LearningRates, LoraOptions, Preset, RewardOptions, preset

_PAPER: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "accumulation": 2,
    "precision": "bf16",
    "orders": "both",
    "gradient_checkpointing": False,
}


@dataclass(kw_only=True)
class LoopConfig:
    """The optimisation (Appendix G; warm-up and weight decay are ours). What is left at None is the preset's."""

    epochs: float | None = None
    """Passes over the training records; a fraction stops inside one. The paper's: 3."""
    batch_size: int | None = None
    """Records per worker and forward pass. The paper's: 8."""
    accumulation: int | None = None
    """Forward passes per optimizer step. The paper's: 2."""
    precision: Literal["fp32", "bf16", "auto"] | None = None
    """bf16, the paper's: DeepSpeed keeps float32 master weights, the torch engine computes under autocast. auto: bf16 where
    every worker's device is fast at it, else fp32."""
    orders: Literal["both", "one"] | None = None
    """both: an antisymmetric model asks (A, B) and (B, A) in every step, as when it judges. one: an order drawn anew in every
    epoch for each record, which is the same in expectation and twice as many records in the time."""
    warmup: float = 0.03
    """Share of the steps that warm up."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    engine: Literal["torch", "deepspeed"] = "deepspeed"
    """Who steps: plain torch (DistributedDataParallel on several workers), or DeepSpeed ZeRO."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed: what is sharded (1 optimizer states, 2 gradients too, 3 weights too)."""
    log_every: int = 50
    """Optimizer steps between log lines."""
    validations: int = 5
    """How often to validate, the end included; the best by discordant ordering becomes the model."""
    validation_items: int = 200
    """Most pairs to validate on, each with all its markets, drawn by the seed; 0: all."""
    checkpoint_every: int = 200
    """Optimizer steps between checkpoints: what a killed run loses at most. 0: only when the run is stopped."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept while the run lasts; one that is damaged is passed over for the one before."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its two states in 8 bits (bitsandbytes; extra `quantized`)."""
    gradient_checkpointing: bool | None = None
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time. The preset
    qwen2-vl-7b does, so that it fits 80 GB; `countryreward plan` tells what it costs."""
    seed: int = 0
    """Of the order of records and of new weights."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "log_every", "validations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"loop.{name}: {value} must be at least 1")
        if self.checkpoint_every < 0 or self.keep_checkpoints < 1:
            raise UserError(
                f"loop.checkpoint_every, keep_checkpoints: {self.checkpoint_every}, {self.keep_checkpoints}; the first is at "
                "least 0, the second at least 1"
            )
        if self.epochs is not None and self.epochs <= 0:
            raise UserError(f"loop.epochs: {self.epochs} must be above 0")
        if not 0 <= self.warmup < 1:
            raise UserError(f"loop.warmup: {self.warmup} must be in [0, 1)")
        if self.validation_items < 0 or self.weight_decay < 0 or self.max_grad_norm <= 0:
            raise UserError(
                f"loop.validation_items, weight_decay, max_grad_norm: {self.validation_items}, {self.weight_decay}, "
                f"{self.max_grad_norm}; the first two are at least 0, the norm above 0"
            )

    def resolved(self, of: Preset) -> "LoopConfig":
        """The same with nothing left at None."""
        found = {name: of.loop.get(name, paper) for name, paper in _PAPER.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **found)

    def value(self, name: str) -> Any:
        """A field of a resolved config: never None."""
        found = getattr(self, name)
        assert found is not None, f"{name} is not resolved"
        return found


PATHS = ("dataset", "records", "priors", "features")
"""Fields of a RewardTraining that say where its inputs are."""


STOP = "stop"
"""File in the run folder that asks its training to write a checkpoint and end."""


@dataclass(kw_only=True)
class RewardTraining:
    """What to train on what: everything a worker needs, as paths and numbers."""

    dataset: str
    """Published dataset."""
    records: str
    """Its records."""
    priors: str
    """Priors of the records; empty: no record has one."""
    features: str
    """Feature store of the frozen tower; empty: decode and encode in every step."""
    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: backbone, picture size, rates, batch."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that images are resized to; 0: the preset's."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes."""
    rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group (merger, llm, lora, adapter, classifier, tower); what is not named is the preset's."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The optimisation."""
    trackers: list[str] = field(default_factory=list)
    """Where the numbers go beside log and TensorBoard: mlflow, wandb (extras of the same names)."""

    def __post_init__(self) -> None:
        preset(self.preset)
        names = [rate.name for rate in dataclasses.fields(LearningRates)]
        unknown = sorted(set(self.rates) - set(names))
        if unknown:
            raise UserError(f"rates: {', '.join(unknown)} is no group; write {', '.join(names)}")
        if self.image_px % 28 or self.image_px < 0:
            raise UserError(f"image_px: {self.image_px} is not a multiple of 28; write 112, 448, ... or 0")
        if self.lora.rank and self.rates.get("llm"):
            raise UserError("rates.llm: LoRA freezes the language model's own weights; set rates.lora, or lora.rank=0")
        if self.lora.base == "nf4" and self.loop.engine == "deepspeed" and self.loop.zero_stage == 3:
            raise UserError("loop.zero_stage: 3 cannot shard 4-bit weights; write 2, or lora.base=full")
        if self.features and self.all_rates().tower > 0:
            raise UserError(
                "features: a trained tower (rates.tower above 0) outdates stored features; write features: ''"
            )

    def all_rates(self) -> LearningRates:
        """The preset's with the given ones over them. LoRA freezes the language model's own weights."""
        found = dataclasses.replace(preset(self.preset).learning_rates, **self.rates)
        return dataclasses.replace(found, llm=0.0) if self.lora.rank else found

    def source(self) -> str:
        """Name of the backbone: a preset's or a given one."""
        return self.backbone or self.preset

    def px(self) -> int:
        """Side of a picture."""
        return self.image_px or preset(self.preset).image_px
