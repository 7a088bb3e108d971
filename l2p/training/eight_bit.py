"""AdamW whose two moments have 8 bits: a quarter of their memory. bitsandbytes or torchao, whichever is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from l2p.errors import InputError

PACKAGES = ("bitsandbytes", "torchao")


def eight_bit_adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW8bit on a transfer's parameter groups. Raises ValueError where neither package is installed.

    Source: arXiv 2110.02861. bitsandbytes' for parameters that lie whole on a GPU; torchao's knows DTensors too.
    """
    check_eight_bit()
    if find_spec("torchao") is not None:
        from torchao.optim import AdamW8bit
    else:
        from bitsandbytes.optim import AdamW8bit
    return AdamW8bit(groups, betas=betas, weight_decay=weight_decay)


def check_eight_bit() -> None:
    """Raise ValueError that says what to install, unless one of the packages is there."""
    if not any(find_spec(name) is not None for name in PACKAGES):
        raise InputError(
            f"optimizer_bits 8 needs one of {' and '.join(PACKAGES)}, which are not installed: `pip install torchao`, "
            "or leave optimizer_bits out"
        )
