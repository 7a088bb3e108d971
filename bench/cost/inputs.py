"""What one denoiser call is fed: latents packed and prompts encoded as each family's pipeline has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bench.cost.families import Family


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one call sees: tokens a side of the (square) image, prompt tokens, batch."""

    side: int
    text_tokens: int
    batch_size: int
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"

    def empty(self, *shape: int) -> torch.Tensor:
        """An uninitialised tensor of the shape's dtype and device (zeros: real devices must not see NaN)."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    @property
    def sigma(self) -> torch.Tensor:
        """A noise level for each item [B]."""
        return torch.full((self.batch_size,), 0.5, dtype=self.dtype, device=self.device)


def denoiser_inputs(family: Family, shape: Shape) -> dict[str, Any]:
    """The keyword arguments of one forward of the family's transformer, latents packed as its pipeline packs them."""
    return {**family.inputs(family.transformer.config, shape), "return_dict": False}


def encoded_prompt(family: Family, shape: Shape) -> dict[str, Any]:
    """An encoded prompt [B, ...] as l2p's architecture of the same name takes it, every token real.

    The masks of prompts without padding are those that torch and diffusers treat as "all": one with values would make
    shapes depend on data, which fake tensors do not have.
    """
    return family.prompt(family.transformer.config, shape)
