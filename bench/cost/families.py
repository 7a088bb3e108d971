"""The five source families at their published size: configurations, parameter counts, samplers.

Configurations are those of the published diffusers and transformers folders, written out, so nothing is downloaded.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Component:
    """One module of a pipeline: its class as `library:name`, its configuration, its published parameter count (0: not
    stated)."""

    cls: str
    config: dict[str, Any]
    num_parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A published way to draw an image: steps, denoiser forwards a step (2 = guidance), where it is published."""

    num_inference_steps: int
    forwards_per_step: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """A source: denoiser, VAE, text encoders, prompt length in tokens, pixels a token's side spans, its sampler, its
    largest side; `pixel_options` are the pixel model's besides its patch ("detailer": fields of DetailerConfig)."""

    name: str
    transformer: Component
    vae: Component
    text_encoders: tuple[Component, ...]
    text_tokens: int
    pixels_per_token: int
    sampler: Sampler
    max_resolution: int = 10240
    pixel_options: dict[str, Any] = field(default_factory=dict)
    published: bool = True


_KL = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_FLUX_VAE = Component(cls="diffusers:AutoencoderKL", config=_KL, num_parameters=83_800_000)
_CLIP_L = Component(
    cls="transformers:CLIPTextModel",
    config={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
    },
    num_parameters=123_060_480,
)
_CLIP_L_PROJECTED = Component(
    cls="transformers:CLIPTextModelWithProjection",
    config={**_CLIP_L.config, "projection_dim": 768},
    num_parameters=123_650_304,
)
_CLIP_G = Component(
    cls="transformers:CLIPTextModelWithProjection",
    config={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "vocab_size": 49408,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    num_parameters=694_659_840,
)
_T5_XXL = Component(
    cls="transformers:T5EncoderModel",
    config={
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_layers": 24,
        "num_heads": 64,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
    num_parameters=4_762_310_656,
)
_QWEN3_4B = Component(
    cls="transformers:Qwen3Model",
    config={
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    num_parameters=4_022_468_096,
)
_QWEN25_VL_7B = Component(
    cls="transformers:Qwen2_5_VLForConditionalGeneration",
    config={
        "text_config": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
        },
    },
    num_parameters=8_292_166_656,
)
_MISTRAL_24B = Component(
    cls="transformers:Mistral3ForConditionalGeneration",
    config={
        "text_config": {
            "model_type": "mistral",
            "vocab_size": 131072,
            "hidden_size": 5120,
            "intermediate_size": 32768,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "sliding_window": None,
        },
        "tie_word_embeddings": False,
    },
    num_parameters=24_011_361_280,
)

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
        vae=_FLUX_VAE,
        text_encoders=(_CLIP_L, _T5_XXL),
        text_tokens=512,
        pixels_per_token=16,
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
        vae=_FLUX_VAE,
        text_encoders=(_CLIP_L_PROJECTED, _CLIP_G, _T5_XXL),
        text_tokens=333,
        pixels_per_token=16,
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
        vae=_FLUX_VAE,
        text_encoders=(_QWEN3_4B,),
        text_tokens=256,
        pixels_per_token=16,
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
        text_encoders=(_QWEN25_VL_7B,),
        text_tokens=512,
        pixels_per_token=16,
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
                **_KL,
                "latent_channels": 32,
                "use_quant_conv": True,
                "use_post_quant_conv": True,
                "patch_size": (2, 2),
            },
            num_parameters=84_050_000,
        ),
        text_encoders=(_MISTRAL_24B,),
        text_tokens=512,
        pixels_per_token=16,
        sampler=Sampler(
            num_inference_steps=50, forwards_per_step=1, source="FLUX.2-dev model card (distilled guidance)"
        ),
    ),
}

# the paper's pixel model: 30 steps with guidance at 1K, 50 at high resolution (released settings)
L2P_SAMPLER = Sampler(num_inference_steps=30, forwards_per_step=2, source="L2P release, 1K (guidance 2)")
L2P_HIGH_RESOLUTION_SAMPLER = Sampler(
    num_inference_steps=50, forwards_per_step=2, source="L2P release, 4K (guidance 4)"
)


def build(component: Component) -> nn.Module:
    """Construct a component from its configuration with torch's current default device (the meter uses meta)."""
    library, name = component.cls.split(":")
    cls = getattr(importlib.import_module(library), name)
    if library == "diffusers":
        return cls(**component.config).eval()
    config = cls.config_class(**component.config)
    return cls._from_config(config).eval() if hasattr(cls, "_from_config") else cls(config).eval()


def family_named(name: str) -> Family:
    """The published family of that name; ValueError lists the known ones."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}: known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_from_folder(
    name: str, folder: Path, *, text_tokens: int, sampler: Sampler, pixel_options: dict[str, Any] | None = None
) -> Family:
    """The family with the configurations of a diffusers pipeline folder (a miniature, a variant) in place of the
    published ones.

    Raises FileNotFoundError when `transformer/config.json` or `vae/config.json` is missing.
    """
    family = family_named(name)
    vae = _component_from(folder / "vae" / "config.json", family.vae.cls)
    transformer = _component_from(folder / "transformer" / "config.json", family.transformer.cls)
    factor = 2 ** (len(vae.config.get("block_out_channels", vae.config.get("dim_mult", (1,) * 4))) - 1)
    return replace(
        family,
        transformer=transformer,
        vae=vae,
        text_encoders=(),
        text_tokens=text_tokens,
        pixels_per_token=2 * factor,
        sampler=sampler,
        pixel_options=pixel_options or {},
        published=False,
    )


def _component_from(path: Path, cls: str) -> Component:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a source folder holds a diffusers pipeline with transformer/ and vae/"
        )
    config = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")}
    return Component(cls=cls, config=config)
