"""Drawing images so that a killed run ends with the same bytes as an unbroken one.

An image depends on its prompt, its seed and (in the last bit) its batch, never on the process or on what was finished
before: batches are cut once from the whole plan, and a batch of which an image is missing is drawn again as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from PIL.Image import Image
from rich.progress import track

from bench.images import save_image
from bench.records import write_json
from l2p.pipeline import load_source, pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from reproduce.recipes import Recipe, Sampler

if TYPE_CHECKING:
    from bench.records import Generator


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One image to draw: its prompt, its seed and where it goes."""

    prompt_id: str
    index: int
    seed: int
    text: str
    path: Path


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of one image, of 48 bits, from the run's seed, its prompt's id and its index."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()[:6])


def draw(generate: Generator, drawings: Sequence[Drawing], batch_size: int, label: str) -> None:
    """Draw what is missing, this process its share of the batches; every file appears whole or not at all."""
    state = PartialState()
    batches = [drawings[start : start + batch_size] for start in range(0, len(drawings), batch_size)]
    mine = [batch for batch in batches[state.process_index :: state.num_processes] if _unfinished(batch)]
    for batch in track(mine, label, disable=not state.is_main_process):
        images = generate([drawing.text for drawing in batch], [drawing.seed for drawing in batch])
        for drawing, image in zip(batch, images, strict=True):
            save_image(image, drawing.path)


def _unfinished(batch: Iterable[Drawing]) -> bool:
    return not all(drawing.path.exists() for drawing in batch)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image: noise is the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def source_pipeline(recipe: Recipe) -> Any:
    """The source's own diffusers pipeline, in the recipe's dtype on this process's device, with its own noise shift."""
    pipeline = load_source(recipe.source, getattr(torch, recipe.dtype))
    pipeline.set_progress_bar_config(disable=True)
    if recipe.source_sampler.shift is not None:
        config = {"shift": recipe.source_sampler.shift, "use_dynamic_shifting": False}
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config)
    return pipeline.to(PartialState().device)


def l2p_pipeline(recipe: Recipe, run_dir: Path) -> Any:
    """The run's pixel model with the source's text encoders (its transformer and VAE are not loaded)."""
    dtype = getattr(torch, recipe.dtype)
    model = PixelTransformer2DModel.from_pretrained(run_dir / "transfer" / "model", torch_dtype=dtype)
    model.detailer.to(memory_format=torch.channels_last)  # as in training: some 8 % off a forward on CPUs
    text = DiffusionPipeline.from_pretrained(recipe.source, transformer=None, vae=None, torch_dtype=dtype)
    pipeline = pixel_pipeline(text, model, shift=recipe.l2p_sampler.shift or 1.0).to(PartialState().device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def source_settings(recipe: Recipe) -> dict[str, Any]:
    """What the source's pipeline is called with, beside prompts and generators."""
    return _settings(recipe.source_sampler, recipe.resolution) | SOURCE_GUIDANCE[recipe.family](recipe.source_sampler)


def l2p_settings(recipe: Recipe) -> dict[str, Any]:
    """What the pixel model's pipeline is called with, beside prompts and generators."""
    guidance = {"guidance_scale": recipe.l2p_sampler.guidance_scale}
    return _settings(recipe.l2p_sampler, recipe.resolution) | guidance


def _settings(sampler: Sampler, resolution: int) -> dict[str, Any]:
    return {
        "height": resolution,
        "width": resolution,
        "num_inference_steps": sampler.num_inference_steps,
        "max_sequence_length": sampler.max_sequence_length,
    }


def generator(pipeline: Any, settings: dict[str, Any]) -> Generator:
    """A function from prompts and seeds to images."""

    def generate(prompts: list[str], seeds: list[int]) -> list[Image]:
        return pipeline(prompt=prompts, generator=generators(seeds), **settings).images

    return generate


def flux_guidance(sampler: Sampler) -> dict[str, Any]:
    """FluxPipeline's names: `guidance_scale` is the distilled embedding there, true guidance is `true_cfg_scale`."""
    arguments: dict[str, Any] = {"guidance_scale": sampler.distilled_guidance}
    if sampler.guidance_scale != 1:
        arguments |= {"true_cfg_scale": sampler.guidance_scale, "negative_prompt": ""}
    return arguments


SOURCE_GUIDANCE = {"flux": flux_guidance}


def write_generation(folder: Path, recipe: Recipe, subject: str, sampler: Sampler) -> None:
    """Write `generation.json` beside the images: what only their maker knows (`bench.passport.GENERATION`)."""
    rule = "one CPU torch.Generator an image, seeded from sha256(seed/prompt id/index)"
    write_json(
        folder / "generation.json",
        {
            "subject": subject,
            "prompts_rewritten": False,
            "num_inference_steps": sampler.num_inference_steps,
            "guidance_scale": sampler.guidance_scale,
            "seed_rule": f"{rule}, seed {recipe.sample_seed}",
            "dtype": recipe.dtype,
            "device": PartialState().device.type,
            "sampler": f"Euler flow matching, shift {sampler.shift or 'as the source has it'}",
        },
    )
