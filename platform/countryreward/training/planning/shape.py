"""Widths and parameter counts, read from the real model built on the meta device: no number is typed by hand."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import Qwen2VLConfig

from countryreward.models.learning_rate_groups import group_of
from countryreward.models.reward_config import RewardOptions, preset
from countryreward.models.reward_model import CountryRewardConfig, CountryRewardModel, preset_config
from countryreward.models.tiny_backbone import SHIPPED


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What memory and work depend on. Counts are parameters."""

    layers: int
    """Decoder layers."""
    width: int
    """D of the language model."""
    kv_width: int
    """Key heads x head width."""
    ffn: int
    """Inner width of a decoder layer's MLP."""
    heads: int
    """Query heads."""
    tower_width: int
    """W of the vision tower."""
    tower_depth: int
    """Its blocks."""
    merge: int
    """Side of the square of patches that become one visual token."""
    patch: int
    """Side of a patch in pixels."""
    groups: dict[str, int]
    """Parameters by rate group: merger, llm, adapter, classifier, tower."""
    embeddings: int
    """Of `llm`, the token embeddings."""
    linear: tuple[tuple[int, int], ...]
    """(inputs, outputs) of the seven linear layers of one decoder layer: q, k, v, o, gate, up, down. LoRA's targets."""
    tower_linear: int
    """Weights of the tower's matrix products, each used once per patch."""
    largest: int
    """The largest parameter."""

    @property
    def layer_linear(self) -> int:
        """Weights of one decoder layer's linear layers, biases left out: 2 FLOPs per token each."""
        return sum(inputs * outputs for inputs, outputs in self.linear)

    def lora(self, rank: int) -> int:
        """LoRA's parameters: rank x (inputs + outputs) for every linear layer of the language model."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linear)

    def visual_tokens(self, px: int) -> int:
        """Of one picture."""
        return (px // self.patch // self.merge) ** 2

    def patches(self, px: int) -> int:
        """Of one picture."""
        return (px // self.patch) ** 2


def config_of(name: str, options: RewardOptions) -> CountryRewardConfig:
    """A preset's architecture; `tiny` is read from the folder that ships with the library."""
    if preset(name).text:
        return preset_config(name, options)
    backbone = Qwen2VLConfig.from_pretrained(SHIPPED)
    return CountryRewardConfig(qwen2_vl=backbone, options=asdict(options))


def with_layers(config: CountryRewardConfig, layers: int) -> CountryRewardConfig:
    """The same with another number of decoder layers."""
    backbone = config.backbone.to_dict()
    text = backbone["text_config"] | {"num_hidden_layers": layers}
    text.pop("layer_types", None)
    return CountryRewardConfig(
        qwen2_vl=Qwen2VLConfig.from_dict(backbone | {"text_config": text}), options=asdict(config.reward)
    )


def shape_of(config: CountryRewardConfig) -> Shape:
    """Build the model on the meta device and count."""
    with torch.device("meta"):
        model = CountryRewardModel(config)
    return shape_of_model(model)


def shape_of_model(model: CountryRewardModel) -> Shape:
    """Count a model's parameters."""
    text = cast(Any, model.config.backbone.text_config)
    vision = cast(Any, model.config.backbone.vision_config)
    groups: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        groups[group_of(name)] += parameter.numel()
    language: Any = model.backbone.language_model
    blocks = cast(nn.Module, model.backbone.visual.blocks)
    head_width = text.hidden_size // text.num_attention_heads
    patches = cast(nn.Module, model.backbone.visual.patch_embed)
    return Shape(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        kv_width=text.num_key_value_heads * head_width,
        ffn=text.intermediate_size,
        heads=text.num_attention_heads,
        tower_width=vision.embed_dim,
        tower_depth=vision.depth,
        merge=vision.spatial_merge_size,
        patch=vision.patch_size,
        groups=dict(groups),
        embeddings=language.embed_tokens.weight.numel(),
        linear=tuple(
            (module.in_features, module.out_features)
            for module in language.layers[0].modules()
            if isinstance(module, nn.Linear)
        ),
        tower_linear=sum(
            parameter.numel() for module in (blocks, patches) for parameter in module.parameters() if parameter.ndim > 1
        ),
        largest=max(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    )
