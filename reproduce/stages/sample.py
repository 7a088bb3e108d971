"""Stage 3: source and pixel model draw every suite, the same prompts and seeds, each with its own sampler settings."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState

from bench.benchmarks import find_benchmark
from bench.records import Benchmark, ImageSample, Prompt
from reproduce.draw import SUBJECTS, Drawing, SubjectName, draw, generator, image_seed, write_generation
from reproduce.recipes import Recipe, Suite


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `samples/{source,l2p}/<suite>/` in the benchmarks' own layouts."""
    for subject in SUBJECTS:
        _draw_suites(recipe, run_dir, subject)


def _draw_suites(recipe: Recipe, run_dir: Path, subject: SubjectName) -> None:
    model = SUBJECTS[subject]
    with generator(recipe, run_dir, subject) as generate:
        for suite in recipe.suites:
            folder = run_dir / "samples" / subject / suite.name
            label = f"{suite.name}: {model.title} draws"
            draw(generate, suite_drawings(recipe, suite, folder), model.sampler(recipe).batch_size, label)
            PartialState().wait_for_everyone()
            if PartialState().is_main_process:
                write_generation(folder, recipe, suite, subject)
                layout_of(suite).finish(folder, suite_prompts(suite), suite.prompts, suite.arguments)


def layout_of(suite: Suite) -> Benchmark:
    """The benchmark that lays the suite's images out: its first."""
    return find_benchmark(suite.benchmarks[0])


def suite_prompts(suite: Suite) -> list[Prompt]:
    """The suite's prompts, as its first benchmark reads them."""
    return layout_of(suite).load_prompts(suite.prompts, suite.arguments)


def suite_samples(suite: Suite) -> list[ImageSample]:
    """Where each image of the suite lies, relative to its folder."""
    return layout_of(suite).layout(suite_prompts(suite), suite.images_per_prompt)


def suite_drawings(recipe: Recipe, suite: Suite, folder: Path) -> list[Drawing]:
    """The suite's images to draw, in order."""
    texts = {prompt.id: prompt.text for prompt in suite_prompts(suite)}
    return [
        Drawing(
            seed=image_seed(recipe.sample_seed, f"{suite.name}/{sample.prompt_id}", sample.index),
            text=texts[sample.prompt_id],
            path=folder / sample.path,
            scale=suite.scale,
        )
        for sample in suite_samples(suite)
    ]


def subject_drawings(recipe: Recipe, run_dir: Path, subject: SubjectName) -> dict[str, list[Drawing]]:
    """What a subject draws here, by folder in the run."""
    folders = {f"samples/{subject}/{suite.name}": suite for suite in recipe.suites}
    return {folder: suite_drawings(recipe, suite, run_dir / folder) for folder, suite in folders.items()}
