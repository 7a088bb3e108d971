"""Measure what is shipped on fresh prompts: `python -m reproduce.miniature.check detector | judges | vae | source ...`.

`check sampler RUN` compares how a run's pixel model may be drawn, on prompts that no report scores.

Exit status 1 where a figure is below its floor (`--floor`), so that a script can rely on it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageFilter
from rich.console import Console
from rich.progress import track

from bench.geneval.rules import TASKS, judge
from bench.named import load_function
from bench.records import Detection, write_json
from bench.statistics import bootstrap_ci, category_means, paired_difference
from l2p.architectures import architecture_of
from l2p.ending import run_command
from l2p.errors import InputError
from l2p.pictures import read_picture
from l2p.sampling import SCHEDULERS
from l2p.sources import load_source
from reproduce.draw import draw_l2p, draw_source, image_seed, l2p_pipeline, place, source_pipeline
from reproduce.launch import prepare_processor
from reproduce.manifest import read_manifest
from reproduce.miniature import detector as shape_detector
from reproduce.miniature.agreement import JUDGES, figures, recorded_labels
from reproduce.miniature.agreement import verdicts as verdicts_of
from reproduce.miniature.prompts import all_entries, task_entry
from reproduce.miniature.render import render
from reproduce.miniature.scenes import DEFAULT_LAYOUT, RESOLUTION, Layout, task_scene
from reproduce.miniature.sources import SOURCES, WEIGHTS, miniature_source, source_folder
from reproduce.recipes import Recipe, Sampler, find_recipe

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
BATCH = 60
CHECK_SEED = 903
Picture = tuple[dict, Image.Image]  # what was asked (a GenEval entry) and the picture of it
Detect = Callable[[list[Image.Image]], list[list[Detection]]]

Seed = Annotated[int, typer.Option(min=0, max=2**62, help="a seed that training and tuning never used")]
NumPerTask = Annotated[int, typer.Option(min=1, max=100_000, help="pictures of each of GenEval's six tasks")]
Steps = Annotated[int, typer.Option(min=1, max=10_000, help="of the source's sampler")]
World = Annotated[
    Layout, typer.Option("--layout", help="the world: what prompts leave open is said or open; sources have one each")
]
Guidance = Annotated[float | None, typer.Option(help="1 = off; the family's own where none is given")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the figures here")]
Floor = Annotated[float, typer.Option(help="exit 1 where a share is below it")]


def verdicts(pictures: Iterable[Picture], detect: Detect) -> Iterator[tuple[dict, float]]:
    """Each picture's entry and whether it is judged correct (1 or 0); one batch of pictures is held at a time."""
    rest = iter(pictures)
    while batch := list(islice(rest, BATCH)):
        for (entry, _), found in zip(batch, detect([image for _, image in batch]), strict=True):
            yield entry, float(judge(entry, found)[0])


def accuracy(pictures: Iterable[Picture], detect: Detect) -> dict:
    """Share judged correct by task, with n, the mean of the tasks and its 95 % interval over distinct prompts."""
    judged = list(verdicts(pictures, detect))
    entries, values = [entry for entry, _ in judged], [value for _, value in judged]
    return _shares([entry["tag"] for entry in entries], [entry["prompt"] for entry in entries], values)


def _shares(tags: list[str], prompts: list[str], values: list[float]) -> dict:
    overall, by_category = bootstrap_ci(tags, prompts, values), category_means(tags, values)
    return {
        "overall": overall.value,
        "overall_ci95": [overall.low, overall.high],
        "by_category": by_category,
        "n": len(values),
        "n_by_category": {tag: tags.count(tag) for tag in by_category},
    }


def rendered_pictures(seed: int, num_per_task: int, layout: Layout = DEFAULT_LAYOUT) -> Iterator[Picture]:
    """Fresh scenes, rendered, each with a prompt that it satisfies."""
    rng = np.random.default_rng([seed, 20])
    for task in TASKS:
        for _ in range(num_per_task):
            scene = task_scene(rng, task, layout)
            yield task_entry(scene, task), Image.fromarray(render(scene, RESOLUTION))


@torch.no_grad()
def reconstructed_pictures(folder: Path, seed: int, num_per_task: int, layout: Layout) -> Iterator[Picture]:
    """The same scenes after the VAE: the ceiling of any source that draws through it."""
    pipeline = load_source(folder)
    architecture = architecture_of(type(pipeline).__name__)
    for entry, image in rendered_pictures(seed, num_per_task, layout):
        pixels = shape_detector.to_tensor(np.array(image)[None])
        out = architecture.decode_latents(pipeline, architecture.encode_latents(pipeline, pixels))[0].clamp(-1, 1)
        yield entry, Image.fromarray(((out + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def source_pictures(folder: Path, seed: int, num_per_task: int, sampler: Sampler) -> Iterator[Picture]:
    """Pictures that a source pipeline draws of each task's prompts, in an order and with noise given by `seed`."""
    pipeline = place(source_pipeline(str(folder), sampler, torch.float32), "whole")
    yield from _drawn(partial(draw_source, pipeline), seed, num_per_task, sampler, "source draws")


def pixel_pictures(recipe: Recipe, run: Path, seed: int, num_per_task: int, sampler: Sampler) -> Iterator[Picture]:
    """Pictures of the same prompts, with the same noise at any sampler, by a run's pixel model."""
    pipeline = l2p_pipeline(replace(recipe, l2p_sampler=sampler), run)
    label = f"{sampler.scheduler}, {sampler.num_inference_steps} steps"
    yield from _drawn(partial(draw_l2p, pipeline), seed, num_per_task, sampler, label)


def _drawn(draw: Callable, seed: int, num_per_task: int, sampler: Sampler, label: str) -> Iterator[Picture]:
    asked = asked_entries(seed, num_per_task)
    for start in track(range(0, len(asked), BATCH), label, console=Console(stderr=True)):
        part = asked[start : start + BATCH]
        prompts = [entry["prompt"] for entry, _ in part]
        seeds = [image_seed(seed, entry["prompt"], i) for entry, i in part]
        images = draw(prompts, seeds, sampler, RESOLUTION)
        yield from zip([entry for entry, _ in part], images, strict=True)


def asked_entries(seed: int, num_per_task: int) -> list[tuple[dict, int]]:
    """Each task's prompts in an order given by `seed`, all of them before any comes again, and their number in it."""
    rng = np.random.default_rng([seed, 21])
    asked = []
    for task in TASKS:
        entries = all_entries(task)
        order = np.concatenate([rng.permutation(len(entries)) for _ in range(-(-num_per_task // len(entries)))])
        asked += [(entries[k], i) for i, k in enumerate(order[:num_per_task])]
    return asked


def source_sampler(family: str, num_inference_steps: int, guidance_scale: float | None) -> Sampler:
    """How a family's miniature draws here; its own guidance where none is given."""
    own = miniature_source(family)
    return Sampler(
        num_inference_steps=num_inference_steps,
        guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
        max_sequence_length=own.max_sequence_length,
        batch_size=BATCH,
        shift=own.sizes.shift,
    )


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.5))


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image) + rng.normal(0, 5, (image.height, image.width, 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = BytesIO()
    image.save(file, format="JPEG", quality=85)
    return read_picture(file.getvalue())


# Slight disturbances that must not change a verdict: Gaussian blur of radius 0.5 px, noise of deviation 5 of 255, JPEG.
DISTURBANCES = {"blur": _blurred, "noise": _noisy, "jpeg": _compressed}


def agreement(pictures: list[Picture], seed: int, detect: Detect) -> dict:
    """Share of pictures whose verdict stays after each disturbance, as `accuracy` gives shares: by disturbance."""
    before = [value for _, value in verdicts(pictures, detect)]
    tags: list[str] = []
    values: list[float] = []
    for name, disturb in DISTURBANCES.items():
        rng = np.random.default_rng([seed, 22])
        after = verdicts(((entry, disturb(image, rng)) for entry, image in pictures), detect)
        tags += [name] * len(pictures)
        values += [float(old == new) for old, (_, new) in zip(before, after, strict=True)]
    return _shares(tags, [entry["prompt"] for entry, _ in pictures] * len(DISTURBANCES), values)


def judge_check() -> dict:
    """The detector where the truth is known: its accuracy on rendered scenes, the ceiling of GenEval's scores here."""
    figures = accuracy(rendered_pictures(CHECK_SEED, 60), shape_detector.load())
    what = "GenEval of rendered scenes, mean of tasks"
    return {"judge": "detector", "what": what, "value": figures["overall"], "n": figures["n"]}


def report(name: str, figures: dict, json: Path | None, floor: float) -> None:
    """Print the figures, write them if asked, exit 1 below the floor."""
    if json:
        write_json(json, {"subject": name} | figures)
    low, high = figures["overall_ci95"]
    typer.echo(f"{name}: {figures['overall']:.3f} [{low:.3f}, {high:.3f}], n = {figures['n']}")
    for task, share in figures["by_category"].items():
        typer.echo(f"  {task:14s} {share:.3f}  n = {figures['n_by_category'][task]}")
    worst = min(figures["by_category"].values())
    if worst < floor:
        typer.echo(f"below the floor: the worst of them has {worst:.3f}, {floor} was asked")
        raise typer.Exit(1)


@app.command()
def detector(
    seed: Seed = 900,
    num_per_task: NumPerTask = 300,
    layout: World = DEFAULT_LAYOUT,
    json: Json = None,
    floor: Floor = 0.0,
) -> None:
    """Accuracy of the shipped detector on rendered scenes.

    Example: python -m reproduce.miniature.check detector --num-per-task 300 --floor 0.97
    """
    prepare_processor()
    report(
        f"detector, {layout}",
        accuracy(rendered_pictures(seed, num_per_task, layout), shape_detector.load()),
        json,
        floor,
    )


@app.command()
def robustness(
    family: str = "flux",
    layout: World = DEFAULT_LAYOUT,
    seed: Seed = 904,
    num_per_task: NumPerTask = 40,
    num_inference_steps: int = 10,
    guidance_scale: Guidance = None,
    json: Json = None,
    floor: Floor = 0.0,
    weights: Path = WEIGHTS,
) -> None:
    """Share of the detector's verdicts on the source's pictures that stay after slight blur, noise and JPEG.

    Example: python -m reproduce.miniature.check robustness --floor 0.97
    """
    prepare_processor()
    folder = _existing_folder(family, layout, weights)
    sampler = source_sampler(family, num_inference_steps, guidance_scale)
    pictures = list(source_pictures(folder, seed, num_per_task, sampler))
    report("verdicts that stay", agreement(pictures, seed, shape_detector.load()), json, floor)


@app.command()
def vae(
    family: str = "flux",
    layout: World = DEFAULT_LAYOUT,
    seed: Seed = 901,
    num_per_task: NumPerTask = 100,
    json: Json = None,
    floor: Floor = 0.0,
    weights: Path = WEIGHTS,
) -> None:
    """Accuracy on rendered scenes after the VAE: the source's ceiling.

    Example: python -m reproduce.miniature.check vae --family flux
    """
    prepare_processor()
    pictures = reconstructed_pictures(_existing_folder(family, layout, weights), seed, num_per_task, layout)
    report(f"{family} vae, {layout}", accuracy(pictures, shape_detector.load()), json, floor)


@app.command()
def source(
    family: str = "flux",
    layout: World = DEFAULT_LAYOUT,
    seed: Seed = 902,
    num_per_task: NumPerTask = 40,
    num_inference_steps: Steps = 20,
    guidance_scale: Guidance = None,
    json: Json = None,
    floor: Floor = 0.0,
    weights: Path = WEIGHTS,
) -> None:
    """GenEval accuracy of the shipped source by task, with its own sampler.

    Example: python -m reproduce.miniature.check source --family flux --seed 7 --num-per-task 40 --json source.json
    """
    prepare_processor()
    folder = _existing_folder(family, layout, weights)
    pictures = source_pictures(folder, seed, num_per_task, source_sampler(family, num_inference_steps, guidance_scale))
    report(f"{family} source, {layout}", accuracy(pictures, shape_detector.load()), json, floor)


@app.command(name="sampler")
def compare_samplers(
    run: Annotated[Path, typer.Argument(help="a run folder whose transfer is done")],
    settings: Annotated[list[str], typer.Argument(help="scheduler:steps, each compared with the first")],
    seed: Seed = 906,
    num_per_task: NumPerTask = 50,
) -> None:
    """GenEval accuracy of a run's pixel model under schedulers and numbers of steps, paired with the first by prompt.

    Example: python -m reproduce.miniature.check sampler runs/flux-mini euler:20 unipc:12
    """
    prepare_processor()
    recipe = find_recipe(read_manifest(run)["recipe"]["family"], run_dir=run)
    detect, first = shape_detector.load(), None
    for text in settings:
        scheduler, _, steps = text.partition(":")
        if scheduler not in SCHEDULERS or not steps.isdecimal() or int(steps) < 1:
            raise typer.BadParameter(f"{text!r}: give scheduler:steps, say unipc:12; known: {', '.join(SCHEDULERS)}")
        own = replace(recipe.l2p_sampler, scheduler=scheduler, num_inference_steps=int(steps))
        started = time.perf_counter()
        judged = list(verdicts(pixel_pictures(recipe, run, seed, num_per_task, own), detect))
        took = time.perf_counter() - started
        rows = [(entry["tag"], entry["prompt"], value) for entry, value in judged]
        tags, prompts, values = (list(column) for column in zip(*rows, strict=True))
        report(f"{text}, {took:.0f} s", _shares(tags, prompts, values), None, 0.0)
        if first is None:
            first = (tags, prompts, values)
        else:
            found = paired_difference(*first, tags, prompts, values)
            low, high = found.difference.low, found.difference.high
            typer.echo(f"  against {settings[0]}: {found.difference.value:+.3f} [{low:+.3f}, {high:+.3f}]")


@app.command()
def judges(seed: Seed = 900, num_per_task: NumPerTask = 100) -> None:
    """Both judges against pictures labelled by eye (docs/judge.md), on rendered scenes, and against each other.

    Example: python -m reproduce.miniature.check judges
    """
    prepare_processor()
    labels = recorded_labels()
    loaded = {name: load_function(loader)() for name, loader in JUDGES.items()}
    for name, detect in loaded.items():
        typer.echo(figures(name, detect, labels))
    for name, detect in loaded.items():
        report(f"{name}, rendered scenes", accuracy(rendered_pictures(seed, num_per_task), detect), None, 0.0)
    one, other = (verdicts_of(labels, detect) for detect in loaded.values())
    differ = sum(a != b for a, b in zip(one, other, strict=True))
    typer.echo(f"the two judges disagree on {differ} of {len(labels)} labelled pictures and questions")


def _existing_folder(family: str, layout: Layout, weights: Path) -> Path:
    """A family's pipeline folder; InputError, with what there is, where there is no such family or folder."""
    if family not in SOURCES:
        raise InputError(f"no family {family!r}; there are: {', '.join(SOURCES)}")
    folder = source_folder(family, layout, weights)
    if not (folder / "model_index.json").is_file():
        known = sorted(p.parent.name for p in weights.glob("*/model_index.json"))
        raise InputError(f"no source {folder.name!r} in {weights}; there: {', '.join(known) or 'none'}")
    return folder


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m reproduce.miniature.check"))
