"""CountryRewardModel: Qwen2-VL without its language head, the country adapter and the classification head.

Legend: B pairs, R rows (B, or 2 B where both orders are asked), T tokens, C tokens of a country or of an augmentation sentence,
D width of the language model, V visual tokens of all rows, M different images, P patches of all images, W width of the vision
tower, S spans.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2VLConfig, Qwen2VLModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from countryreward.equations import focus as focus_equations
from countryreward.equations import reward_layers
from countryreward.equations.reward_layers import CountryAdapter, modulate
from countryreward.errors import UserError
from countryreward.models.focus_probe import FocusProbe
from countryreward.models.pair_batch import Batch
from countryreward.models.reward_config import PRESETS, RewardOptions
from countryreward.progress import quiet_loading
from countryreward.renamed_options import renamed

RENAMED_TENSORS = {"trust": "prior_weight"}
"""Tensor of a model of the release before -> its name now: in model folders, in weights and checkpoints of run folders."""


class CountryRewardConfig(PreTrainedConfig):
    """The backbone's config and every option in force. `options` is a plain dict so that config.json stays readable."""

    model_type = "country_reward"
    sub_configs_defaults = {"qwen2_vl": Qwen2VLConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    qwen2_vl: dict | PreTrainedConfig | None = None
    options: dict | None = None
    image_px: int = 0  # side of the square that its training resized images to

    def __post_init__(self, **kwargs: Any) -> None:
        self.options = asdict(RewardOptions(**renamed(self.options or {}, within="reward")).resolved())
        super().__post_init__(**kwargs)

    @property
    def reward(self) -> RewardOptions:
        """The options as their dataclass."""
        return RewardOptions(**cast(dict, self.options))

    @property
    def backbone(self) -> Qwen2VLConfig:
        """The backbone's config."""
        return cast(Qwen2VLConfig, self.qwen2_vl)


@dataclass
class RewardOutput(ModelOutput):
    """The judgement of a batch."""

    logit: Tensor | None = None  # [B] float32: log-odds that A gets the higher CTR
    focus: Tensor | None = None  # [B, S] in [0, 1], where asked for
    state: Tensor | None = None  # [R, D] of every row's last token after the final norm, where asked for


class Classifier(nn.Linear):
    """W of Eq. 11, applied in float32: the difference of two close bfloat16 logits would be mostly rounding."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[R, D] -> [R]."""
        return nn.functional.linear(input.float(), self.weight.float()).squeeze(-1)


class CountryRewardModel(PreTrainedModel):
    """`model(batch, features=...)` or `model(batch, pixel_values=...)` gives a RewardOutput."""

    config: CountryRewardConfig
    config_class = CountryRewardConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CountryRewardConfig, backbone: Qwen2VLModel | None = None) -> None:
        """backbone: one that holds its weights already; None: a new one with random weights."""
        super().__init__(config)
        self.options = config.reward
        width = cast(PreTrainedConfig, config.backbone.text_config).hidden_size
        self.backbone = Qwen2VLModel(config.backbone) if backbone is None else backbone
        self.adapter = CountryAdapter(width) if self.options.adapter else None
        self.classifier = Classifier(width)
        self.prior_weight = nn.Parameter(torch.zeros(1)) if self.options.option("strategy") == "soft" else None
        self.both_orders = self.options.option("antisymmetric") == "on"
        self.register_load_state_dict_pre_hook(_rename_tensors)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *source: Any, key_mapping: Mapping[str, str] | None = None, **loading: Any) -> Any:
        """As transformers' own; also reads what an earlier release saved (`RENAMED_TENSORS`)."""
        before = {f"^{old}$": new for old, new in RENAMED_TENSORS.items()}
        with quiet_loading():
            return super().from_pretrained(*source, key_mapping={**before, **(key_mapping or {})}, **loading)

    def save_pretrained(self, *folder: Any, **saving: Any) -> None:
        """As transformers' own, under today's names whatever the names in the folder that this model came from."""
        super().save_pretrained(*folder, save_original_format=False, **saving)

    @classmethod
    def from_backbone(cls, source: str | Path, options: RewardOptions, **loading: Any) -> "CountryRewardModel":
        """A model whose backbone comes from a Qwen2-VL folder or id, with an adapter and a head that know nothing yet.

        loading: as for `from_pretrained`: dtype, attn_implementation (`models/attention.py` names one), revision.
        """
        with quiet_loading():
            backbone = Qwen2VLModel.from_pretrained(source, use_safetensors=True, **loading)
        for module in backbone.modules():
            module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  # its weights stay as loaded
        config = CountryRewardConfig(qwen2_vl=backbone.config, options=asdict(options), dtype=backbone.dtype)
        model = cls(config, backbone)
        # Wrapping the backbone's config loses this, and attention without a name is not causal where no mask is given.
        model.set_attn_implementation(loading.get("attn_implementation") or "sdpa")
        for name, parameter in model.named_parameters():
            # not model.to(dtype): that would round the rotary frequencies as well
            if not name.startswith("backbone."):
                parameter.data = parameter.data.to(backbone.device, backbone.dtype)
        return model

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Asked of the layer: transformers skips modules that have no weights of their own, such as the adapter itself.
        if isinstance(self.adapter, CountryAdapter) and module is self.adapter.up:
            weight, bias = self.adapter.up.weight, self.adapter.up.bias
            init.zeros_(weight)
            init.copy_(bias, torch.cat([torch.ones_like(bias[::2]), torch.zeros_like(bias[::2])]))
        if module is self and self.prior_weight is not None:  # both orders count the prior twice
            init.constant_(self.prior_weight, self.options.prior_weight_start / (2 if self.both_orders else 1))

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.backbone.get_input_embeddings()

    def forward(
        self,
        batch: Batch,
        *,
        features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        focus: bool = False,
        states: bool = False,
    ) -> RewardOutput:
        """Judge every pair of a batch.

        features: stored tower outputs of `batch.images` in that order, [P, W] or [M, P / M, W]. pixel_values: their patches as
        the image processor gives them, [P, ...]. One of the two; neither where all images are masked. focus: measure Eq. 7 too.
        states: give what the head reads too.
        """
        orders_fit = (batch.both_orders or batch.sign is not None) == self.both_orders
        assert orders_fit, "build the batch with this model's options: antisymmetric differs"
        assert features is None or pixel_values is None, "features or pixel_values, not both"
        attended_RT, language_model = batch.attention_mask.bool(), self.backbone.language_model
        measure, layer = self.options.option("focus_measure"), self.options.option("focus_layer")
        probe = FocusProbe(language_model, measure=measure, layer=layer) if focus else None
        with probe or nullcontext():
            # Padding is on the right and attention causal: no real token sees padding, so no mask is needed, and none is faster.
            states_RTD = language_model(
                inputs_embeds=self._embed(batch, features, pixel_values),
                position_ids=batch.position_ids,
                attention_mask=None,
                use_cache=False,
            ).last_hidden_state
        row_R = torch.arange(len(batch.last), device=batch.last.device)
        h_RD = states_RTD[row_R, batch.last]
        logit_R, state_RD = self._judge(h_RD, batch), h_RD if states else None
        focus_RS = None
        if probe is not None:
            share_RT = probe.share(attended_RT, batch.last)
            reduce = self.options.option("focus_reduce")
            focus_RS = focus_equations.span_focus(share_RT, batch.spans, attended_RT, reduce=reduce)
        if not self.both_orders:
            return RewardOutput(logit=logit_R, focus=focus_RS, state=state_RD)
        if batch.sign is not None:
            return RewardOutput(logit=reward_layers.one_order(logit_R, batch.sign), focus=focus_RS, state=state_RD)
        focus_BS = None if focus_RS is None else focus_RS.unflatten(0, (2, -1)).mean(dim=0)
        return RewardOutput(logit=reward_layers.antisymmetric(*logit_R.chunk(2)), focus=focus_BS, state=state_RD)

    def encode_images(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        """What a feature store keeps: the tower's outputs before the merger, [P, W]."""
        return self.backbone.visual(pixel_values, grid_thw=image_grid_thw, return_dict=True).last_hidden_state

    def _embed(self, batch: Batch, features: Tensor | None, pixel_values: Tensor | None) -> Tensor:
        """Token embeddings with the adapted visual tokens in their places: [R, T, D]."""
        embeds_RTD = self.get_input_embeddings()(batch.input_ids)
        if len(batch.visual_at) == 0:
            return embeds_RTD
        visual_VD = self._merged(batch, features, pixel_values)[batch.visual_from].to(embeds_RTD.dtype)
        if self.adapter is not None:
            gamma_RD, beta_RD = self.adapter(self._mean_embedding(batch.country_ids, batch.country_mask))
            visual_VD = modulate(visual_VD, gamma_RD, beta_RD, batch.visual_at // batch.input_ids.shape[1])
        return embeds_RTD.flatten(0, 1).index_copy(0, batch.visual_at, visual_VD).view_as(embeds_RTD)

    def _merged(self, batch: Batch, features: Tensor | None, pixel_values: Tensor | None) -> Tensor:
        """Visual tokens of all images of a batch, each image once: [tokens, D]."""
        visual = self.backbone.visual
        if features is None:
            assert pixel_values is not None, "the batch has images: give features or pixel_values"
            trained = any(p.requires_grad for p in visual.blocks.parameters())
            device = pixel_values.device.type
            # A frozen tower computes in its weights' own type, as the feature store's did: both ways give the same loss.
            # FlashAttention-2 knows no float32 and keeps what the caller's autocast says.
            flash = "flash" in (visual.config._attn_implementation or "")
            precise = nullcontext() if trained or flash else torch.autocast(device, enabled=False)
            with precise, torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features = self.encode_images(pixel_values, batch.image_grid_thw)
        merger = cast(Any, visual.merger)
        features_PW = features.flatten(0, -2).to(merger.ln_q.weight.dtype)
        assert len(features_PW) == batch.patches, f"{len(features_PW)} patches for images of {batch.patches}"
        return merger(features_PW)

    def _mean_embedding(self, ids_RC: Tensor, mask_RC: Tensor) -> Tensor:
        """Detached mean of input embeddings, zero for an empty row: [R, C], [R, C] -> [R, D]."""
        with torch.no_grad():
            embeds_RCD = self.get_input_embeddings()(ids_RC)
            weight_RC1 = mask_RC[..., None].to(embeds_RCD.dtype)
            return (embeds_RCD * weight_RC1).sum(1) / weight_RC1.sum(1).clamp_min(1)

    def _judge(self, h_RD: Tensor, batch: Batch) -> Tensor:
        """g of every row: [R]."""
        strategy = self.options.option("strategy")
        if strategy in ("embedding", "scaled"):
            e_RD = self._mean_embedding(batch.augment_ids, batch.augment_mask)
            h_RD = reward_layers.augment(h_RD.float(), e_RD.float(), strategy)
        logit_R = self.classifier(h_RD)
        if self.prior_weight is None:
            return logit_R
        return reward_layers.soft_logit(logit_R, batch.log_odds, self.prior_weight.float())


def _rename_tensors(_: nn.Module, state_dict: dict[str, Tensor], prefix: str, *__: Any) -> None:
    """Before `load_state_dict`: an old name in `state_dict` becomes the new one (checkpoints of a run begun before)."""
    for old, new in RENAMED_TENSORS.items():
        if prefix + old in state_dict:
            state_dict[prefix + new] = state_dict.pop(prefix + old)


def preset_config(name: str, options: RewardOptions, **text: Any) -> CountryRewardConfig:
    """The config of a preset's architecture, to build it with random weights: a speed check needs no trained ones.

    text: changes of the language model's shape, such as num_hidden_layers=7.
    """
    preset = PRESETS[name]
    if not preset.text:
        raise UserError(f"preset: the shape of {name} is in its folder only; use from_backbone")
    backbone = Qwen2VLConfig(text_config=preset.text | text, vision_config=preset.vision)
    return CountryRewardConfig(qwen2_vl=backbone, options=asdict(options))
