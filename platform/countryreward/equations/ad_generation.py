"""Section 3.2, making ads: a denoising step (Eq. 13) and the preference loss of the design writer (Eq. 14), on torch tensors.

Legend: z latents of any shape; alpha_bar the product of all alphas up to a timestep, from 1 (no noise) to 0 (all noise). Steps
may skip timesteps: then alpha is the quotient of two alpha_bar, which is the product of the alphas between them. B pairs of
designs.

The paper writes the same letter for the predicted noise and for the noise that is added; the added one is a fresh draw.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def denoised(z_t: Tensor, predicted: Tensor, alpha: Tensor, alpha_bar: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """z_(t-1) = (z_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) predicted) / sqrt(alpha_t) + sigma_t noise. Shapes as z_t.

    `predicted` is epsilon_theta(z_t, t, tau_p, Canny(I_ori)): the UNet's answer, ControlNet and prompt within. `noise` is
    standard normal. alpha, alpha_bar and sigma are scalars.
    """
    return (z_t - (1 - alpha) / torch.sqrt(1 - alpha_bar) * predicted) / torch.sqrt(alpha) + sigma * noise


def sigma(alpha_bar: Tensor, alpha_bar_before: Tensor) -> Tensor:
    """Standard deviation of the noise that a step adds: that of the true posterior, of which Eq. 13 leaves the choice open.

    alpha_bar belongs to t, alpha_bar_before to the step's end; 0 where that is 1. Scalars.
    """
    alpha = alpha_bar / alpha_bar_before
    return torch.sqrt((1 - alpha_bar_before) / (1 - alpha_bar) * (1 - alpha))


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
