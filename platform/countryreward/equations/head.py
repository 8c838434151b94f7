"""The classification head with the retrieval feature: Eq. 11, Eq. 16 and Table 4, on torch tensors.

Legend: B pairs, D width. h is the state of the last non-padding token, e the mean input embedding of the augmentation sentence
(zero where there is no prior), l the prior's log-odds.
"""

import torch
from torch import Tensor

STRATEGIES = ("none", "instruct", "embedding", "scaled", "soft")
"""Table 4 plus `soft`. `instruct` puts the sentence into the prompt, so nothing happens here."""


def augment(h_BD: Tensor, e_BD: Tensor, strategy: str) -> Tensor:
    """What the classifier reads. [B, D], [B, D] -> [B, D].

    `embedding` (Eq. 11): h + e. `scaled` (Eq. 16): h + |h| / |e| e; without a prior e is zero and h stays. Others: h.
    """
    if strategy == "embedding":
        return h_BD + e_BD
    if strategy == "scaled":
        e_norm_B1 = e_BD.norm(dim=-1, keepdim=True)
        scale_B1 = torch.where(e_norm_B1 > 0, h_BD.norm(dim=-1, keepdim=True) / e_norm_B1.clamp_min(1e-12), 0.0)
        return h_BD + scale_B1 * e_BD
    assert strategy in STRATEGIES, strategy
    return h_BD


def soft_logit(logit_B: Tensor, log_odds_B: Tensor, trust: Tensor) -> Tensor:
    """`soft`: W h + b l, with b learned: keeps the margin that the letter throws away. [B], [B], scalar -> [B]."""
    return logit_B + trust * log_odds_B


def one_order(g_B: Tensor, sign_B: Tensor) -> Tensor:
    """2 g(A, B, prior) or -2 g(B, A, -prior): `antisymmetric` in expectation over the order, at half its price. [B], [B] -> [B].

    sign_B is 1 where g is of (A, B) and -1 where it is of (B, A). For training steps; judgements ask both orders.
    """
    return 2 * sign_B * g_B


def antisymmetric(g_ab_B: Tensor, g_ba_B: Tensor) -> Tensor:
    """logit(A, B) = g(A, B, prior) - g(B, A, -prior): P(A > B) + P(B > A) = 1 by construction. [B], [B] -> [B]."""
    return g_ab_B - g_ba_B
