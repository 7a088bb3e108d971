"""The flow-matching equations of the paper (section 3.1, eq. 5) as pure tensor functions; sigma 1 is pure noise."""

import torch
from torch import Tensor

from l2p.errors import InputError


def noisy_image(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return x_t = (1 - sigma) x_0 + sigma e.

    clean, noise [B, C, H, W]; sigma [B] in [0, 1]. Source: paper section 3.3.
    """
    s = per_image(sigma)  # [B, 1, 1, 1]
    return (1 - s) * clean + s * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity e - x_0 that the model learns, [B, C, H, W]. Source: paper eq. 5."""
    return noise - clean


def transfer_loss(velocity: Tensor, target: Tensor, sigma: Tensor, loss_weight_below: float = 0.0) -> Tensor:
    """Return the mean squared velocity error (paper eq. 5), weighted by min(sigma / below, 1)^2.

    velocity, target [B, 3, H, W]; sigma [B]. For a clean-image head the weight keeps the error of the clean image from
    counting 1 / sigma^2 where there is hardly any noise.
    """
    error = (velocity.float() - target).square().mean(dim=(1, 2, 3))  # [B]
    if loss_weight_below > 0:
        error = error * (sigma / loss_weight_below).clamp(max=1).square()
    return error.mean()


def clean_estimate(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean image x_t - sigma v that a velocity implies, [B, C, H, W]; sigma [B]."""
    return noisy - per_image(sigma) * velocity


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: shift * sigma / (1 + (shift - 1) * sigma).

    Any shape, sigma in [0, 1]; shift 1 changes nothing. Source: SD3 (arXiv 2403.03206), eq. 23; paper section 3.4.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas(num_inference_steps: int, shift: float) -> Tensor:
    """Return the sampler's noise levels from 1 down to 0, [num_inference_steps + 1], float32.

    Raises ValueError for fewer than one step.
    """
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; give 1 or more")
    return shift_sigma(torch.linspace(1, 0, num_inference_steps + 1), shift)


def per_image(sigma: Tensor) -> Tensor:
    """Reshape one number an image, [B], so that it multiplies images: [B, 1, 1, 1]."""
    return sigma[:, None, None, None]
