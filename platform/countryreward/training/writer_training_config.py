"""Configs of the design writer's training. Standard library only."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.errors import UserError
from countryreward.models.reward_config import LoraOptions, preset

Stage = Literal["supervised", "preference"]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "supervised": {
        "epochs": 3.0,
        "batch_size": 8,
        "accumulation": 2,
        "learning_rate": 1e-5,
        "lora_rate": 1e-4,
        "market_loss": 0.0,
    },
    "preference": {
        "epochs": 1.0,
        "batch_size": 4,
        "accumulation": 4,
        "learning_rate": 5e-7,
        "lora_rate": 5e-6,
        "example_loss": 0.0,
    },
}
_TINY: dict[str, dict[str, Any]] = {
    "supervised": {
        "epochs": 2.0,
        "batch_size": 8,
        "accumulation": 1,
        "learning_rate": 3e-3,
        "lora_rate": 3e-3,
        "market_loss": 0.4,
    },
    "preference": {
        "epochs": 3.0,
        "batch_size": 8,
        "accumulation": 1,
        "learning_rate": 1.5e-4,
        "lora_rate": 1.5e-3,
        "example_loss": 1.0,
    },
}


@dataclass(kw_only=True)
class WriterLoop:
    """The optimisation of a design writer. What is left at None is the preset's and the stage's; the paper gives no numbers."""

    epochs: float | None = None
    """Passes over the designs or pairs."""
    batch_size: int | None = None
    """Designs or pairs per worker and forward pass."""
    accumulation: int | None = None
    """Forward passes per optimizer step."""
    learning_rate: float | None = None
    """Peak rate; cosine, after a warm-up. The vision tower is frozen."""
    warmup: float = 0.05
    """Share of the steps that warm up."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    beta: float = 0.1
    """Preference only: beta of Eq. 14, how much the policy may gain on the reference before a pair counts as learned."""
    market_loss: float | None = None
    """Supervised only: weight of a second loss, which names the market from every state that writes the answer. A backbone that
    has not learned what a country's name means would write the same for all; 0: none, as for one that has."""
    example_loss: float | None = None
    """Preference only: weight of the mean of -log p over the tokens of preferred designs, on top of Eq. 14 (TRL's `sft` loss).
    Eq. 14 alone also lets the form of an answer become less likely, and a small writer then forgets lines of it."""
    shared_prefix: bool = True
    """Preference only: read prompt and picture once for both designs of a pair. Exact; not possible with FlashAttention-2, where
    both are read twice."""
    engine: Literal["torch", "deepspeed"] = "deepspeed"
    """Who steps: plain torch (DistributedDataParallel on several workers), or DeepSpeed ZeRO."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed: what is sharded (1 optimizer states, 2 gradients too, 3 weights too)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    log_every: int = 20
    """Optimizer steps between log lines."""
    checkpoint_every: int = 200
    """Optimizer steps between checkpoints; 0: only when the run is stopped."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept while the run lasts."""
    seed: int = 0
    """Of the order of the rows."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "log_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"loop.{name}: {value} must be at least 1")
        for name in ("epochs", "learning_rate", "beta", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"loop.{name}: {value} must be above 0")
        for name in ("market_loss", "example_loss"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"loop.{name}: {value} must be at least 0")
        if self.checkpoint_every < 0 or self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise UserError(
                f"loop.checkpoint_every, weight_decay, warmup: {self.checkpoint_every}, {self.weight_decay}, {self.warmup}; the "
                "first two are at least 0, the last in [0, 1)"
            )

    def resolved(self, preset_name: str, stage: Stage, *, lora: bool) -> "WriterLoop":
        """The same with nothing left at None."""
        found = dict((_TINY if preset(preset_name).backbone == "tiny" else _DEFAULTS)[stage])
        lora_rate = found.pop("lora_rate")
        found["learning_rate"] = lora_rate if lora else found["learning_rate"]
        return dataclasses.replace(
            self, **{name: value for name, value in found.items() if getattr(self, name) is None}
        )

    def value(self, name: str) -> Any:
        """A field of a resolved config: never None."""
        found = getattr(self, name)
        assert found is not None, f"{name} is not resolved"
        return found


@dataclass(kw_only=True)
class WriterTraining:
    """What to train on what: everything a worker needs, as paths and numbers."""

    stage: Stage
    """supervised: from designs (Eq. 12). preference: from pairs of designs (Eq. 14)."""
    rows: str
    """Published designs (supervised) or preference pairs."""
    pictures: str
    """Published artifact that holds the products' pictures: the dataset, or the pairs themselves."""
    dataset: str = ""
    """Published dataset of the designs' products; supervised only."""
    writer: str = ""
    """Published design writer to start from, the reference of Eq. 14; empty: the backbone."""
    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: backbone, picture size, rates, batch."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that pictures are resized to; 0: the preset's."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model."""
    loop: WriterLoop = field(default_factory=WriterLoop)
    """The optimisation."""

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.image_px % 28 or self.image_px < 0:
            raise UserError(f"image_px: {self.image_px} is not a multiple of 28; write 112, 448, ... or 0")
        if self.stage == "preference" and self.loop.market_loss:
            raise UserError(f"loop.market_loss: {self.loop.market_loss} is for training by example; leave it out")
        if self.stage == "supervised" and self.loop.example_loss:
            raise UserError(f"loop.example_loss: {self.loop.example_loss} is for training by pairs; leave it out")
        if self.lora.base != "full":
            raise UserError("lora.base: a design writer is not held in 4 bits; write full")
        if self.lora.rank and self.loop.engine == "deepspeed" and self.loop.zero_stage == 3:
            raise UserError("loop.zero_stage: 3 is not combined with LoRA here; write 2, whose frozen weights fit")

    def px(self) -> int:
        """Side of a picture."""
        return self.image_px or preset(self.preset).image_px

    def settled(self) -> WriterLoop:
        """The loop with the preset's and the stage's numbers."""
        return self.loop.resolved(self.preset, self.stage, lora=self.lora.rank > 0)
