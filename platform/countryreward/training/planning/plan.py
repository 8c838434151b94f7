"""A plan: memory, speed and hours of a training, and what to change where it does not fit.

FLOPs of a pair are those of matrix products (2 per weight and token); norms, rotations, activations count through the efficiency.
A layer's backward pass costs twice its forward pass: once for the activations' gradients, once for the weights'. Weights that
are frozen under LoRA save the second; the first stays, because merger and adapter lie below and learn. Gradient checkpointing
runs the layers' forward pass again. A frozen tower runs forward only, and not at all with stored features. Attention: causal,
4 T^2 D / 2 per layer forward, 2.5 times that backward (its kernels compute the scores again).

Seconds = FLOPs / (the datasheet's peak x efficiency) + the optimizer's bytes / the memory's bandwidth. `paper_efficiency` is
what the paper's 4.29 pairs/s per A100 say if its step was one order of each pair, with the tower in every step and without
gradient checkpointing. That is an assumption twice over: the paper does not say how its step was made, and another device may
use more or less of its peak. Waiting for data and communication beyond what the paper's own eight GPUs had is not in it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from countryreward.errors import UserError
from countryreward.machine import describe_machine
from countryreward.models.attention import fast_bfloat16
from countryreward.models.reward_config import LoraOptions, RewardOptions
from countryreward.models.reward_model import CountryRewardConfig
from countryreward.training.planning.memory import Memory, Setting, memory, row_tokens, trained_parameters
from countryreward.training.planning.options import (
    DEVICES,
    HERE,
    PAPER_GPUS,
    PAPER_HOURS,
    PAPER_PAIRS_PER_SECOND,
    PAPER_TEXT_TOKENS,
    Device,
    PlanOptions,
    gpus,
)
from countryreward.training.planning.rehearsal import Timing, measure
from countryreward.training.planning.shape import Shape, config_of, shape_of
from countryreward.training.reward_run import bf16_weights
from countryreward.training.training_config import LoopConfig

_LORA_RANK = 16
_MOST_CHANGES = 3


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


@dataclass(frozen=True, kw_only=True)
class Way:
    """A change that makes the training fit."""

    changes: tuple[str, ...]
    """As options of the command line."""
    peak: float
    """Bytes per GPU."""
    hours: float
    """Of the whole training."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will cost."""

    options: PlanOptions
    """With nothing left open."""
    shape: Shape
    """Of the model."""
    where: str
    """Device, or this machine's processor."""
    setting: Setting
    """Processes and types."""
    memory: Memory
    """Of one process."""
    capacity: float
    """Bytes one process may use."""
    work: Work
    """FLOPs per pair."""
    seconds: float
    """Per optimizer step."""
    efficiency: float | None
    """Assumed share of the datasheet's peak; None where the speed was measured."""
    timing: Timing | None
    """The measurement, for `here`."""
    ways: tuple[Way, ...]
    """What would fit, the cheapest first; empty where the plan fits or nothing does."""

    @property
    def fits(self) -> bool:
        """Whether the worst moment fits."""
        return self.memory.peak <= self.capacity

    @property
    def pairs_per_second(self) -> float:
        """Of all GPUs together."""
        loop = self.options.loop
        return self.setting.world * loop.value("batch_size") * loop.value("accumulation") / self.seconds

    @property
    def hours(self) -> float:
        """Of all epochs; without validation, and without building the feature store."""
        return self.options.records * self.options.loop.value("epochs") / self.pairs_per_second / 3600

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: bytes, seconds, FLOPs and parameters."""
        trained, frozen = trained_parameters(self.shape, self.options)
        return {
            "options": dataclasses.asdict(self.options),
            "where": self.where,
            "setting": dataclasses.asdict(self.setting),
            "parameters": {
                "trained": trained,
                "frozen_language_model": frozen,
                "tower": self.shape.groups["tower"],
                "groups": self.shape.groups,
            },
            "tokens_per_row": row_tokens(self.shape, self.options),
            "rows_per_pair": self.options.rows_per_pair,
            "memory": dataclasses.asdict(self.memory) | {"peak": self.memory.peak, "moment": self.memory.moment},
            "capacity": self.capacity,
            "fits": self.fits,
            "flops_per_pair": dataclasses.asdict(self.work) | {"total": self.work.total},
            "efficiency": self.efficiency,
            "measured": None if self.timing is None else dataclasses.asdict(self.timing),
            "seconds_per_step": self.seconds,
            "pairs_per_second": self.pairs_per_second,
            "hours": self.hours,
            "ways": [dataclasses.asdict(way) for way in self.ways],
            "paper": {"hours": PAPER_HOURS, "gpus": PAPER_GPUS, "pairs_per_second": PAPER_PAIRS_PER_SECOND},
        }


def make_plan(options: PlanOptions, *, config: CountryRewardConfig | None = None) -> Plan:
    """Plan a training. config: another shape than the preset's, for tests.

    Raises `UserError` where this machine is asked for and the probes would not fit on it.
    """
    config = config or config_of(options.preset, options.reward)
    shape = shape_of(config)
    options = settled(options)
    if options.gpus == HERE:
        return _here(config, shape, options)
    count, device = gpus(options.gpus)
    setting = setting_of(options, count, cuda=True)
    efficiency = paper_efficiency()

    def seconds(changed: PlanOptions) -> float:
        return seconds_per_step(shape, changed, setting_of(changed, count, cuda=True), device, efficiency)

    capacity = device.memory_gib * 2**30
    need = memory(shape, options, setting)
    fits = need.peak <= capacity
    return Plan(
        options=options,
        shape=shape,
        where=f"{count} x {device.name}",
        setting=setting,
        memory=need,
        capacity=capacity,
        work=work(shape, options),
        seconds=seconds(options),
        efficiency=efficiency,
        timing=None,
        ways=() if fits else ways(shape, options, count, capacity, seconds),
    )


def settled(options: PlanOptions) -> PlanOptions:
    """Text tokens and precision decided."""
    here = options.gpus == HERE
    loop = options.loop
    if loop.precision == "auto":
        fast = fast_bfloat16(_device()) if here else True
        loop = replace(loop, precision="bf16" if fast else "fp32")
    tokens = options.text_tokens or (_sample_tokens(options) if options.preset == "tiny" else PAPER_TEXT_TOKENS)
    return replace(options, loop=loop, text_tokens=tokens)


def setting_of(options: PlanOptions, world: int, *, cuda: bool) -> Setting:
    """Types as `training.run` chooses them."""
    half = bf16_weights(options.loop, "cuda" if cuda else "cpu")
    return Setting(world=world, cuda=cuda, bf16_weights=half, autocast=options.loop.precision == "bf16" and not half)


def ways(
    shape: Shape, options: PlanOptions, count: int, capacity: float, seconds: Callable[[PlanOptions], float]
) -> tuple[Way, ...]:
    """The fewest changes that make it fit, the fastest first; changes that keep what is learned before those that do not."""
    loop, batch = options.loop, options.loop.value("batch_size")
    exact: dict[str, PlanOptions] = {}
    if not loop.gradient_checkpointing:
        exact["--gradient-checkpointing"] = options.with_loop(gradient_checkpointing=True)
    if batch > 1:
        half = {"batch_size": batch // 2, "accumulation": 2 * loop.value("accumulation")}
        exact[f"--batch_size {half['batch_size']} --accumulation {half['accumulation']}"] = options.with_loop(**half)
    if loop.engine == "deepspeed" and loop.zero_stage < 3 and count > 1:
        exact["--zero_stage 3"] = options.with_loop(zero_stage=3)
    other: dict[str, PlanOptions] = {}
    if loop.optimizer == "adamw":
        other["--optimizer adamw8bit"] = options.with_loop(optimizer="adamw8bit")
    if options.rows_per_pair == 2:
        other["--orders one"] = options.with_loop(orders="one")
    if not options.lora.rank:
        lora = LoraOptions(rank=_LORA_RANK)
        other[f"--lora-rank {_LORA_RANK}"] = replace(options, lora=lora)
    if options.lora.base == "full":
        quantized = replace(options.lora, rank=options.lora.rank or _LORA_RANK, base="nf4")
        other[f"--lora-rank {quantized.rank} --lora-base nf4"] = replace(options, lora=quantized)
    changes = exact | other
    for size in range(1, _MOST_CHANGES + 1):
        ways = []
        for names in itertools.combinations(changes, size):
            if sum(name.startswith("--lora") for name in names) > 1:
                continue
            changed = options
            for name in names:
                changed = _merged(changed, options, changes[name])
            setting = setting_of(changed, count, cuda=True)
            peak = memory(shape, changed, setting).peak
            if peak <= capacity:
                per_second = count * changed.loop.value("batch_size") * changed.loop.value("accumulation")
                per_second /= seconds(changed)
                hours = options.records * loop.value("epochs") / per_second / 3600
                learned = any(name in other for name in names)
                ways.append((learned, hours, Way(changes=names, peak=peak, hours=hours)))
        if ways:
            return tuple(way for *_, way in sorted(ways, key=lambda way: way[:2]))[:5]
    return ()


def _merged(into: PlanOptions, base: PlanOptions, changed: PlanOptions) -> PlanOptions:
    """`into` with what `changed` has other than `base`."""
    loop = {
        item.name: getattr(changed.loop, item.name)
        for item in dataclasses.fields(changed.loop)
        if getattr(changed.loop, item.name) != getattr(base.loop, item.name)
    }
    lora = changed.lora if changed.lora != base.lora else into.lora
    return replace(into.with_loop(**loop), lora=lora)


def _here(config: CountryRewardConfig, shape: Shape, options: PlanOptions) -> Plan:
    if options.lora.rank or options.loop.optimizer != "adamw":
        raise UserError(
            "--gpus: here measures the loop with all weights and torch's AdamW; leave out --lora-rank and --optimizer, "
            "or name a device such as 1xH200-141"
        )
    device = _device()
    cuda = device == "cuda"
    setting = setting_of(options, 1, cuda=cuda)
    capacity = float(torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available)
    need = memory(shape, options, setting)
    needed = probes_bytes(shape, options, setting)
    if needed > capacity:
        raise UserError(
            f"--gpus: here measures models of 1 and 3 layers, which need {needed / 2**30:.0f} GiB; {capacity / 2**30:.0f} "
            "GiB are free; write --batch_size 1, or name a device such as 8xA100-80"
        )
    timing = measure(config, options, device)
    where = (
        torch.cuda.get_device_name()
        if cuda
        else f"{describe_machine()['processor']}, {torch.get_num_threads()} threads"
    )
    return Plan(
        options=options,
        shape=shape,
        where=f"here: {where}",
        setting=setting,
        memory=need,
        capacity=capacity,
        work=work(shape, options),
        seconds=timing.seconds,
        efficiency=None,
        timing=timing,
        ways=(),
    )


def probes_bytes(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """What the two models of `probe.measure` need: the deeper one's worst moment, and what stays of the other."""
    by_layer = shape.layers * shape.layer_linear
    outside = shape.groups["llm"] - by_layer

    def at(layers: int) -> Shape:
        groups = shape.groups | {"llm": outside + layers * shape.layer_linear}
        return replace(shape, layers=layers, groups=groups)

    first = memory(at(1), options, setting)
    stays = first.weights + first.tower + first.masters + first.optimizer
    return memory(at(min(3, shape.layers)), options, setting).peak + stays


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sample_tokens(options: PlanOptions) -> int:
    """Text tokens of one prompt of the tiny backbone's own tokenizer."""
    from countryreward.models.processor import load_processor
    from countryreward.models.reward_prompts import SPANS, PairFields, PromptBuilder
    from countryreward.models.tiny_backbone import SHIPPED

    side = options.px // 14
    builder = PromptBuilder(load_processor(SHIPPED).tokenizer, replace(options.reward, max_length=10**6))
    fields = PairFields(
        title="Double-walled coffee cup grey limited edition",
        category="Tableware",
        market="KR",
        images=("a", "b"),
        grids=((1, side, side), (1, side, side)),
    )
    example = builder.example(fields)
    return len(example.ids) - int(example.spans[SPANS.index("image")].sum())
