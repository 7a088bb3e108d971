"""Small models of the real classes, for comparisons that must run on real tensors."""

from dataclasses import replace

from bench.cost.families import FAMILIES, Family

CONFIGS = {
    "flux": {
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 8,
        "axes_dims_rope": (4, 6, 6),
    },
    "sd3": {
        "sample_size": 16,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 16,
    },
    "zimage": {
        "dim": 32,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 24,
        "axes_dims": [4, 6, 6],
        "axes_lens": [64, 16, 16],
    },
    "qwenimage": {
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": (4, 6, 6),
    },
}


def small_family(name: str) -> Family:
    """The published family with a tiny transformer."""
    family = FAMILIES[name]
    config = {**family.transformer.config, **CONFIGS[name]}
    return replace(family, transformer=replace(family.transformer, config=config, num_parameters=0), text_tokens=16)
