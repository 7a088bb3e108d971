"""What a training step learns from: images, noise and noise levels that depend on (seed, step, slot) alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2p.architectures import EncodedPrompt
from l2p.corpora import CorpusItem
from l2p.corpus import Corpus, PromptCache
from l2p.errors import InputError
from l2p.flow import shift_sigma

# Name -> one draw of sigma in (0, 1), before the shift.
SIGMA_DISTRIBUTIONS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "logit-normal": lambda generator: torch.sigmoid(torch.randn((), generator=generator)),  # SD3, arXiv 2403.03206
    "uniform": lambda generator: torch.rand((), generator=generator),
}

WINDOW = 1000  # images of a corpus in shards that are shuffled among each other


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
    """How slots are drawn: num_images to choose from, each once an epoch; noise_shape (3, H, W).

    shards: how many of the images lie in each shard, in stored order; none where each image is a file of its own.
    window: see `shard_order`.
    """

    seed: int
    batch_size: int
    num_images: int
    noise_shape: tuple[int, ...]
    sigma_distribution: str
    shift: float
    prompt_dropout: float
    shards: tuple[int, ...] = ()
    window: int = WINDOW


def draw_slot(rule: SlotRule, step: int, slot: int) -> Slot:
    """Draw one slot of a step's global batch; equal for any number of processes, and after any resumption."""
    epoch, place = divmod(step * rule.batch_size + slot, rule.num_images)
    index = int(order_of(rule, epoch)[place])
    generator = seeded(rule.seed, 1, step, slot)
    sigma = shift_sigma(SIGMA_DISTRIBUTIONS[rule.sigma_distribution](generator), rule.shift)
    dropped = torch.rand((), generator=generator).item() < rule.prompt_dropout
    return Slot(index=index, sigma=sigma, dropped=dropped, noise=torch.randn(rule.noise_shape, generator=generator))


def order_of(rule: SlotRule, epoch: int) -> Tensor:
    """Return the order of images in an epoch; (epoch, place in it) is all that a resumed training needs to know."""
    if rule.shards:
        return shard_order(rule.seed, epoch, rule.shards, rule.window)
    return epoch_order(rule.seed, epoch, rule.num_images)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    """Return the order of images in an epoch, a permutation of num_images."""
    return torch.randperm(num_images, generator=seeded(seed, 2, epoch))


@lru_cache(maxsize=4)
def stored_order(seed: int, epoch: int, shards: tuple[int, ...]) -> Tensor:
    """Return the images as they lie in the shards, the shards in an order that seed and epoch draw."""
    every = torch.arange(sum(shards)).split(list(shards))
    return torch.cat([every[i] for i in torch.randperm(len(shards), generator=seeded(seed, 5, epoch))])


@lru_cache(maxsize=2)
def shard_order(seed: int, epoch: int, shards: tuple[int, ...], window: int) -> Tensor:
    """Return an epoch's order that reads shards nearly forwards: `stored_order`, every `window` images shuffled."""
    windows = stored_order(seed, epoch, shards).split(window)
    drawn = (torch.randperm(len(part), generator=seeded(seed, 6, epoch, k)) for k, part in enumerate(windows))
    return torch.cat([part[order] for part, order in zip(windows, drawn, strict=True)])


def windows_ahead(rule: SlotRule, step: int, first: int, share: int) -> Iterator[tuple[int, ...]]:
    """Yield the images that a process (its `share` slots from `first` on) needs in the windows of a step and the next.

    Each window's images are in stored order: so a stream reads them.
    """
    for epoch, k in _windows_of(rule, step):
        start = epoch * rule.num_images + k * rule.window
        order = order_of(rule, epoch)[k * rule.window : (k + 1) * rule.window].tolist()
        slots = ((start + i) % rule.batch_size for i in range(len(order)))
        own = {index for index, slot in zip(order, slots, strict=True) if first <= slot < first + share}
        stored = stored_order(rule.seed, epoch, rule.shards)[k * rule.window : (k + 1) * rule.window].tolist()
        yield tuple(index for index in stored if index in own)


def _windows_of(rule: SlotRule, step: int) -> list[tuple[int, int]]:
    """(epoch, window) of all images of a step's batch, and one more."""
    found: list[tuple[int, int]] = []
    position, last = step * rule.batch_size, (step + 1) * rule.batch_size - 1
    while not found or position <= last:
        epoch, place = divmod(position, rule.num_images)
        found.append((epoch, place // rule.window))
        position = epoch * rule.num_images + min((found[-1][1] + 1) * rule.window, rule.num_images)
    epoch, place = divmod(position, rule.num_images)
    return [*found, (epoch, place // rule.window)]


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
        if self.corpus.stream is not None:
            ahead = windows_ahead(self.slots, step, first, share)
            self.corpus.stream.expect(*(tuple(self.training[index] for index in window) for window in ahead))
        slots = [draw_slot(self.slots, step, slot) for slot in range(first, first + share)]
        return [self._micro(slots[i : i + share // parts]) for i in range(0, share, share // parts)]

    def _micro(self, slots: list[Slot]) -> MicroBatch:
        indices = [self.training[slot.index] for slot in slots]
        texts = ["" if slot.dropped else self.corpus.items[i].text for slot, i in zip(slots, indices, strict=True)]
        noise, sigma = torch.stack([slot.noise for slot in slots]), torch.stack([slot.sigma for slot in slots])
        return MicroBatch(self.corpus.images(indices), noise, sigma, self.prompts(texts))


def split_indices(
    num_images: int, num_validation_images: int, seed: int, among: int | None = None
) -> tuple[list[int], list[int]]:
    """Split a corpus into the indices that train and those held back for validation.

    among: hold back some of the first so many alone. Raises ValueError when holding back leaves fewer images than are
    held back.
    """
    if num_images < 2 * num_validation_images:
        raise InputError(
            f"a corpus of {num_images} images cannot hold back {num_validation_images} for validation; "
            "draw more images or lower num_validation_images"
        )
    order = torch.randperm(min(num_images, among or num_images), generator=seeded(seed, 3)).tolist()
    order += range(len(order), num_images)
    return order[num_validation_images:], order[:num_validation_images]


def split_corpus(corpus: Corpus, num_validation_images: int, seed: int) -> tuple[list[int], list[int]]:
    """Split a corpus as `split_indices`; in shards the training indices stay in stored order.

    A stream's held-back images are among its first ones: it is not read through to find them.
    """
    among = None if corpus.stream is None else max(WINDOW, 2 * num_validation_images)
    training, validation = split_indices(len(corpus), num_validation_images, seed, among)
    return (training if corpus.items[0].shard is None else sorted(training)), validation


def shard_sizes(items: Sequence[CorpusItem], indices: Sequence[int]) -> tuple[int, ...]:
    """How many of the items, by index in stored order, lie in each shard; () where each image is its own file."""
    if items[0].shard is None:
        return ()
    return tuple(len(list(group)) for _, group in groupby(items[index].shard for index in indices))
