"""Everything of torch that is private or undocumented and that the cost meter needs, in one file, with the torch range
it was checked on.

The rest of `bench/cost` imports these names from here and nothing private from torch itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from l2p.errors import InputError

__all__ = [
    "CHECKED_TORCH",
    "DispatchMode",
    "check_torch",
    "fake_tensors",
    "is_fake",
    "is_mutating",
    "operator_flops",
    "operator_name",
    "outside_fake",
    "profiled_growth_bytes",
    "storage_key",
    "tensors_in",
    "written_tensors",
]

CHECKED_TORCH = ((2, 13), (2, 15))  # from the first version up to, not including, the second

DispatchMode = TorchDispatchMode


def check_torch(*, force: bool = False, version: str = torch.__version__) -> str | None:
    """Refuse a torch outside the checked range; with `force` return the warning instead of raising.

    Raises ValueError naming the installed version and the checked range.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    first, last = CHECKED_TORCH
    if first <= (major, minor) < last:
        return None
    message = (
        f"torch {version} is outside the range that the cost meter was checked on (>= {first[0]}.{first[1]}, "
        f"< {last[0]}.{last[1]}): it reads torch's private parts. Install a checked torch or go on with --force."
    )
    if not force:
        raise InputError(message)
    return message


@contextlib.contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have shapes, strides and types but no memory; the fake device is the CPU.

    Fake CUDA is not offered: on a CPU build torch would pick the attention that materialises its scores, and autograd
    aborts.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


outside_fake = unset_fake_temporarily  # a context in which tensors are real (or meta) again


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no memory of its own."""
    return isinstance(tensor, FakeTensor) or isinstance(tensor.data, FakeTensor)


def tensors_in(tree: object) -> list[torch.Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storage_key(tensor: torch.Tensor) -> int:
    """An identity for the memory behind a tensor: views of one storage share it while the storage lives."""
    return tensor.untyped_storage()._cdata


def _cpu_attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


# torch's own registry has no formula for the CPU's fused attention and silently counts 0
_CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
_ATTENTION_WITHOUT_WORK = {"_fused_sdp_choice", "_safe_softmax"}


def operator_flops(operator: Any, args: tuple, kwargs: dict, out: object) -> int:
    """Multiply-adds x 2 of one operator by torch's formula (0 for an operator without matrix products).

    Raises ValueError for an attention operator without a formula, which would silently count as free.
    """
    packet = operator._overloadpacket
    if packet in _CPU_ATTENTION:
        return _CPU_ATTENTION[packet](*args, **kwargs)
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out)
    name = operator_name(operator)
    if ("attention" in name or "sdp" in name) and name not in _ATTENTION_WITHOUT_WORK:
        raise InputError(
            f"no FLOP formula for the attention operator {operator}: its work would count as 0. "
            f"Add one to {__name__}._CPU_ATTENTION."
        )
    return 0


def operator_name(operator: Any) -> str:
    """The operator's bare name, for example `addmm`."""
    return operator._schema.name.split("::")[-1]


def is_mutating(operator: Any) -> bool:
    """Whether the operator writes into one of its arguments."""
    return bool(operator._schema.is_mutable)


def written_tensors(operator: Any, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """The tensors among an operator's arguments that its schema says it may write into."""
    arguments = operator._schema.arguments
    values = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    written = [argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write]
    return tensors_in([values[name] for name in written if name in values])


def profiled_growth_bytes(step: Callable[[], object], without_scratch_of: Collection[str] = ()) -> int:
    """The most memory that one call of `step` held above its start, from the CPU allocator's own events.

    Unlike a dispatch mode this sees buffers that live inside one operator (oneDNN's layouts); those of the operators
    named in `without_scratch_of` are left out.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    for event in events:
        if event.name() in without_scratch_of:  # of what it did to the memory, only what it left counts
            start, end = event.start_ns(), event.start_ns() + event.duration_ns()
            left = sum(num_bytes for time, num_bytes in changes if start <= time <= end)
            changes = [change for change in changes if not start <= change[0] <= end] + [(end, left)]
    held = most = 0
    for _, num_bytes in sorted(changes, key=lambda change: change[0]):
        held += num_bytes
        most = max(most, held)
    return most
