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
from l2p.errors import InputError

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
    "check_source_class",
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
        raise InputError(f"unknown architecture {name!r}; known: {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architecture_of(class_name: str) -> Architecture:
    """Return the family of a diffusers transformer or pipeline class. Raises ValueError that lists the known ones."""
    for architecture in ARCHITECTURES.values():
        if class_name in (architecture.transformer_class, architecture.pipeline_class):
            return architecture
    known = {a.transformer_class: a.name for a in ARCHITECTURES.values()}
    raise InputError(f"no architecture for the class {class_name!r}; known: {known}")


def check_source_class(class_name: str, architecture: str | None = None) -> None:
    """Raise ValueError unless a diffusers pipeline class is a family's own, or the named family's.

    A kindred class (FLUX.2-klein's, an image-to-image pipeline's) may encode prompts by another rule.
    """
    allowed = {a.pipeline_class: name for name, a in ARCHITECTURES.items() if architecture in (None, name)}
    if class_name not in allowed:
        raise InputError(f"the source is a {class_name}; what can be turned into a pixel model: {allowed}")


@torch.no_grad()
def encode_prompt(pipeline: object, architecture: str, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    """Encode prompts with the family's own pipeline code, whether `pipeline` is a source or a pixel pipeline.

    Returns tensors [B, ...] by name. Raises ValueError for an unknown architecture, and for missing or foreign
    text encoders.
    """
    family = get_architecture(architecture)
    return family.encode_prompt(source_pipeline(pipeline, family.pipeline_class), prompts, max_sequence_length)
