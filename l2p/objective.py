"""What a transfer step learns from: noise levels, the loss, and batches that depend on (seed, step, slot) alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from l2p.flow import shift_sigma

# Name -> one draw of sigma in (0, 1), before the shift.
SIGMA_DISTRIBUTIONS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "logit-normal": lambda generator: torch.sigmoid(torch.randn((), generator=generator)),  # SD3, arXiv 2403.03206
    "uniform": lambda generator: torch.rand((), generator=generator),
}


def transfer_loss(velocity: Tensor, target: Tensor, sigma: Tensor, loss_weight_below: float = 0.0) -> Tensor:
    """Return the mean squared velocity error (paper eq. 5), weighted by min(sigma / below, 1)^2.

    velocity, target [B, 3, H, W]; sigma [B]. For a clean-image head the weight keeps the error of the clean image from
    counting 1 / sigma^2 where there is hardly any noise.
    """
    error = (velocity.float() - target).square().mean(dim=(1, 2, 3))  # [B]
    if loss_weight_below > 0:
        error = error * (sigma / loss_weight_below).clamp(max=1).square()
    return error.mean()


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One image's place in a batch: which image, how much noise, whether its prompt is dropped, and the noise."""

    index: int
    sigma: Tensor
    dropped: bool
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class SlotRule:
    """How slots are drawn: num_images to choose from, each once an epoch; noise_shape (3, H, W)."""

    seed: int
    batch_size: int
    num_images: int
    noise_shape: tuple[int, ...]
    sigma_distribution: str
    shift: float
    prompt_dropout: float


def draw_slot(rule: SlotRule, step: int, slot: int) -> Slot:
    """Draw one slot of a step's global batch; equal for any number of processes, and after any resumption."""
    epoch, place = divmod(step * rule.batch_size + slot, rule.num_images)
    index = int(epoch_order(rule.seed, epoch, rule.num_images)[place])
    generator = seeded(rule.seed, 1, step, slot)
    sigma = shift_sigma(SIGMA_DISTRIBUTIONS[rule.sigma_distribution](generator), rule.shift)
    dropped = torch.rand((), generator=generator).item() < rule.prompt_dropout
    return Slot(index=index, sigma=sigma, dropped=dropped, noise=torch.randn(rule.noise_shape, generator=generator))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    """Return the order of images in an epoch, a permutation of num_images."""
    return torch.randperm(num_images, generator=seeded(seed, 2, epoch))


def seeded(*numbers: int) -> torch.Generator:
    """Return a CPU generator for a tuple of non-negative numbers, independent for different tuples."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))
