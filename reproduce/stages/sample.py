"""Stage 3: source and pixel model draw every suite, the same prompts and seeds, each with its own sampler settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from PIL import Image

from bench.dpg.questions import read_questions
from bench.geneval.prompts import write_suite
from bench.named import load_function, load_rows
from reproduce.draw import (
    Drawing,
    draw,
    generator,
    image_seed,
    l2p_pipeline,
    l2p_settings,
    save_image,
    source_pipeline,
    source_settings,
    write_generation,
)
from reproduce.recipes import Recipe, Sampler, Suite

if TYPE_CHECKING:
    from bench.records import Generator

SUBJECTS: dict[str, Callable[[Recipe, Path], Generator]] = {
    "source": lambda recipe, run_dir: generator(source_pipeline(recipe), source_settings(recipe)),
    "l2p": lambda recipe, run_dir: generator(l2p_pipeline(recipe, run_dir), l2p_settings(recipe)),
}
QUESTIONS, NUM_TILES = "questions.csv", 4
SUBJECT_NAMES = {"source": "source", "l2p": "pixel model"}


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `samples/{source,l2p}/<suite>/` in the benchmarks' own layouts."""
    for subject, load in SUBJECTS.items():
        generate, sampler = load(recipe, run_dir), sampler_of(recipe, subject)
        for suite in recipe.suites:
            folder = run_dir / "samples" / subject / suite.name
            drawings = LAYOUTS[suite.benchmark](recipe, suite, folder)
            draw(generate, drawings, sampler.batch_size, f"{suite.name}: {SUBJECT_NAMES[subject]} draws")
            PartialState().wait_for_everyone()
            if PartialState().is_main_process:
                write_generation(folder, recipe, subject, sampler)
                FINISH[suite.benchmark](suite, folder)


def sampler_of(recipe: Recipe, subject: str) -> Sampler:
    """The subject's own sampler settings."""
    return {"source": recipe.source_sampler, "l2p": recipe.l2p_sampler}[subject]


def geneval_rows(suite: Suite) -> list[dict[str, Any]]:
    """A GenEval suite's metadata lines."""
    return load_rows(suite.prompts, suite.arguments, ("tag", "include", "prompt"))


def write_question_file(suite: Suite, path: Path) -> Path:
    """Put a DPG suite's question file at `path`: made by the function that the suite names, or copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ":" in suite.prompts:
        load_function(suite.prompts)(path, **suite.arguments)
    else:
        shutil.copyfile(suite.prompts, path)
    return path


def dpg_prompts(suite: Suite) -> dict[str, str]:
    """A DPG suite's prompts by item id, as its question file has them."""
    with TemporaryDirectory() as folder:  # each process reads its own: none waits for another
        return read_questions(write_question_file(suite, Path(folder) / QUESTIONS)).prompts


def geneval_drawings(recipe: Recipe, suite: Suite, folder: Path) -> list[Drawing]:
    """GenEval's official layout: `00000/samples/0000.png`, a folder a prompt."""
    return [
        Drawing(
            prompt_id=f"{number:05d}",
            index=index,
            seed=image_seed(recipe.sample_seed, f"{suite.name}/{number:05d}", index),
            text=row["prompt"],
            path=folder / f"{number:05d}" / "samples" / f"{index:04d}.png",
        )
        for number, row in enumerate(geneval_rows(suite))
        for index in range(suite.images_per_prompt)
    ]


def write_metadata(suite: Suite, folder: Path) -> None:
    """Write each prompt's `metadata.jsonl` into its folder, and the whole suite beside them."""
    write_suite(folder, geneval_rows(suite))


def dpg_drawings(recipe: Recipe, suite: Suite, folder: Path) -> list[Drawing]:
    """DPG-Bench's four tiles of each item, `tiles/<item>_<k>.png`."""
    return [
        Drawing(
            prompt_id=item_id,
            index=index,
            seed=image_seed(recipe.sample_seed, f"{suite.name}/{item_id}", index),
            text=text,
            path=folder / "tiles" / f"{item_id}_{index}.png",
        )
        for item_id, text in dpg_prompts(suite).items()
        for index in range(NUM_TILES)
    ]


def stitch_grids(suite: Suite, folder: Path) -> None:
    """Put each item's tiles together as DPG-Bench wants them, `<item>.png`, 2 x 2, row by row; and the questions."""
    write_question_file(suite, folder / QUESTIONS)
    for item_id in dpg_prompts(suite):
        tiles = [Image.open(folder / "tiles" / f"{item_id}_{index}.png") for index in range(NUM_TILES)]
        width, height = tiles[0].size
        grid = Image.new("RGB", (2 * width, 2 * height))
        for index, tile in enumerate(tiles):
            grid.paste(tile, (index % 2 * width, index // 2 * height))
        save_image(grid, folder / f"{item_id}.png")


LAYOUTS = {"geneval": geneval_drawings, "dpg": dpg_drawings}
FINISH = {"geneval": write_metadata, "dpg": stitch_grids}
