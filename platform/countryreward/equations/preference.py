"""Section 3.2, Eq. 14: direct preference optimization of the design writer.

Legend: B pairs of designs.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float
) -> Tensor:
    """Eq. 14 per pair: -log sigma(beta log(pi(d+) / ref(d+)) - beta log(pi(d-) / ref(d-))).

    Each argument [B] is the natural log of the probability of a whole design, summed over its tokens, given (country,
    product, image). beta: the paper names it and gives no number; ours is 0.1. Returns [B], log 2 where the policy is the
    reference.
    """
    margin_B = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * margin_B)
