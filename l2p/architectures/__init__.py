"""The source families: one file each holds all of a family's quirks."""

import torch

from l2p.architectures.base import (
    Architecture,
    EncodedPrompt,
    Patches,
    latent_tokens,
    patchify,
    source_pipeline,
    source_velocity,
    split_prompts,
    stack_prompts,
)
from l2p.architectures.flux import FLUX
from l2p.architectures.flux2 import FLUX2
from l2p.architectures.qwenimage import QWENIMAGE
from l2p.architectures.sd3 import SD3
from l2p.architectures.tiny import TinySizes
from l2p.architectures.zimage import ZIMAGE

ARCHITECTURES: dict[str, Architecture] = {
    "flux": FLUX,
    "sd3": SD3,
    "zimage": ZIMAGE,
    "qwenimage": QWENIMAGE,
    "flux2": FLUX2,
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "EncodedPrompt",
    "Patches",
    "TinySizes",
    "architecture_of",
    "encode_prompt",
    "get_architecture",
    "latent_tokens",
    "patchify",
    "source_velocity",
    "split_prompts",
    "stack_prompts",
]


def get_architecture(name: str) -> Architecture:
    """Return a family by name. Raises ValueError that lists the known ones."""
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architecture_of(class_name: str) -> Architecture:
    """Return the family of a diffusers transformer or pipeline class. Raises ValueError that lists the known ones."""
    for architecture in ARCHITECTURES.values():
        if class_name in (architecture.transformer_class, architecture.pipeline_class):
            return architecture
    known = {a.transformer_class: a.name for a in ARCHITECTURES.values()}
    raise ValueError(f"no architecture for the class {class_name!r}; known: {known}")


@torch.no_grad()
def encode_prompt(pipeline: object, architecture: str, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    """Encode prompts with the family's own pipeline code, whether `pipeline` is a source or a pixel pipeline.

    Returns tensors [B, ...] by name. Raises ValueError for an unknown architecture.
    """
    family = get_architecture(architecture)
    return family.encode_prompt(source_pipeline(pipeline, family.pipeline_class), prompts, max_sequence_length)
