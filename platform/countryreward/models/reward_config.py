"""Configs of the reward model and of the design writer: what they compute, learning rates, LoRA, presets, how designs are drawn.

Standard library only, so that `--help` is quick.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from countryreward.equations.readings import resolve
from countryreward.errors import UserError

_NAMES = {
    "strategy": "reward.strategy",
    "antisymmetric": "reward.antisymmetric",
    "focus_measure": "focus.measure",
    "focus_layer": "focus.layer",
    "focus_reduce": "focus.reduce",
}


@dataclass(kw_only=True)
class RewardOptions:
    """What the reward model computes. An option left at None follows the reading (equations/readings.py)."""

    reading: Literal["paper", "repaired"] = "repaired"
    """Sets the five options below where they are not set themselves."""
    strategy: Literal["none", "instruct", "embedding", "scaled", "soft"] | None = None
    """How the prior enters (Table 4): not at all, as a sentence in the prompt, as an embedding, as a scaled one, as log-odds."""
    antisymmetric: Literal["off", "on"] | None = None
    """on: logit(A, B) = g(A, B, prior) - g(B, A, -prior), two passes per pair."""
    focus_measure: Literal["norm", "attention"] | None = None
    """What Eq. 7 measures: norms of states, or attention of the last token."""
    focus_layer: Literal["final", "inner"] | None = None
    """norm: after (final) or before (inner) the final norm. attention: the last layer (final) or the last half (inner)."""
    focus_reduce: Literal["first", "relative"] | None = None
    """The share of a span's first token, or the share of the span over that of a uniform reader, at most 1."""
    focus_weight: float = 0.1
    """Lambda of Eq. 11; 0: no penalty, and nothing is measured for it."""
    country: Literal["on", "off"] = "on"
    """off: the baseline that is never told the country: "this market" in prompt and adapter, and no prior."""
    adapter: bool = True
    """Whether the country adapter (Eq. 4-6) modulates the visual tokens."""
    prior_weight_start: float = 1.0
    """`soft`: weight of the prior's log-odds in the logit before training; 1 starts from the prior as it is, 0 without it."""
    max_length: int = 1024
    """Longest accepted prompt in tokens, visual tokens included; a longer one is an error and is never cut."""

    def __post_init__(self) -> None:
        for name, allowed in _allowed().items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UserError(f"reward.{name}: {value!r} is unknown; write one of {', '.join(allowed)}")
        if self.reading not in ("paper", "repaired"):
            raise UserError(f"reward.reading: {self.reading!r} is unknown; write paper or repaired")
        if self.country not in ("on", "off"):
            raise UserError(f"reward.country: {self.country!r} is unknown; write on or off")
        if self.focus_weight < 0:
            raise UserError(f"reward.focus_weight: {self.focus_weight} must be at least 0; 0 switches the penalty off")
        if self.max_length < 1:
            raise UserError(f"reward.max_length: {self.max_length} must be at least 1")

    def option(self, name: str) -> str:
        """The value in force of strategy, antisymmetric, focus_measure, focus_layer or focus_reduce."""
        return resolve(self.reading, _NAMES[name], getattr(self, name))

    def resolved(self) -> "RewardOptions":
        """The same options with nothing left to the reading: what a model folder records."""
        return dataclasses.replace(self, **{name: self.option(name) for name in _NAMES})


def _allowed() -> dict[str, tuple[str, ...]]:
    return {
        "strategy": ("none", "instruct", "embedding", "scaled", "soft"),
        "antisymmetric": ("off", "on"),
        "focus_measure": ("norm", "attention"),
        "focus_layer": ("final", "inner"),
        "focus_reduce": ("first", "relative"),
    }


@dataclass(kw_only=True)
class LearningRates:
    """Peak learning rate of every parameter group (Appendix G)."""

    merger: float = 1e-5
    """The projector from the vision tower to the language model."""
    llm: float = 5e-6
    """The language model, its embeddings included; not used with LoRA, which freezes it."""
    lora: float = 1e-4
    """LoRA's matrices, where there are some."""
    adapter: float = 1e-4
    """The country adapter."""
    classifier: float = 1e-4
    """The classification head and, with `soft`, the prior's weight."""
    tower: float = 0.0
    """The vision tower; 0: frozen, as in the paper, and stored features may stand for it."""

    def __post_init__(self) -> None:
        for rate in dataclasses.fields(self):
            if getattr(self, rate.name) < 0:
                raise UserError(
                    f"learning_rates.{rate.name}: {getattr(self, rate.name)} must be at least 0; 0 freezes the group"
                )


@dataclass(kw_only=True)
class LoraOptions:
    """Low-rank updates in place of the language model's own weights (PEFT). Adapter, head and merger are trained in full."""

    rank: int = 0
    """Rank of the updates of every linear layer of the language model; 0: no LoRA, its weights are trained."""
    alpha: float = 0.0
    """Scale: updates count alpha / rank; 0: twice the rank."""
    dropout: float = 0.0
    """Dropout before the low-rank matrices."""
    base: Literal["full", "nf4"] = "full"
    """How the frozen linear layers of the language model are held: full, or nf4: 4 bits (QLoRA; extra `quantized`)."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"lora.rank, alpha, dropout: {self.rank}, {self.alpha}, {self.dropout}; rank and alpha are at least 0, "
                "dropout is in [0, 1)"
            )
        if self.base not in ("full", "nf4"):
            raise UserError(f"lora.base: {self.base!r} is unknown; write full or nf4")
        if self.base == "nf4" and not self.rank:
            raise UserError("lora.base: nf4 holds frozen weights, so there must be LoRA: set lora.rank, for example 16")


@dataclass(kw_only=True)
class SamplingConfig:
    """How designs are drawn from a writer."""

    temperature: float = 1.0
    """1: as it was trained; lower is safer and less various; 0: always the likeliest word."""
    top_p: float = 1.0
    """Words beyond this much probability are never taken; 1: any can be."""
    max_new_tokens: int = 160
    """Longest answer in tokens; one that is longer is refused, unless its four lines are there."""
    batch_size: int = 64
    """Designs written at once."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"sampling.temperature, top_p: {self.temperature}, {self.top_p}; the first is at least 0, the second in (0, 1]"
            )
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise UserError(
                f"sampling.max_new_tokens, batch_size: {self.max_new_tokens}, {self.batch_size}; write at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A backbone with the settings that fit it."""

    backbone: str
    """`tiny` (shipped with the library) or a Hugging Face id or folder."""
    image_px: int
    """Side of the square that every image is resized to; a multiple of 28."""
    learning_rates: LearningRates
    """Peak learning rates."""
    loop: dict[str, Any] = field(default_factory=dict)
    """Values of `training.config.LoopConfig` that are not the paper's."""
    text: dict[str, Any] = field(default_factory=dict)
    """Shape of the language model, to build it with random weights; empty: only its folder knows."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Shape of the vision tower, likewise."""


_QWEN2_VL_TEXT: dict[str, Any] = {
    "num_hidden_layers": 28,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
_QWEN2_VL_VISION: dict[str, Any] = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        backbone="tiny",
        image_px=112,
        learning_rates=LearningRates(merger=3e-4, llm=3e-4, lora=3e-3, adapter=5e-3, classifier=1e-2, tower=0.0),
        loop={"epochs": 1, "batch_size": 16, "accumulation": 1, "precision": "auto", "orders": "one"},
    ),
    "qwen2-vl-2b": Preset(
        backbone="Qwen/Qwen2-VL-2B-Instruct",
        image_px=448,
        learning_rates=LearningRates(),
        text=_QWEN2_VL_TEXT
        | {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
        vision=_QWEN2_VL_VISION | {"hidden_size": 1536},
    ),
    "qwen2-vl-7b": Preset(
        backbone="Qwen/Qwen2-VL-7B-Instruct",
        image_px=448,
        learning_rates=LearningRates(),
        loop={"gradient_checkpointing": True},  # activations of both orders do not fit 80 GB
        text=_QWEN2_VL_TEXT
        | {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        vision=_QWEN2_VL_VISION | {"hidden_size": 3584},
    ),
}
"""Name -> preset. The rates of the two large ones are the paper's (Appendix G)."""


def preset(name: str) -> Preset:
    """A preset by its name. Raises `UserError` for one that is not there."""
    if name not in PRESETS:
        raise UserError(f"preset: {name!r} is unknown; write one of {', '.join(PRESETS)}")
    return PRESETS[name]
