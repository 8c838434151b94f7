"""What the paper puts around its backbone, on torch tensors: the country adapter (section 3.1.2, Eq. 4-6), and the classification
head with the retrieval feature (Eq. 11, Eq. 16, Table 4).

Legend: B pairs, V visual tokens of the whole batch (both images of every pair), D width of the language model. h is the state of
the last non-padding token, e the mean input embedding of the augmentation sentence (zero where there is no prior), l the prior's
log-odds.
"""

import torch
from torch import Tensor, nn


class CountryAdapter(nn.Module):
    """Eq. 5: W2 relu(W1 c + b1) + b2, from [B, D] to [B, 2 D]; Eq. 4 splits it into gamma and beta.

    W1 is [D/2, D], W2 [2 D, D/2]. Eq. 6 is absolute, so a default initialisation would erase the image: the last layer starts
    at zero weights and bias (1, 0), which makes the adapter the identity until it has learned something.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // 2)
        self.up = nn.Linear(width // 2, 2 * width)
        self.start_as_identity()

    def start_as_identity(self) -> None:
        """Zero weights and bias (1, 0) in the last layer."""
        with torch.no_grad():
            self.up.weight.zero_()
            gamma_D, beta_D = self.up.bias.chunk(2)
            gamma_D.fill_(1.0)
            beta_D.zero_()

    def forward(self, country_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 4: gamma and beta, [B, D] each, from the country's mean token embedding."""
        gamma_BD, beta_BD = self.up(torch.relu(self.down(country_BD))).chunk(2, dim=-1)
        return gamma_BD, beta_BD


def modulate(visual_VD: Tensor, gamma_BD: Tensor, beta_BD: Tensor, pair_V: Tensor) -> Tensor:
    """Eq. 6: V' = gamma * V + beta on every visual token of a pair. [V, D], [B, D], [B, D], [V] -> [V, D].

    The tokens of all pairs lie in one row after another, `pair_V` says whose each is: images may differ in size.
    """
    return gamma_BD[pair_V] * visual_VD + beta_BD[pair_V]


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


def soft_logit(logit_B: Tensor, log_odds_B: Tensor, prior_weight: Tensor) -> Tensor:
    """`soft` (ours): W h + b l, b learned: keeps the margin that the letter throws away. [B], [B], scalar -> [B]."""
    return logit_B + prior_weight * log_odds_B


def one_order(g_B: Tensor, sign_B: Tensor) -> Tensor:
    """The antisymmetric logit estimated from one order: 2 g(A, B, prior) or -2 g(B, A, -prior). [B], [B] -> [B].

    With the order drawn at random its expectation is `antisymmetric`, at half the price. sign_B is 1 where g is of (A, B) and -1
    where it is of (B, A). For training steps; judgements ask both orders.
    """
    return 2 * sign_B * g_B


def antisymmetric(g_ab_B: Tensor, g_ba_B: Tensor) -> Tensor:
    """logit(A, B) = g(A, B, prior) - g(B, A, -prior): P(A > B) + P(B > A) = 1 by construction. [B], [B] -> [B]."""
    return g_ab_B - g_ba_B
