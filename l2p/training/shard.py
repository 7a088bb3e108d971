"""A model cut over processes (FSDP2), or its frozen part kept in the CPU's memory; and whole tensors of it again.

torch's own `fully_shard`, unit by unit: what trains is float32, what is frozen bfloat16, and a unit gathers one dtype
at its best. accelerate's wrapper of it is not used: it makes frozen weights float32, and knows no CPUs to test on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import get_rank
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

Placement = Literal["replicate", "shard", "offload"]
"""Where a transfer's weights lie. "replicate": all of them on every GPU, which share gradients (DDP). "shard": a part
on each GPU (FSDP2). "offload": as "shard", and the frozen units' part in the CPU's memory until its turn comes."""

PLACEMENTS: tuple[Placement, ...] = ("replicate", "shard", "offload")


def shard(
    model: nn.Module, units: Sequence[nn.Module], kept: nn.Module, device: torch.device, *, offload: bool
) -> None:
    """Cut a model's parameters over all processes, in place: parameters become DTensors, of which each has its part.

    units: modules that are gathered for their own forward and backward pass and let go again; what trains in one is of
    one dtype, and its output is what a loss comes from. kept: the module around units whose own parameters stay
    gathered from forward to backward pass, as its output leads nowhere. offload: units of which nothing trains stay in
    the CPU's memory. A process that was started alone is a group of one.
    """
    from torch.distributed import HashStore, get_backend, get_world_size, init_process_group, is_initialized
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    if not is_initialized():
        init_process_group("nccl" if device.type == "cuda" else "gloo", store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (get_world_size(),))
    plain, in_memory = OffloadPolicy(), CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for unit in units:
        frozen = not any(parameter.requires_grad for parameter in unit.parameters())
        fully_shard(unit, mesh=mesh, offload_policy=in_memory if offload and frozen else plain)
    fully_shard(kept, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)
    if get_backend() == "gloo":  # which knows no average
        for module in (*units, kept, model):
            module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # fully_shard gave it this method


def let_go(model: nn.Module) -> None:
    """Drop what a cut model has gathered, after its weights were changed in place: they are then gathered anew."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a part of one that is cut over processes."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is cut over processes as a whole; others as they are. All processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def on_first(tensor: Tensor) -> Tensor:
    """The same in the first process's memory; other processes, which must ask too, are given nothing to hold."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if get_rank() == 0 else full.new_empty(0, device="cpu")


def state_on_first(value: Any) -> Any:
    """A state_dict with each tensor as `on_first` gives it."""
    return _mapped(value, on_first)


def like_parameters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole optimizer's state cut as its parameters are; tensors of another shape (counts of steps) stay."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {index: _mapped(one, partial(_cut_as, parameters[index])) for index, one in state["state"].items()}
    return {**state, "state": cut}


def _cut_as(reference: Tensor, tensor: Tensor) -> Tensor:
    return like(tensor, reference)


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor cut as another of its shape is, this process's part, and in the same layout of memory.

    AdamW's fused kernel walks weights and moments side by side, whatever their strides say.
    """
    if tensor.shape != reference.shape:
        return tensor
    if not isinstance(reference, DTensor):
        same = tensor.stride() == reference.stride()
        return tensor if same else torch.empty_like(reference, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    there = tensor.contiguous().to(reference.device)
    return distribute_tensor(there, reference.device_mesh, reference.placements, src_data_rank=None)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _mapped(one, function) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(one, function) for one in value)
    return value
