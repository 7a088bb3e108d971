"""The optimisers that the cases name, for the meter and for a real device, and their state after a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bench.cost import torch_private

LEARNING_RATE, WEIGHT_DECAY = 5e-5, 0.01  # the paper's AdamW
BLOCK_8BIT, SMALLEST_8BIT = 256, 4096  # bitsandbytes: one float32 maximum a block of 256; small tensors stay float32


class EightBitAdamWState(torch.optim.Optimizer):
    """The memory of bitsandbytes' AdamW8bit by its published layout, without its arithmetic: it never changes a weight.

    Two uint8 numbers a parameter, two float32 maxima a block of 256, two 1 KiB code books a tensor; its kernel works
    in place.
    Only for predicting memory. Raises RuntimeError on real tensors, which it would not train.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(list(parameters), {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Allocate the state on the first call."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if not torch_private.is_fake(parameter):
                raise RuntimeError("EightBitAdamWState only stands for memory: it would not train real tensors")
            if parameter not in self.state:
                self.state[parameter] = self._layout(parameter)

    def _layout(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        size, device = parameter.numel(), parameter.device
        if size < SMALLEST_8BIT:
            return {name: torch.empty(size, dtype=torch.float32, device=device) for name in ("first", "second")}
        blocks = -(-size // BLOCK_8BIT)
        return {
            **{name: torch.empty(size, dtype=torch.uint8, device=device) for name in ("first", "second")},
            **{name: torch.empty(blocks, dtype=torch.float32, device=device) for name in ("first_max", "second_max")},
            **{name: torch.empty(256, dtype=torch.float32, device=device) for name in ("first_code", "second_code")},
        }


def make_optimizer(name: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW as the cases name it: `foreach` (one parameter-sized temporary), `fused` (none), `8bit` (memory only)."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "8bit":
        return EightBitAdamWState(parameters)
    return torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=name == "foreach", fused=name == "fused"
    )


def fill_state(optimizer: torch.optim.Optimizer, output: torch.Tensor) -> None:
    """Give a fresh optimiser the state that it has after a first step on `output`, without that step's backward pass.

    Parameters that `output` does not depend on (the last text stream of Qwen-Image) never get a gradient, nor a state.
    """
    for parameter in _parameters_behind(output):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _parameters_behind(output: torch.Tensor) -> list[nn.Parameter]:
    """The leaves of the autograd graph."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]
