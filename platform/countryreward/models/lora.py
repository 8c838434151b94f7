"""LoRA and QLoRA on the language model, by PEFT: low-rank updates beside its frozen layers (Hu et al. 2021, Dettmers 2023).

Merger, country adapter and head are small and new: they are trained in full. What is published are merged weights, which load
as those of any other training, and beside them `adapter/`, which stock PEFT loads onto the stock backbone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from countryreward.errors import UserError
from countryreward.models.reward_config import LoraOptions
from countryreward.models.reward_model import CountryRewardModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a Qwen2 decoder layer."""
_NAME = "default"
_INSIDE = r".*language_model\.layers\..*\.(?:" + "|".join(TARGETS) + ")"


def loading_options(options: LoraOptions, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` of the backbone needs to hold the language model's linear layers in 4 bits; nothing otherwise.

    Raises `UserError` where bitsandbytes is not installed.
    """
    if options.base == "full":
        return {}
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("lora.base: nf4 needs bitsandbytes; pip install 'countryreward[quantized]'")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["visual"],
    )
    return {"quantization_config": config}


def peft_config(options: LoraOptions) -> Any:
    """PEFT's LoraConfig of these options."""
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha or 2 * options.rank,  # pyright: ignore[reportArgumentType]  # PEFT divides, floats do
        lora_dropout=options.dropout,
        target_modules=_INSIDE,
    )


def add_lora(model: CountryRewardModel, options: LoraOptions) -> None:
    """Put low-rank updates beside the language model's linear layers, in place; they start at zero effect."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(peft_config(options), model.backbone, adapter_name=_NAME)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(model.dtype)
    for _, layer in lora_layers(model):
        if _in_4_bits(layer):
            # On some processors bitsandbytes repacks weights at the first evaluation, for ever and with other rounding.
            layer.base_layer.support_avx512bf16_for_cpu = False
    assert any(True for _ in lora_layers(model)), "no layer of the language model was found"


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer that has an update."""
    for name, module in model.named_modules():
        if _NAME in getattr(module, "lora_A", ()):  # pyright: ignore[reportOperatorIssue]
            yield name, module


def merged(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights as if there had never been LoRA: W + scale B A under the layer's own name. A 4-bit W is taken as it counts.

    weights: an engine's `state_dict()`, which stays as it is. Without LoRA its copy is returned.
    """
    whole_weights = dict(weights)
    for name, layer in lora_layers(model):
        base = f"{name}.base_layer"
        weight = _dequantised(layer) if _in_4_bits(layer) else whole_weights[f"{base}.weight"]
        down, up = (whole_weights.pop(f"{name}.lora_{part}.{_NAME}.weight") for part in "AB")
        for key in [key for key in whole_weights if key.startswith(f"{base}.weight")]:
            del whole_weights[key]
        update = layer.scaling[_NAME] * (up.float() @ down.float())
        whole_weights[f"{name}.weight"] = (weight.float() + update).to(down.dtype)
        if f"{base}.bias" in whole_weights:
            whole_weights[f"{name}.bias"] = whole_weights.pop(f"{base}.bias")
    return whole_weights


def save_adapter(model: nn.Module, weights: dict[str, Tensor], folder: Path, options: LoraOptions, base: str) -> None:
    """`adapter_config.json` and `adapter_model.safetensors`, as `PeftModel.from_pretrained(Qwen2VLModel, folder)` reads them.

    The trained merger goes with it (PEFT's modules_to_save); country adapter and head are no part of the backbone. base: the
    backbone's name or folder.
    """
    config = peft_config(options)
    config.modules_to_save = ["merger"]
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(folder))
    kept = {
        f"base_model.model.{name.removeprefix('backbone.').replace(f'.{_NAME}.', '.')}": value.contiguous()
        for name, value in weights.items()
        if "lora_" in name or name.startswith("backbone.visual.merger.")
    }
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _in_4_bits(layer: Any) -> bool:
    return hasattr(layer.base_layer.weight, "quant_state")


def _dequantised(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.base_layer.weight
    return dequantize_4bit(weight.data, weight.quant_state).cpu()
