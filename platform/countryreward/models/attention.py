"""Attention in float32 inside a bfloat16 computation on a processor.

PyTorch's bfloat16 matrix products are several times faster than float32 on processors with AVX512-BF16 or AMX, its
bfloat16 attention several times slower. This implementation keeps the one and avoids the other; a GPU does not need it.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "sdpa_float32"


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
        found, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return found.to(query.dtype), None


AttentionInterface.register(NAME, attend)
