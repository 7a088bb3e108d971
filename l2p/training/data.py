"""What a training step learns from: images, noise and noise levels that depend on (seed, step, slot) alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2p.architectures import EncodedPrompt
from l2p.corpus import Corpus, PromptCache
from l2p.flow import shift_sigma

# Name -> one draw of sigma in (0, 1), before the shift.
SIGMA_DISTRIBUTIONS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "logit-normal": lambda generator: torch.sigmoid(torch.randn((), generator=generator)),  # SD3, arXiv 2403.03206
    "uniform": lambda generator: torch.rand((), generator=generator),
}


class MicroBatch(NamedTuple):
    """What one forward learns from: clean and noise [b, 3, H, W], sigma [b], the encoded prompts [b, ...] by name."""

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    prompt: EncodedPrompt

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the same on a device."""
        clean, noise, sigma = (tensor.to(device, non_blocking=True) for tensor in self[:3])
        prompt = {name: tensor.to(device, non_blocking=True) for name, tensor in self.prompt.items()}
        return MicroBatch(clean, noise, sigma, prompt)


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


@dataclass(frozen=True, kw_only=True)
class Data:
    """The corpus with its encoded prompts, the indices that train and those held back, and how batches are drawn."""

    corpus: Corpus
    prompts: PromptCache
    training: list[int]
    validation: list[int]
    slots: SlotRule

    def batch(self, step: int, first: int, share: int, parts: int) -> list[MicroBatch]:
        """Load `share` slots of a step's global batch, from slot `first` on, in as many parts as are accumulated."""
        slots = [draw_slot(self.slots, step, slot) for slot in range(first, first + share)]
        return [self._micro(slots[i : i + share // parts]) for i in range(0, share, share // parts)]

    def _micro(self, slots: list[Slot]) -> MicroBatch:
        indices = [self.training[slot.index] for slot in slots]
        texts = ["" if slot.dropped else self.corpus.items[i].text for slot, i in zip(slots, indices, strict=True)]
        noise, sigma = torch.stack([slot.noise for slot in slots]), torch.stack([slot.sigma for slot in slots])
        return MicroBatch(self.corpus.images(indices), noise, sigma, self.prompts(texts))


def split_indices(num_images: int, num_validation_images: int, seed: int) -> tuple[list[int], list[int]]:
    """Split a corpus into the indices that train and those held back for validation.

    Raises ValueError when holding back leaves fewer images than are held back.
    """
    if num_images < 2 * num_validation_images:
        raise ValueError(
            f"a corpus of {num_images} images cannot hold back {num_validation_images} for validation; "
            "draw more images or lower num_validation_images"
        )
    order = torch.randperm(num_images, generator=seeded(seed, 3)).tolist()
    return order[num_validation_images:], order[:num_validation_images]
