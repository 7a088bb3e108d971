"""Models without memory: built on the meta device, with the same random numbers in what is filled later.

A source's transformer is built only to be replaced by its weights: drawing all of it takes 48 GB of float32 for FLUX.
Here each tensor is drawn as ever, so that the generator goes the same way, and thrown away at once; what turns out to
be new is drawn again from where the generator stood.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from l2p.errors import InputError


@dataclass
class _Drawn:
    """What was done to one tensor, and where the CPU generator stood before: enough to do it again."""

    tensor: Tensor
    state: Tensor
    steps: list[Callable[[Tensor], Any]] = field(default_factory=list)


class Draws(TorchDispatchMode):
    """While open, what is done in place to a tensor on meta is done to a real one in its stead, kept for the moment."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[int, _Drawn] = {}
        self._real: tuple[int, Tensor] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else None
        if not (isinstance(target, Tensor) and target.is_meta and func._schema.is_mutable):
            return func(*args, **kwargs)
        key = id(target)
        if key not in self._drawn:
            self._drawn[key] = _Drawn(tensor=target, state=torch.random.get_rng_state())
        if self._real is None or self._real[0] != key:
            self._real = key, _like(target)

        def step(real: Tensor) -> Any:
            return func(real, *args[1:], **kwargs)

        step(self._real[1])
        self._drawn[key].steps.append(step)
        return target

    def fill(self, model: nn.Module, names: Iterable[str]) -> None:
        """Give a model's tensors on meta the numbers that they were drawn with; other draws go on as if nothing was.

        Raises ValueError for a tensor whose numbers were not seen to be drawn.
        """
        parameters = dict(model.named_parameters())
        filled = {name: self._again(name, parameters[name]) for name in names}
        model.load_state_dict(filled, strict=False, assign=True)

    def _again(self, name: str, parameter: Tensor) -> Tensor:
        drawn = self._drawn.get(id(parameter))
        if drawn is None:
            raise InputError(f"nothing was drawn for {name}: this layer is initialised in a way that l2p.empty misses")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.random.set_rng_state(drawn.state)
            real = _like(parameter)
            for step in drawn.steps:
                step(real)
        return real


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


@contextmanager
def without_weights() -> Iterator[Draws]:
    """Build modules with parameters on meta and real buffers; `Draws.fill` fills those that nothing replaces."""
    with init_empty_weights(include_buffers=False), Draws() as draws:
        yield draws


def give_back_memory() -> None:
    """Free what nothing refers to any more; modules and hooks refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
