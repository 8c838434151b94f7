"""Configs of both trainings, the reward model's and the design writer's. Standard library and `models/reward_config.py` alone."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from countryreward.errors import UserError
from countryreward.models.reward_config import LearningRates, LoraOptions, Preset, RewardOptions, preset
from countryreward.renamed_options import names_before
from countryreward.training.run_identity import RunIdentity

Stage = Literal["supervised", "preference"]

STOP = "stop"
"""File in the run folder that asks its training to write a checkpoint and end."""

_NO_PART_OF_THE_RESULT = ("checkpoint_every", "keep_checkpoints", "log_every")
"""Options of both loops that may change between two starts of one run."""

_PAPER: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "accumulation": 2,
    "precision": "bf16",
    "orders": "both",
    "gradient_checkpointing": False,
}


_WRITER: dict[str, dict[str, Any]] = {
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
_TINY_WRITER: dict[str, dict[str, Any]] = {
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


@dataclass(kw_only=True)  # jsonargparse takes a config with a base of another kind for a class to choose
class _Loop:
    """A loop some of whose numbers come from the preset."""

    def value(self, name: str) -> Any:
        """A field of a resolved config: never None."""
        value = getattr(self, name)
        assert value is not None, f"{name} is not resolved"
        return value

    def _part_of_the_result(self) -> dict[str, Any]:
        options = asdict(self)
        return {name: value for name, value in options.items() if name not in _NO_PART_OF_THE_RESULT}


@dataclass(kw_only=True)
class LoopConfig(_Loop):
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
        missing = {name: of.loop.get(name, paper) for name, paper in _PAPER.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


@dataclass(kw_only=True)
class WriterLoop(_Loop):
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
        defaults = dict((_TINY_WRITER if preset(preset_name).backbone == "tiny" else _WRITER)[stage])
        lora_rate = defaults.pop("lora_rate")
        defaults["learning_rate"] = lora_rate if lora else defaults["learning_rate"]
        return dataclasses.replace(
            self, **{name: value for name, value in defaults.items() if getattr(self, name) is None}
        )


@dataclass(kw_only=True)
class Training:
    """What a training is based on. It travels whole to every worker."""

    PATHS: ClassVar[tuple[str, ...]] = ()
    """Fields that say where inputs are. Of a run's identity their versions are a part instead."""

    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: backbone, picture size, learning rates, batch."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that pictures are resized to; 0: the preset's."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model; rank 0: it is trained in full."""

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.image_px % 28 or self.image_px < 0:
            raise UserError(f"image_px: {self.image_px} is not a multiple of 28; write 112, 448, ... or 0")

    def px(self) -> int:
        """Side of a picture."""
        return self.image_px or preset(self.preset).image_px

    def source(self) -> str:
        """Name of the backbone: a preset's or a given one."""
        return self.backbone or self.preset

    def options(self) -> dict[str, Any]:
        """Every option in force that shapes the result, for manifests and identities."""
        raise NotImplementedError

    def identity(self, versions: Mapping[str, str], workers: int) -> RunIdentity:
        """versions: input artifact -> version. workers: that the training is planned for."""
        return RunIdentity(inputs=dict(versions), options=self.options() | {"workers": workers})

    def with_absolute_paths(self) -> Self:
        """The same for workers, which run in a folder of their own."""
        paths = {name: getattr(self, name) for name in (*self.PATHS, "backbone")}
        local = {name: path for name, path in paths.items() if path and (name != "backbone" or Path(path).exists())}
        return dataclasses.replace(self, **{name: str(Path(path).absolute()) for name, path in local.items()})


@dataclass(kw_only=True)
class RewardTraining(Training):
    """A reward model's training on published records."""

    PATHS: ClassVar[tuple[str, ...]] = ("dataset", "records", "priors", "features")

    dataset: str
    """Published dataset."""
    records: str
    """Its records."""
    priors: str
    """Priors of the records; empty: train without."""
    features: str
    """Feature store of the frozen tower; empty: decode and encode in every step."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group (merger, llm, lora, adapter, classifier, tower); what is not named is the preset's."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The optimisation."""
    trackers: list[str] = field(default_factory=list)
    """Where the numbers go beside log and TensorBoard: mlflow, wandb (extras of the same names)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [rate.name for rate in dataclasses.fields(LearningRates)]
        unknown = sorted(set(self.learning_rates) - set(names))
        if unknown:
            raise UserError(f"learning_rates: {', '.join(unknown)} is no group; write {', '.join(names)}")
        if self.lora.rank and self.learning_rates.get("llm"):
            raise UserError(
                "learning_rates.llm: LoRA freezes the language model's own weights; set learning_rates.lora, or lora.rank=0"
            )
        if self.lora.base == "nf4" and self.loop.engine == "deepspeed" and self.loop.zero_stage == 3:
            raise UserError("loop.zero_stage: 3 cannot shard 4-bit weights; write 2, or lora.base=full")
        if self.features and self.all_learning_rates().tower > 0:
            raise UserError(
                "features: a trained tower (learning_rates.tower above 0) outdates stored features; write features: ''"
            )

    def all_learning_rates(self) -> LearningRates:
        """The preset's with the given ones over them. LoRA freezes the language model's own weights."""
        rates = dataclasses.replace(preset(self.preset).learning_rates, **self.learning_rates)
        return dataclasses.replace(rates, llm=0.0) if self.lora.rank else rates

    def options(self) -> dict[str, Any]:
        """Every option in force that shapes the result; inputs are told by their versions, not by their paths.

        Options that were renamed go by their old names: a run or a model that was begun under them is the same one.
        """
        options = asdict(self) | {
            "learning_rates": asdict(self.all_learning_rates()),
            "loop": self.loop.resolved(preset(self.preset))._part_of_the_result(),
            "reward": asdict(self.reward.resolved()),
        }
        left_out = (*self.PATHS, "trackers")
        return names_before({name: value for name, value in options.items() if name not in left_out})


@dataclass(kw_only=True)
class WriterTraining(Training):
    """A design writer's training: from designs (supervised, Eq. 12) or, where there are some, from pairs (preference, Eq. 14)."""

    PATHS: ClassVar[tuple[str, ...]] = ("designs", "dataset", "pairs", "writer")

    designs: str = ""
    """Published designs (jobs/import_designs.py)."""
    dataset: str = ""
    """The published dataset of their products."""
    pairs: str = ""
    """Published preference pairs (jobs/generate_pairs.py) to learn from instead of designs."""
    writer: str = ""
    """Published design writer to go on from, with pairs the reference of Eq. 14; empty: the backbone."""
    loop: WriterLoop = field(default_factory=WriterLoop)
    """The optimisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage == "preference" and self.loop.market_loss:
            raise UserError(f"loop.market_loss: {self.loop.market_loss} is for training by example; leave it out")
        if self.stage == "supervised" and self.loop.example_loss:
            raise UserError(f"loop.example_loss: {self.loop.example_loss} is for training by pairs; leave it out")
        if self.lora.base != "full":
            raise UserError("lora.base: a design writer is not held in 4 bits; write full")
        if self.lora.rank and self.loop.engine == "deepspeed" and self.loop.zero_stage == 3:
            raise UserError("loop.zero_stage: 3 is not combined with LoRA here; write 2, whose frozen weights fit")

    @property
    def stage(self) -> Stage:
        """supervised: from designs. preference: from pairs of designs."""
        return "preference" if self.pairs else "supervised"

    @property
    def rows(self) -> str:
        """What is learned from: designs or pairs."""
        return self.pairs or self.designs

    def settled(self) -> WriterLoop:
        """The loop with the preset's and the stage's numbers."""
        return self.loop.resolved(self.preset, self.stage, lora=self.lora.rank > 0)

    def options(self) -> dict[str, Any]:
        """Every option in force that shapes the result; inputs are told by their versions, not by their paths."""
        named = {name: getattr(self, name) for name in ("stage", "preset", "backbone")}
        return named | {"image_px": self.px(), "lora": asdict(self.lora), "loop": self.settled()._part_of_the_result()}
