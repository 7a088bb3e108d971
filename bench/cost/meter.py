"""The meter: follows every storage and counts FLOPs and bytes of every operator, on fake tensors or on real ones alike.

Conventions: bytes as CUDA's allocator rounds them (512), FLOPs = 2 x multiply-adds, an operator's traffic = what it
reads and writes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.cost import torch_private
from bench.cost.torch_private import storage_key, tensors_in

ALLOCATOR_BLOCK = 512  # CUDA's caching allocator rounds each request up to this
_FREE_OPERATORS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}


@dataclass(frozen=True, kw_only=True)
class OperatorWork:
    """One kind of operator call: `count` calls of `flops` and `bytes` each, computed in `dtype`, inside `stage`."""

    stage: str
    name: str
    dtype: str
    flops: int
    bytes: int
    count: int


class Meter(torch_private.DispatchMode):
    """Counts what happens inside `with meter:`; `watch` first what lives there already (weights, inputs).

    Attributes: `live_bytes`, `peak_bytes`, `peak_operator`, `peak_stage`, `stage_peaks` {stage: bytes},
    `watched_bytes`.
    """

    def __init__(self, *, block: int = ALLOCATOR_BLOCK) -> None:
        super().__init__()
        self.block = block
        self.live_bytes = self.peak_bytes = self.watched_bytes = 0
        self.peak_operator = self.peak_stage = ""
        self.stage_peaks: dict[str, int] = {}
        self._stage = "denoiser"
        self._storages: dict[int, weakref.ref] = {}
        self._calls: Counter[tuple[str, str, str, int, int]] = Counter()

    def watch(self, *things: Any) -> None:
        """Count modules (with gradients), optimisers and tensors, also nested in lists and dicts, as live from the
        start."""
        for tensor in tensors_of(things):
            self._hold(tensor)
        self.watched_bytes = self.live_bytes
        self._note_peak("resident")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the operators inside under `name` (text encoder, denoiser, vae, optimiser)."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    def restart(self) -> None:
        """Forget counts and peaks, keep what is live: what follows is measured alone."""
        self._calls.clear()
        self.stage_peaks = {}
        self.watched_bytes = self.peak_bytes = self.live_bytes
        self._note_peak("resident")
        self.peak_operator, self.peak_stage = "resident", self._stage

    @property
    def operators(self) -> list[OperatorWork]:
        """The counted calls, most FLOPs first."""
        rows = [
            OperatorWork(stage=stage, name=name, dtype=dtype, flops=flops, bytes=size, count=count)
            for (stage, name, dtype, flops, size), count in self._calls.items()
        ]
        return sorted(rows, key=lambda row: (-row.flops * row.count, -row.bytes * row.count, row.name))

    @property
    def flops(self) -> int:
        """All FLOPs counted so far."""
        return sum(flops * count for (*_, flops, _), count in self._calls.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operator, then count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(out)
        for tensor in outputs:
            self._hold(tensor)
        name = torch_private.operator_name(func)
        self._note_peak(name)
        written = outputs or torch_private.written_tensors(func, args, kwargs)  # optimisers' operators return nothing
        if written and name not in _FREE_OPERATORS and not _is_view(func, inputs, written):
            flops = torch_private.operator_flops(func, args, kwargs, out)
            size = sum(_touched_bytes(tensor) for tensor in inputs + written)
            self._calls[self._stage, name, str(written[0].dtype).removeprefix("torch."), flops, size] += 1
        return out

    def _hold(self, tensor: torch.Tensor) -> None:
        key, storage = storage_key(tensor), tensor.untyped_storage()
        if key in self._storages or tensor.device.type == "meta":
            return
        size = -(-storage.nbytes() // self.block) * self.block

        def release(_: object) -> None:
            self.live_bytes -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, release)
        self.live_bytes += size

    def _note_peak(self, operator: str) -> None:
        self.stage_peaks[self._stage] = max(self.stage_peaks.get(self._stage, 0), self.live_bytes)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_operator, self.peak_stage = self.live_bytes, operator, self._stage


def tensors_of(thing: Any) -> Iterator[torch.Tensor]:
    """The tensors that modules, optimisers and nested containers hold, gradients too.

    A module's are its parameters and buffers and what it keeps as plain attributes, such as tables of positions.
    """
    if isinstance(thing, torch.Tensor):
        yield thing
        if thing.is_leaf and thing.grad is not None:
            yield thing.grad
    elif isinstance(thing, nn.Module):
        for part in thing.modules():
            yield from tensors_of([value for name, value in vars(part).items() if name != "_modules"])
    elif isinstance(thing, torch.optim.Optimizer):
        yield from tensors_of(list(thing.state.values()))
    elif isinstance(thing, dict):
        yield from tensors_of(list(thing.values()))
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors_of(part)


def resident_bytes(*things: Any) -> int:
    """Bytes of the distinct storages that modules, optimisers and tensors hold now."""
    storages = {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors_of(things)}
    return sum(storages.values())


def materialise(make: Callable[[], nn.Module], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> nn.Module:
    """Build a module on meta (no time, no memory), then give each tensor storage of `dtype` on `device`, small random
    values.

    Inside `fake_tensors()` the storage is fake. Integer buffers become zeros, which index safely; nothing is
    downloaded.
    """
    with torch_private.outside_fake(), torch.device("meta"):
        module = make()
    for part in module.modules():
        places: list[dict[str, Any]] = [part._parameters, part._buffers, vars(part)]
        for slots in places:
            for name, tensor in slots.items():
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    slots[name] = _materialised(tensor, dtype, device)
    return module.requires_grad_(False)


def _materialised(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    if not tensor.is_floating_point():
        fresh = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    else:
        fresh = torch.empty(tensor.shape, dtype=dtype, device=device)
        if not torch_private.is_fake(fresh):
            fresh.normal_(std=0.02)
    return nn.Parameter(fresh, requires_grad=False) if isinstance(tensor, nn.Parameter) else fresh


def _is_view(func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    """Whether the operator only looks at its inputs' memory: no traffic."""
    if torch_private.is_mutating(func):
        return False
    owned = {storage_key(tensor) for tensor in inputs}
    return all(storage_key(tensor) in owned for tensor in outputs)


def _touched_bytes(tensor: torch.Tensor) -> int:
    """Bytes that reading or writing the tensor moves; expanded dimensions (stride 0) move once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size
