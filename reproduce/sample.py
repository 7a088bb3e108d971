"""Stage 3: source and pixel model draw every suite, the same prompts and seeds, each with its own sampler settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from PIL import Image

from bench.geneval.prompts import write_suite
from reproduce.draw import Drawing, draw, image_seed, pixel_generator, save_image, source_generator, write_generation
from reproduce.named import load_rows
from reproduce.recipes import Recipe, Sampler, Suite

if TYPE_CHECKING:
    from bench.records import Generator

SUBJECTS: dict[str, Callable[[Recipe, Path], Generator]] = {
    "source": lambda recipe, run_dir: source_generator(recipe),
    "l2p": pixel_generator,
}
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


def suite_rows(suite: Suite) -> list[dict[str, Any]]:
    """The suite's prompts: GenEval's metadata lines, or DPG's with `item_id` and `text`."""
    required = {"geneval": ("tag", "include", "prompt"), "dpg": ("item_id", "text")}[suite.benchmark]
    return load_rows(suite.prompts, suite.arguments, required)


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
        for number, row in enumerate(suite_rows(suite))
        for index in range(suite.images_per_prompt)
    ]


def write_metadata(suite: Suite, folder: Path) -> None:
    """Write each prompt's `metadata.jsonl` into its folder, and the whole suite beside them."""
    write_suite(folder, suite_rows(suite))


def dpg_drawings(recipe: Recipe, suite: Suite, folder: Path) -> list[Drawing]:
    """DPG-Bench's tiles, `tiles/<item>_<k>.png`; item ids come from outside and must be plain file names."""
    rows = suite_rows(suite)
    for row in rows:
        if Path(str(row["item_id"])).name != str(row["item_id"]):
            raise ValueError(f"{suite.prompts}: item_id {row['item_id']!r} is no plain file name")
    return [
        Drawing(
            prompt_id=str(row["item_id"]),
            index=index,
            seed=image_seed(recipe.sample_seed, f"{suite.name}/{row['item_id']}", index),
            text=row["text"],
            path=folder / "tiles" / f"{row['item_id']}_{index}.png",
        )
        for row in rows
        for index in range(suite.images_per_prompt)
    ]


def stitch_grids(suite: Suite, folder: Path) -> None:
    """Put each item's four tiles together as DPG-Bench wants them: `<item>.png`, 2 x 2, row by row."""
    for row in suite_rows(suite):
        tiles = [Image.open(folder / "tiles" / f"{row['item_id']}_{index}.png") for index in range(4)]
        width, height = tiles[0].size
        grid = Image.new("RGB", (2 * width, 2 * height))
        for index, tile in enumerate(tiles):
            grid.paste(tile, (index % 2 * width, index // 2 * height))
        save_image(grid, folder / f"{row['item_id']}.png")


LAYOUTS = {"geneval": geneval_drawings, "dpg": dpg_drawings}
FINISH = {"geneval": write_metadata, "dpg": stitch_grids}
