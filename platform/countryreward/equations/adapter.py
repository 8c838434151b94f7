"""Section 3.1.2, the country adapter module (CAM), Eq. 4-6, on torch tensors.

Legend: B pairs, V visual tokens of the whole batch (both images of every pair), D width of the language model.
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
