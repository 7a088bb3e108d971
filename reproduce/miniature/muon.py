"""Muon in float32, all matrices of one shape at once.

torch.optim.Muon orthogonalises in bfloat16, one matrix at a time; on a CPU without bfloat16 instructions that took 65 %
of this project's training step (py-spy, AMD EPYC). The update rule is the same, with `adjust_lr_fn="match_rms_adamw"`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from l2p.errors import InputError

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al. 2024, as in torch.optim.Muon
_NUM_ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz: move the singular values of [N, R, C] to about 1 (0.7 to 1.2), R <= C."""
    a, b, c = _COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT  # [N, R, R]
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look-ahead, orthogonalised; for 2-D parameters only (ValueError otherwise)."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        odd = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if odd:
            raise InputError(f"Muon takes matrices; given shapes {odd}: train those with AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                self._update(params, shape, group)

    def _update(self, params: list[nn.Parameter], shape: tuple[int, ...], group: dict) -> None:
        directions = []
        for p in params:
            assert p.grad is not None  # `step` took only those
            buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            directions.append(p.grad.lerp(buffer, group["momentum"]))
        stacked = torch.stack(directions)  # [N, R, C]
        tall = shape[0] > shape[1]
        updates = orthogonalise(stacked.mT).mT if tall else orthogonalise(stacked)
        rate = group["lr"] * 0.2 * max(shape) ** 0.5  # the root mean square that AdamW's update has
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
