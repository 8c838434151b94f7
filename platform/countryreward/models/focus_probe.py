"""What the focus loss measures, caught by hooks during one pass of the language model (Eq. 7).

Only references are kept while the model runs and everything is computed afterwards: so it costs one row of attention per
layer, stays differentiable, and gradient checkpointing (not re-entrant) sees no operation that its second run lacks.

Legend: R rows, T tokens, D width, H query heads, G key heads.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel, rotate_half

from countryreward.equations import focus


class FocusProbe:
    """`with FocusProbe(language_model, measure=..., layer=...) as probe: run(); probe.share(attended, last)`.

    measure `norm`: norms of the states after (`final`) or before (`inner`) the final norm. measure `attention`: the last token's
    attention in the last layer (`final`) or, averaged, in the last half of the layers (`inner`).
    """

    def __init__(self, language_model: Qwen2VLTextModel, *, measure: str, layer: str) -> None:
        self.language_model, self.measure, self.layer = language_model, measure, layer
        layers = list(language_model.layers)
        self.attentions: list[Any] = [
            block.self_attn for block in layers[-1 if layer == "final" else len(layers) // 2 :]
        ]
        self._caught: dict[nn.Module, Any] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> "FocusProbe":
        if self.measure == "norm":
            norm = self.language_model.norm
            self._catch(norm) if self.layer == "final" else self._catch_input(norm)
            return self
        self._catch(self.language_model.rotary_emb)
        for attention in self.attentions:
            self._catch(attention.q_proj)
            self._catch(attention.k_proj)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hooks.close()

    def share(self, attended_RT: Tensor, last_R: Tensor) -> Tensor:
        """The share of every token in what is measured: [R, T], rows sum to 1."""
        if self.measure == "norm":
            return focus.norm_share(self._caught[self.language_model.norm], attended_RT)
        return torch.stack([self._attention(layer, attended_RT, last_R) for layer in self.attentions]).mean(dim=0)

    def _attention(self, attention: Any, attended_RT: Tensor, last_R: Tensor) -> Tensor:
        row_R = torch.arange(len(last_R), device=last_R.device)
        cos_RTD, sin_RTD = self._caught[self.language_model.rotary_emb]
        heads = (-1, attention.head_dim)
        query_RHD = self._caught[attention.q_proj][row_R, last_R].unflatten(-1, heads)
        keys_RGTD = self._caught[attention.k_proj].unflatten(-1, heads).transpose(1, 2)
        query_RHD = _rotate(query_RHD, cos_RTD[row_R, last_R][:, None], sin_RTD[row_R, last_R][:, None])
        keys_RGTD = _rotate(keys_RGTD, cos_RTD[:, None], sin_RTD[:, None])
        return focus.last_token_attention(query_RHD, keys_RGTD, attended_RT, attention.scaling)

    def _catch(self, module: nn.Module) -> None:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self._caught[module] = output

        self._hooks.callback(module.register_forward_hook(keep).remove)

    def _catch_input(self, module: nn.Module) -> None:
        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._caught[module] = inputs[0]

        self._hooks.callback(module.register_forward_pre_hook(keep).remove)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + rotate_half(x) * sin
