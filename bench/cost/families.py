"""The source families at their published size, one entry each: configurations, parameter counts, inputs, samplers.

Configurations are those of the published diffusers and transformers folders, written out, so nothing is downloaded.
No torch is imported, so that reports read the samplers and limits too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cost.components import (
    CLIP_G,
    CLIP_L,
    CLIP_L_PROJECTED,
    FLUX_VAE,
    KL,
    MISTRAL_24B,
    QWEN3_4B,
    QWEN25_VL_7B,
    T5_XXL,
    Component,
)
from l2p.errors import InputError

if TYPE_CHECKING:
    from bench.cost.inputs import Shape


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A published way to draw an image: steps, denoiser forwards a step (2 = guidance), where it is published."""

    num_inference_steps: int
    forwards_per_step: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """A source: denoiser, VAE, text encoders, prompt length in tokens, pixels a token's side spans, its sampler, its
    largest side; `pixel_options` are the pixel model's besides its patch ("detailer": fields of DetailerConfig).

    `inputs` makes what its transformer is called with, `prompt` what l2p's architecture takes, both from the
    transformer's configuration and a Shape.
    """

    name: str
    transformer: Component
    vae: Component
    text_encoders: tuple[Component, ...]
    text_tokens: int
    pixels_per_token: int
    sampler: Sampler
    inputs: Callable[[dict, Shape], dict[str, Any]]
    prompt: Callable[[dict, Shape], dict[str, Any]]
    max_resolution: int = 10240
    pixel_options: dict[str, Any] = field(default_factory=dict)
    published: bool = True


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


def _pooled_prompt(config: dict, shape: Shape) -> dict[str, Any]:
    embeds = shape.empty(shape.batch_size, shape.text_tokens, config["joint_attention_dim"])
    pooled = shape.empty(shape.batch_size, config["pooled_projection_dim"])
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _masked_prompt(config: dict, shape: Shape) -> dict[str, Any]:
    embeds = shape.empty(shape.batch_size, shape.text_tokens, config["joint_attention_dim"])
    return {"prompt_embeds": embeds, "mask": None}


def _zimage_prompt(config: dict, shape: Shape) -> dict[str, Any]:
    embeds = shape.empty(shape.batch_size, shape.text_tokens, config["cap_feat_dim"])
    return {"prompt_embeds": embeds, "mask": [slice(None)] * shape.batch_size}


FAMILIES: dict[str, Family] = {
    "flux": Family(
        name="flux",
        transformer=Component(
            cls="diffusers:FluxTransformer2DModel",
            config={
                "in_channels": 64,
                "num_layers": 19,
                "num_single_layers": 38,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "guidance_embeds": True,
                "axes_dims_rope": (16, 56, 56),
            },
            num_parameters=11_901_000_000,
        ),
        vae=FLUX_VAE,
        text_encoders=(CLIP_L, T5_XXL),
        text_tokens=512,
        pixels_per_token=16,
        inputs=_flux_inputs,
        prompt=_pooled_prompt,
        sampler=Sampler(
            num_inference_steps=50, forwards_per_step=1, source="FLUX.1-dev model card (distilled guidance)"
        ),
    ),
    "sd3": Family(
        name="sd3",
        transformer=Component(
            cls="diffusers:SD3Transformer2DModel",
            config={
                "sample_size": 128,
                "patch_size": 2,
                "in_channels": 16,
                "num_layers": 24,
                "attention_head_dim": 64,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "out_channels": 16,
                "pos_embed_max_size": 192,
            },
            num_parameters=2_028_000_000,
        ),
        vae=FLUX_VAE,
        text_encoders=(CLIP_L_PROJECTED, CLIP_G, T5_XXL),
        text_tokens=333,
        pixels_per_token=16,
        inputs=_sd3_inputs,
        prompt=_pooled_prompt,
        sampler=Sampler(num_inference_steps=28, forwards_per_step=2, source="SD3-medium model card (guidance 7)"),
        max_resolution=192 * 16,  # its table of positions ends there
    ),
    "zimage": Family(
        name="zimage",
        transformer=Component(
            cls="diffusers:ZImageTransformer2DModel",
            config={
                "all_patch_size": (2,),
                "all_f_patch_size": (1,),
                "in_channels": 16,
                "dim": 3840,
                "n_layers": 30,
                "n_refiner_layers": 2,
                "n_heads": 30,
                "n_kv_heads": 30,
                "cap_feat_dim": 2560,
                "rope_theta": 256.0,
                "t_scale": 1000.0,
                "axes_dims": [32, 48, 48],
                "axes_lens": [1536, 512, 512],
            },
            num_parameters=6_155_000_000,
        ),
        vae=FLUX_VAE,
        text_encoders=(QWEN3_4B,),
        text_tokens=256,
        pixels_per_token=16,
        inputs=_zimage_inputs,
        prompt=_zimage_prompt,
        sampler=Sampler(num_inference_steps=8, forwards_per_step=1, source="Z-Image-Turbo (8 forwards; paper.md)"),
        max_resolution=512 * 16,  # its rotary table holds 512 positions an axis
    ),
    "qwenimage": Family(
        name="qwenimage",
        transformer=Component(
            cls="diffusers:QwenImageTransformer2DModel",
            config={
                "patch_size": 2,
                "in_channels": 64,
                "out_channels": 16,
                "num_layers": 60,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 3584,
                "guidance_embeds": False,
                "axes_dims_rope": (16, 56, 56),
            },
            num_parameters=20_430_000_000,
        ),
        vae=Component(
            cls="diffusers:AutoencoderKLQwenImage",
            config={
                "base_dim": 96,
                "z_dim": 16,
                "dim_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_scales": [],
                "dropout": 0.0,
            },
            num_parameters=126_900_000,
        ),
        text_encoders=(QWEN25_VL_7B,),
        text_tokens=512,
        pixels_per_token=16,
        inputs=_qwenimage_inputs,
        prompt=_masked_prompt,
        sampler=Sampler(num_inference_steps=50, forwards_per_step=2, source="Qwen-Image model card (true guidance 4)"),
    ),
    "flux2": Family(
        name="flux2",
        transformer=Component(
            cls="diffusers:Flux2Transformer2DModel",
            config={
                "patch_size": 1,
                "in_channels": 128,
                "num_layers": 8,
                "num_single_layers": 48,
                "attention_head_dim": 128,
                "num_attention_heads": 48,
                "joint_attention_dim": 15360,
                "timestep_guidance_channels": 256,
                "mlp_ratio": 3.0,
                "axes_dims_rope": (32, 32, 32, 32),
                "rope_theta": 2000,
            },
            num_parameters=32_223_000_000,
        ),
        vae=Component(
            cls="diffusers:AutoencoderKLFlux2",
            config={
                **KL,
                "latent_channels": 32,
                "use_quant_conv": True,
                "use_post_quant_conv": True,
                "patch_size": (2, 2),
            },
            num_parameters=84_050_000,
        ),
        text_encoders=(MISTRAL_24B,),
        text_tokens=512,
        pixels_per_token=16,
        inputs=_flux2_inputs,
        prompt=_masked_prompt,
        sampler=Sampler(
            num_inference_steps=50, forwards_per_step=1, source="FLUX.2-dev model card (distilled guidance)"
        ),
    ),
}

FIGURE4_FAMILY, FIGURE4_RESOLUTION = "zimage", 4096  # the paper shows its figure 4 for one source
# the paper's pixel model: 30 steps with guidance at 1K, 50 at high resolution (released settings)
L2P_SAMPLER = Sampler(num_inference_steps=30, forwards_per_step=2, source="L2P release, 1K (guidance 2)")
L2P_HIGH_RESOLUTION_SAMPLER = Sampler(
    num_inference_steps=50, forwards_per_step=2, source="L2P release, 4K (guidance 4)"
)


def family_named(name: str) -> Family:
    """The published family of that name; ValueError lists the known ones."""
    if name not in FAMILIES:
        raise InputError(f"unknown family {name!r}: known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_from_folder(
    name: str, folder: Path, *, text_tokens: int, sampler: Sampler, pixel_options: dict[str, Any] | None = None
) -> Family:
    """The family with the configurations of a diffusers pipeline folder (a miniature, a variant).

    A family that is not published here can be built and counted, but nothing says what its calls are fed: predicting
    one raises ValueError. Raises FileNotFoundError when `transformer/config.json` or `vae/config.json` is missing.
    """
    known = FAMILIES.get(name)
    vae = _component_from(folder / "vae" / "config.json")
    factor = 2 ** (len(vae.config.get("block_out_channels", vae.config.get("dim_mult", (1,) * 4))) - 1)
    return Family(
        name=name,
        transformer=_component_from(folder / "transformer" / "config.json"),
        vae=vae,
        text_encoders=(),
        text_tokens=text_tokens,
        pixels_per_token=2 * factor,
        sampler=sampler,
        inputs=known.inputs if known else partial(_not_known, name),
        prompt=known.prompt if known else partial(_not_known, name),
        max_resolution=known.max_resolution if known else Family.max_resolution,
        pixel_options=pixel_options or {},
        published=False,
    )


def _not_known(name: str, config: dict, shape: Shape) -> dict[str, Any]:
    raise InputError(
        f"nothing says what a call of family {name!r} is fed: add it to FAMILIES in bench/cost/families.py, which has "
        f"{', '.join(FAMILIES)}"
    )


def _component_from(path: Path) -> Component:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a source folder holds a diffusers pipeline with transformer/ and vae/"
        )
    config = json.loads(path.read_text())
    if "_class_name" not in config:
        raise InputError(f"{path} names no class (_class_name): it is not the config of a diffusers model")
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return Component(cls=f"diffusers:{config['_class_name']}", config=own)
