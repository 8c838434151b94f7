"""Work per pair and seconds per step.

FLOPs are those of matrix products (2 per weight and token); norms, rotations and activations count through the efficiency.
A layer's backward pass costs twice its forward pass: once for the activations' gradients, once for the weights'. Weights that
are frozen under LoRA save the second; the first stays, because merger and adapter lie below and learn. Gradient checkpointing
runs the layers' forward pass again. A frozen tower runs forward only, and not at all with stored features. Attention: causal,
4 T^2 D / 2 per layer forward, 2.5 times that backward (its kernels compute the scores again).

Seconds = FLOPs / (the datasheet's peak x efficiency) + the optimizer's bytes / the memory's bandwidth. `paper_efficiency` is
what the paper's 4.29 pairs/s per A100 say if its step was one order of each pair, with the tower in every step and without
gradient checkpointing. That is an assumption twice over: the paper does not say how its step was made, and another device may
use more or less of its peak. Waiting for data and communication beyond what the paper's own eight GPUs had is not in it.
"""

from dataclasses import dataclass

from countryreward.models.reward_config import RewardOptions
from countryreward.training.planning.memory import Setting, row_tokens, trained_parameters
from countryreward.training.planning.options import (
    DEVICES,
    PAPER_GPUS,
    PAPER_PAIRS_PER_SECOND,
    PAPER_TEXT_TOKENS,
    Device,
    PlanOptions,
)
from countryreward.training.planning.shape import Shape, config_of, shape_of
from countryreward.training.training_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of one pair in one training step."""

    forward: float
    """Language model, merger and adapter, forward."""
    backward: float
    """Their gradients, and what gradient checkpointing computes again."""
    tower: float
    """The frozen tower; 0 with stored features."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.tower


def work(shape: Shape, options: PlanOptions) -> Work:
    """FLOPs per pair; `options.text_tokens` must be set."""
    rows, tokens, rank = options.rows_per_pair, row_tokens(shape, options), options.lora.rank
    products = rows * 2.0 * tokens * shape.layers * shape.layer_linear
    low = rows * 2.0 * tokens * shape.lora(rank)
    attention = rows * 2.0 * tokens**2 * shape.width * shape.layers
    merger = 2 * 2.0 * shape.visual_tokens(options.px) * shape.groups["merger"]
    adapter = rows * 2.0 * shape.groups.get("adapter", 0)
    layers = products + low + attention
    again = layers if options.loop.gradient_checkpointing else 0.0
    backward = products * (1 if rank else 2) + 2 * low + 2.5 * attention + 2 * (merger + adapter) + again
    patches = shape.patches(options.px)
    tower = 2 * (2.0 * patches * shape.tower_linear + 4.0 * patches**2 * shape.tower_width * shape.tower_depth)
    return Work(
        forward=layers + merger + adapter, backward=backward, tower=tower if options.features == "decoded" else 0.0
    )


def optimizer_bytes(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """What an optimizer step of one process reads and writes: gradient, weight, both states, the root, the weights' copy."""
    trained, _ = trained_parameters(shape, options)
    sharded = options.loop.engine == "deepspeed" and options.loop.zero_stage >= 1
    states = 32 if options.loop.optimizer == "adamw" else 8
    return (states + 24) * trained / (setting.world if sharded else 1)


def seconds_per_step(shape: Shape, options: PlanOptions, setting: Setting, device: Device, efficiency: float) -> float:
    """One optimizer step, all its forward and backward passes."""
    pairs = options.loop.value("batch_size") * options.loop.value("accumulation")
    peak = (device.bf16_tflops if options.loop.precision == "bf16" else device.fp32_tflops) * 1e12
    moved = optimizer_bytes(shape, options, setting) / (device.bandwidth_tb * 1e12)
    return pairs * work(shape, options).total / (peak * efficiency) + moved


def paper_options() -> PlanOptions:
    """The paper's training as we read it (Appendix G)."""
    return PlanOptions(
        preset="qwen2-vl-7b",
        gpus=f"{PAPER_GPUS}xA100-80",
        text_tokens=PAPER_TEXT_TOKENS,
        features="decoded",
        loop=LoopConfig(orders="one", gradient_checkpointing=False),
    )


def paper_efficiency() -> float:
    """Share of an A100's bfloat16 peak that the paper's 4.29 pairs/s per GPU imply for `paper_options`."""
    options = paper_options()
    shape = shape_of(config_of(options.preset, RewardOptions()))
    setting = Setting(world=PAPER_GPUS, cuda=True, bf16_weights=True, autocast=False)
    pairs = options.loop.value("batch_size") * options.loop.value("accumulation")
    device = DEVICES["A100-80"]
    seconds = pairs / (PAPER_PAIRS_PER_SECOND / PAPER_GPUS)
    seconds -= optimizer_bytes(shape, options, setting) / (device.bandwidth_tb * 1e12)
    return pairs * work(shape, options).total / (seconds * device.bf16_tflops * 1e12)
