"""Drawing images so that a killed run ends with the same bytes as an unbroken one.

An image depends on its prompt, its seed and (in the last bit) its batch, never on the process or on what was finished
before: batches are cut once from the whole plan, and a batch of which an image is missing is drawn again as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from PIL.Image import Image

from bench.images import save_image
from bench.records import write_json
from l2p.architectures import architecture_of
from l2p.empty import give_back_memory
from l2p.pipeline import pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.progress import track
from l2p.sampling import flow_scheduler
from l2p.sources import load_source
from reproduce.memory import Sampling, gpus_here, sampling
from reproduce.recipes import Recipe, Sampler, Suite, source_of
from reproduce.recipes.base import drawn_at


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One image to draw: its prompt, its seed, where it goes, and its suite's scale."""

    seed: int
    text: str
    path: Path
    scale: int | None = None


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of one image, of 48 bits, from the run's seed, its prompt's id and its index."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()[:6])


Generate = Callable[[list[str], list[int], int | None], list[Image]]
"""Prompts, seeds and a suite's scale in, an image for each out."""


def draw(
    generate: Generate, drawings: Sequence[Drawing], batch_size: int, label: str, packed: Collection[Path] = ()
) -> None:
    """Draw what is missing, this process its share of the batches; every file appears whole or not at all.

    packed: paths of images that need not be there, since they lie in a shard.
    """
    state = PartialState()
    batches = [drawings[start : start + batch_size] for start in range(0, len(drawings), batch_size)]
    mine = [batch for batch in batches[state.process_index :: state.num_processes] if _unfinished(batch, packed)]
    for batch in track(mine, label, shown=state.is_main_process):
        images = generate([drawing.text for drawing in batch], [drawing.seed for drawing in batch], batch[0].scale)
        for drawing, image in zip(batch, images, strict=True):
            save_image(image, drawing.path)


def _unfinished(batch: Iterable[Drawing], packed: Collection[Path]) -> bool:
    return not all(drawing.path in packed or drawing.path.exists() for drawing in batch)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image: noise is the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def source_pipeline(source: str, sampler: Sampler, dtype: torch.dtype) -> Any:
    """The source's own diffusers pipeline from a folder or hub id, on the CPU, with the sampler's shift.

    Raises as `l2p.sources.load_source` does.
    """
    pipeline = load_source(source, dtype)
    pipeline.set_progress_bar_config(disable=True)
    if sampler.scheduler is not None:
        pipeline.scheduler = flow_scheduler(sampler.scheduler, sampler.shift or 1.0)
    elif sampler.shift is not None:
        config = {"shift": sampler.shift, "use_dynamic_shifting": False}
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config)
    return pipeline


def place(pipeline: Any, setting: Sampling) -> Any:
    """Put a pipeline on this process's device, whole or part by part; what it draws is the same."""
    device = PartialState().device
    if setting == "turns":
        pipeline.enable_model_cpu_offload(device=device)
    elif setting == "layers":
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipeline.to(device)
    return pipeline


def draw_source(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], sampler: Sampler, resolution: int
) -> list[Image]:
    """Images of `prompts` by a source pipeline (from `source_pipeline`), guided as its family is; `resolution` in px.

    The only place where a source draws.
    """
    family = architecture_of(type(pipeline).__name__)
    guidance = family.source_arguments(sampler.guidance_scale, sampler.distilled_guidance)
    return _images(pipeline, prompts, seeds, sampler, resolution, guidance)


def l2p_pipeline(recipe: Recipe, run_dir: Path) -> Any:
    """The run's pixel model with the source's text encoders (its transformer and VAE are not loaded)."""
    path, dtype = run_dir / "transfer" / "model", getattr(torch, recipe.dtype)
    model = PixelTransformer2DModel.from_pretrained(path, dtype=dtype)
    model.detailer.to(memory_format=torch.channels_last)  # as in training: some 8 % off a forward on CPUs
    sampler = recipe.l2p_sampler
    shift, scheduler = sampler.shift or 1.0, sampler.scheduler or "euler"
    pipeline = pixel_pipeline(text_pipeline(recipe), model, shift, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return place(pipeline, sampling(recipe, "l2p", gpus_here()))


def text_pipeline(recipe: Recipe) -> Any:
    """The source's pipeline with its text encoders alone, on the CPU."""
    dtype = getattr(torch, recipe.dtype)
    return load_source(source_of(recipe), dtype, without=("transformer", "vae"))


def draw_l2p(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], sampler: Sampler, resolution: int
) -> list[Image]:
    """Images of `prompts` by a pixel model's pipeline (from `l2p_pipeline`); `resolution` in px."""
    return _images(pipeline, prompts, seeds, sampler, resolution, {"guidance_scale": sampler.guidance_scale})


def _images(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
    resolution: int,
    guidance: dict[str, Any],
) -> list[Image]:
    return pipeline(
        prompt=list(prompts),
        generator=generators(seeds),
        height=resolution,
        width=resolution,
        num_inference_steps=sampler.num_inference_steps,
        max_sequence_length=sampler.max_sequence_length,
        **guidance,
    ).images


SubjectName = Literal["source", "l2p"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the two models that a run compares: what a person calls it, its sampler, how it is loaded and draws."""

    title: str
    sampler: Callable[[Recipe], Sampler]
    load: Callable[[Recipe, Path], Any]
    draw: Callable[[Any, Sequence[str], Sequence[int], Sampler, int], list[Image]]


def _load_source(recipe: Recipe, run_dir: Path) -> Any:
    pipeline = source_pipeline(source_of(recipe), recipe.source_sampler, getattr(torch, recipe.dtype))
    return place(pipeline, sampling(recipe, "source", gpus_here()))


SUBJECTS: dict[SubjectName, Subject] = {
    "source": Subject(
        title="source",
        sampler=lambda recipe: recipe.source_sampler,
        load=_load_source,
        draw=draw_source,
    ),
    "l2p": Subject(
        title="pixel model",
        sampler=lambda recipe: recipe.l2p_sampler,
        load=l2p_pipeline,
        draw=draw_l2p,
    ),
}
"""By folder name under samples/ and scores/."""


@contextmanager
def generator(recipe: Recipe, run_dir: Path, subject: SubjectName) -> Iterator[Generate]:
    """A function from prompts, seeds and scale to the subject's images; the first call, if any, loads its pipeline.

    Afterwards the memory is given back: the other subject's pipeline may need all of it.
    """
    model = SUBJECTS[subject]
    pipeline = cache(lambda: model.load(recipe, run_dir))

    def generate(prompts: list[str], seeds: list[int], scale: int | None = None) -> list[Image]:
        return model.draw(pipeline(), prompts, seeds, model.sampler(recipe), drawn_at(recipe, subject, scale))

    try:
        yield generate
    finally:
        pipeline.cache_clear()
        give_back_memory()


SAMPLER_TITLES = {"euler": "Euler", "unipc": "UniPC", "dpm++": "DPM-Solver++"}


def write_generation(folder: Path, recipe: Recipe, suite: Suite, subject: SubjectName) -> None:
    """Write `generation.json` beside the images: what only their maker knows (`bench.passport.GENERATION`)."""
    sampler = SUBJECTS[subject].sampler(recipe)
    title = SAMPLER_TITLES[sampler.scheduler or "euler"]
    rule = "one CPU torch.Generator an image, seeded from sha256(seed/prompt id/index)"
    write_json(
        folder / "generation.json",
        {
            "subject": subject,
            "prompts_rewritten": suite.rewritten_by is not None,
            "num_inference_steps": sampler.num_inference_steps,
            "guidance_scale": sampler.guidance_scale,
            "seed_rule": f"{rule}, seed {recipe.sample_seed}",
            "dtype": recipe.dtype,
            "device": PartialState().device.type,
            "sampler": f"{title} flow matching, shift {sampler.shift or 'as the source has it'}",
        },
    )
