"""Modules of the published pipelines that several families share or that are long: VAEs and text encoders.

Configurations are those of the published diffusers and transformers folders, written out, so nothing is downloaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Component:
    """One module of a pipeline: its class as `library:name`, its configuration, its published parameter count (0: not
    stated)."""

    cls: str
    config: dict[str, Any]
    num_parameters: int = 0


def build(component: Component) -> nn.Module:
    """Construct a component from its configuration with torch's current default device (the meter uses meta)."""
    library, name = component.cls.split(":")
    cls = getattr(importlib.import_module(library), name)
    if library == "diffusers":
        return cls(**component.config).eval()
    config = cls.config_class(**component.config)
    return cls._from_config(config).eval() if hasattr(cls, "_from_config") else cls(config).eval()


KL = {
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
FLUX_VAE = Component(cls="diffusers:AutoencoderKL", config=KL, num_parameters=83_800_000)
CLIP_L = Component(
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
CLIP_L_PROJECTED = Component(
    cls="transformers:CLIPTextModelWithProjection",
    config={**CLIP_L.config, "projection_dim": 768},
    num_parameters=123_650_304,
)
CLIP_G = Component(
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
T5_XXL = Component(
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
QWEN3_4B = Component(
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
QWEN25_VL_7B = Component(
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
MISTRAL_24B = Component(
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
