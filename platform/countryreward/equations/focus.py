"""Section 3.1.3, the focus-driven penalty loss (FDPL), Eq. 7-11, on torch tensors.

Legend: B pairs, T tokens, D width (of a state, or of a head), S spans (country, product, image, words of A, of B), H
query heads, G key heads, K = H / G. Masks are bool, True where a token counts.

To the letter the penalty is nearly a constant: the final states of Qwen2-VL leave an RMSNorm with equal norms, so Focus is 1/T
for one token. The repaired reading measures attention, relative to what a reader would give who spreads it evenly.
"""

import torch
from torch import Tensor


def norm_share(states_BTD: Tensor, attended_BT: Tensor) -> Tensor:
    """Eq. 7's summand: |H[j]| / sum over attended tokens of |H|. [B, T, D], [B, T] -> [B, T]; rows sum to 1."""
    norms_BT = states_BTD.float().norm(dim=-1) * attended_BT
    return norms_BT / norms_BT.sum(dim=-1, keepdim=True)


def span_focus(share_BT: Tensor, spans_BST: Tensor, attended_BT: Tensor, *, reduce: str) -> Tensor:
    """Focus of Eq. 7 for each span. [B, T], [B, S, T], [B, T] -> [B, S] in [0, 1].

    `first`: the share of the span's first token, as the paper writes H[t]. `relative` (ours): the share of the whole span over
    the share a uniform reader would give it, at most 1. An empty span (images masked, no words) has focus 1: nothing was
    overlooked.
    """
    spans_BST = spans_BST & attended_BT[:, None]
    empty_BS = ~spans_BST.any(dim=-1)
    if reduce == "first":
        first_BS = spans_BST.float().argmax(dim=-1)  # the first True
        focus_BS = share_BT.gather(1, first_BS)
    else:
        assert reduce == "relative", reduce
        uniform_BS = spans_BST.float().sum(dim=-1) / attended_BT.float().sum(dim=-1, keepdim=True)
        share_BS = torch.einsum("bt,bst->bs", share_BT, spans_BST.to(share_BT.dtype))
        focus_BS = (share_BS / uniform_BS.clamp_min(1e-9)).clamp_max(1.0)
    return torch.where(empty_BS, torch.ones_like(focus_BS), focus_BS)


def last_token_attention(query_BHD: Tensor, keys_BGTD: Tensor, attended_BT: Tensor, scaling: float) -> Tensor:
    """Attention of the last token, averaged over heads, from its query and all keys (after rotation). -> [B, T].

    SDPA and FlashAttention return no weights, so the one row that is needed is computed again. H query heads share G key heads,
    H / G each in order. Every attended token precedes the last one, so causality needs no mask of its own.
    """
    grouped_BGKD = query_BHD.unflatten(1, (keys_BGTD.shape[1], -1)).float()
    logits_BGKT = torch.einsum("bgkd,bgtd->bgkt", grouped_BGKD, keys_BGTD.float()) * scaling
    return logits_BGKT.masked_fill(~attended_BT[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=(1, 2))


def wrong_predictions(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """Eq. 9: I = 1 where (P >= .5) differs from (y = 1). Soft labels count as A from .5 on. [B], [B] -> [B] float."""
    return ((logit_B >= 0) != (label_B >= 0.5)).float()


def penalty(focus_BS: Tensor, wrong_B: Tensor) -> Tensor:
    """Eq. 8 and 10: mean over the batch of I (P_c + P_p + P_i), P = 1 - Focus. [B, S], [B] -> scalar."""
    return (wrong_B * (1 - focus_BS).sum(dim=-1)).mean()


def objective(bce: Tensor, penalty_value: Tensor, weight: float) -> Tensor:
    """Eq. 11: L = L_BCE + lambda L_penalty."""
    return bce + weight * penalty_value
