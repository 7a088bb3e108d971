"""The miniature's source models: every family's own diffusers pipeline at a few million parameters, built untrained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLFlux2

from l2p.architectures import ARCHITECTURES, TinySizes, get_architecture
from l2p.errors import InputError
from reproduce.miniature.prompts import MAX_SEQUENCE_LENGTH, vocabulary
from reproduce.miniature.scenes import DEFAULT_LAYOUT, RESOLUTION, Layout

WEIGHTS = Path(__file__).parent / "weights"


def miniature_sizes(
    text_width: int = 96, head_dim: int = 32, vae_channels: tuple[int, ...] = (16, 32, 64)
) -> TinySizes:
    """6 blocks of 4 heads of `head_dim`, 36 image tokens of 8 px at 48 px, noise shift 3, text of `text_width`."""
    return TinySizes(
        num_blocks=6,
        num_heads=4,
        head_dim=head_dim,
        words=vocabulary(),
        max_length=MAX_SEQUENCE_LENGTH,
        text_width=text_width,
        num_text_layers=2,
        latent_channels=8,
        vae_channels=vae_channels,
        shift=3.0,
    )


@dataclass(frozen=True, kw_only=True)
class MiniatureSource:
    """What a family's miniature needs beside its `Architecture`.

    prompt_starts: where in an encoded prompt its first word stands, once for each text encoder whose tokens follow one
    another. max_sequence_length: tokens of the longest prompt, with what a chat template puts around it.
    guidance_scale: what the source draws best with, 1 = off. projection_learning_rate: of the input projection in a
    transfer; None: as the head's.
    """

    sizes: TinySizes = field(default_factory=miniature_sizes)
    prompt_starts: tuple[int, ...] = (0,)
    max_sequence_length: int = MAX_SEQUENCE_LENGTH
    guidance_scale: float = 3.0
    projection_learning_rate: float | None = None


# What a family needs differently, and why.
_OTHERWISE = {
    # CLIP's tokens come first, then T5's. Places are added to the patches once, behind the projection, where the others
    # turn every block's queries and keys by them: a projection that grows fast drowns them (`sd3_mini_shared`).
    "sd3": MiniatureSource(prompt_starts=(0, MAX_SEQUENCE_LENGTH), projection_learning_rate=3e-4),
    # The pipeline drops 34 tokens of its template; with one token a word or sign it has 36. Narrower than the others to
    # be shipped in 8 MB: its VAE is one of videos, with three times the weights.
    "qwenimage": MiniatureSource(
        sizes=miniature_sizes(head_dim=26, vae_channels=(12, 24, 48)), prompt_starts=(2,), max_sequence_length=32
    ),
    # Three of 30 text layers side by side. The pipeline knows no true guidance: its source learns at the end, as the
    # released one did, to draw without it what it drew with it (`pretrain source --start ... --guidance 3`).
    "flux2": MiniatureSource(sizes=miniature_sizes(text_width=64), guidance_scale=1.0),
}
SOURCES = {family: _OTHERWISE.get(family, MiniatureSource()) for family in ARCHITECTURES}


def miniature_source(family: str) -> MiniatureSource:
    """A family's miniature. Raises ValueError with the known ones."""
    if family not in SOURCES:
        raise InputError(f"no miniature source for {family!r}; there are: {', '.join(SOURCES)}")
    return SOURCES[family]


def build(family: str) -> Any:
    """An untrained pipeline of the family's own classes. Raises ValueError for a family without a miniature."""
    own = miniature_source(family)
    pipeline = get_architecture(family).tiny_source(own.sizes)
    if type(pipeline.vae) in (AutoencoderKL, AutoencoderKLFlux2):
        pipeline.register_modules(vae=autoencoder(type(pipeline.vae)))
    return pipeline


def source_folder(family: str, layout: Layout = DEFAULT_LAYOUT, weights: Path = WEIGHTS) -> Path:
    """Where a family's trained source for one of the two worlds lies: "flux", or "flux-open" with layouts left open."""
    return weights / (family if layout == "said" else f"{family}-{layout}")


def autoencoder(kind: type[AutoencoderKL | AutoencoderKLFlux2] = AutoencoderKL) -> Any:
    """The VAE of all families but Qwen-Image: factor 4, 8 latent channels, 0.66 M parameters.

    FLUX.2's class has the same layers; its statistics lie beside them, where an `AutoencoderKL` has two numbers.
    """
    vae = kind(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
    )
    if kind is AutoencoderKL:
        vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    return vae
