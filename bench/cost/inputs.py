"""What one denoiser call is fed: latents packed and prompts encoded as each family's pipeline has them."""

from __future__ import annotations

from collections.abc import Callable
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


def _flux_inputs(config: dict, shape: Shape) -> dict[str, Any]:
    size, tokens = shape.batch_size, shape.side**2
    return {
        "hidden_states": shape.empty(size, tokens, config["in_channels"]),
        "encoder_hidden_states": shape.empty(size, shape.text_tokens, config["joint_attention_dim"]),
        "pooled_projections": shape.empty(size, config["pooled_projection_dim"]),
        "timestep": shape.sigma,
        "img_ids": shape.empty(tokens, 3),
        "txt_ids": shape.empty(shape.text_tokens, 3),
        "guidance": shape.sigma if config.get("guidance_embeds") else None,
    }


def _flux2_inputs(config: dict, shape: Shape) -> dict[str, Any]:
    size, tokens = shape.batch_size, shape.side**2
    return {
        "hidden_states": shape.empty(size, tokens, config["in_channels"]),
        "encoder_hidden_states": shape.empty(size, shape.text_tokens, config["joint_attention_dim"]),
        "timestep": shape.sigma,
        "img_ids": shape.empty(tokens, 4),
        "txt_ids": shape.empty(shape.text_tokens, 4),
        "guidance": shape.sigma,
    }


def _sd3_inputs(config: dict, shape: Shape) -> dict[str, Any]:
    size, side = shape.batch_size, shape.side * config["patch_size"]
    return {
        "hidden_states": shape.empty(size, config["in_channels"], side, side),
        "encoder_hidden_states": shape.empty(size, shape.text_tokens, config["joint_attention_dim"]),
        "pooled_projections": shape.empty(size, config["pooled_projection_dim"]),
        "timestep": shape.sigma,
    }


def _zimage_inputs(config: dict, shape: Shape) -> dict[str, Any]:
    side = shape.side * config["all_patch_size"][0]
    return {
        "x": list(shape.empty(shape.batch_size, config["in_channels"], 1, side, side).unbind(0)),
        "t": shape.sigma,
        "cap_feats": list(shape.empty(shape.batch_size, shape.text_tokens, config["cap_feat_dim"]).unbind(0)),
    }


def _qwenimage_inputs(config: dict, shape: Shape) -> dict[str, Any]:
    size = shape.batch_size
    return {
        "hidden_states": shape.empty(size, shape.side**2, config["in_channels"]),
        "encoder_hidden_states": shape.empty(size, shape.text_tokens, config["joint_attention_dim"]),
        "timestep": shape.sigma,
        "img_shapes": [[(1, shape.side, shape.side)]] * size,
    }


_INPUTS: dict[str, Callable[[dict, Shape], dict[str, Any]]] = {
    "flux": _flux_inputs,
    "sd3": _sd3_inputs,
    "zimage": _zimage_inputs,
    "qwenimage": _qwenimage_inputs,
    "flux2": _flux2_inputs,
}


def denoiser_inputs(family: Family, shape: Shape) -> dict[str, Any]:
    """The keyword arguments of one forward of the family's transformer, latents packed as its pipeline packs them."""
    return {**_INPUTS[family.name](family.transformer.config, shape), "return_dict": False}


def encoded_prompt(family: Family, shape: Shape) -> dict[str, Any]:
    """An encoded prompt [B, ...] as l2p's architecture of the same name takes it, every token real.

    The masks of prompts without padding are those that torch and diffusers treat as "all": one with values would make
    shapes depend on data, which fake tensors do not have.
    """
    config, size = family.transformer.config, shape.batch_size
    width = config["cap_feat_dim" if family.name == "zimage" else "joint_attention_dim"]
    embeds = shape.empty(size, shape.text_tokens, width)
    if "pooled_projection_dim" in config:
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": shape.empty(size, config["pooled_projection_dim"])}
    masks: dict[str, Any] = {"zimage": [slice(None)] * size, "qwenimage": None}
    return {"prompt_embeds": embeds, "mask": masks.get(family.name)}
