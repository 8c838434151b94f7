"""Which implementation of attention a model computes with, and one of our own for bfloat16 on a processor.

PyTorch's bfloat16 matrix products are several times faster than float32 on processors with AVX512-BF16 or AMX, its
bfloat16 attention several times slower. `sdpa_float32` keeps the one and avoids the other; a GPU does not need it.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SDPA_FLOAT32 = "sdpa_float32"
"""Name under which transformers knows `attend`."""


def attention_implementation(device: torch.device | str, dtype: torch.dtype) -> str:
    """The name that `from_pretrained` takes as attn_implementation for a model that computes in `dtype` on `device`.

    flash_attention_2 in half precision on CUDA where it is importable; `sdpa_float32` in half precision on a processor; sdpa.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    on_cuda = torch.device(device).type == "cuda"
    if half and not on_cuda:
        return SDPA_FLOAT32
    return "flash_attention_2" if on_cuda and half and importlib.util.find_spec("flash_attn") else "sdpa"


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 matrix products pay: on CUDA, and on processors with AVX512-BF16 or AMX."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA attention on float32 copies; the result has the query's dtype."""
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return output.to(query.dtype), None


AttentionInterface.register(SDPA_FLOAT32, attend)
