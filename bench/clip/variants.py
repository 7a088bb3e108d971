"""The published recipes of caption scores by name: model, length of a caption, mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l2p.errors import InputError

Kind = Literal["clip", "fg-clip-2"]


@dataclass(frozen=True, kw_only=True)
class ClipVariant:
    """One recipe. `model` is the hub id that is loaded where no other is given.

    `max_tokens`: what of a caption is read. `keep_end`: a longer one still ends in the end mark; torchmetrics cuts it
    off, and CLIP then reads its text from a wrong place (26 becomes 17). `pixels`: what the image processor is given.
    `mean_of`: the mean of means of so many images in order, a short last batch weighing as much; 0: of images.
    """

    name: str
    source: str
    kind: Kind
    model: str
    max_tokens: int
    keep_end: bool = True
    pixels: Literal["float", "uint8"] = "uint8"
    mean_of: int = 0


VARIANTS: dict[str, ClipVariant] = {
    "pixverve": ClipVariant(
        name="pixverve",
        source="PixVerve-95K, eval/metrics.py, compute_clip_score",
        kind="clip",
        model="openai/clip-vit-base-patch16",
        max_tokens=77,
        keep_end=False,
        pixels="float",
        mean_of=4,
    ),
    "diffusion4k": ClipVariant(
        name="diffusion4k",
        source="Diffusion-4K, generate_and_eval_fid.py",
        kind="clip",
        model="openai/clip-vit-base-patch16",
        max_tokens=77,
        keep_end=False,
        mean_of=1,
    ),
    "clip": ClipVariant(
        name="clip",
        source="Hessel et al. 2021 without its factor 2.5; a long caption keeps its end mark",
        kind="clip",
        model="openai/clip-vit-large-patch14",
        max_tokens=77,
    ),
    "long-clip": ClipVariant(
        name="long-clip",
        source="Zhang et al. 2024, 248 tokens",
        kind="clip",
        model="zer0int/LongCLIP-L-Diffusers",
        max_tokens=248,
    ),
    "fg-clip-2": ClipVariant(
        name="fg-clip-2",
        source="PixVerve-95K, eval/metrics.py, compute_fgclip2_score",
        kind="fg-clip-2",
        model="qihoo360/fg-clip2-base",
        max_tokens=196,
    ),
}
"""The published recipes."""


def find_variant(name: str) -> ClipVariant:
    """The variant of that name; InputError lists the known ones."""
    if name not in VARIANTS:
        raise InputError(f"unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def max_num_patches(width: int, height: int) -> int:
    """FG-CLIP 2: how many patches of 16 pixels a picture is brought to, at most (PixVerve's determine_max_value)."""
    patches = (width // 16) * (height // 16)
    return next((most for most, above in ((1024, 784), (784, 576), (576, 256), (256, 128)) if patches > above), 128)
