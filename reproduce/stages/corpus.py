"""Stage 1: the source draws its own training images (paper section 3.2; appendix B, stage 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image

from bench.named import load_function, load_rows
from bench.records import read_jsonl, write_jsonl
from l2p.corpora import CorpusItem, list_corpus
from l2p.corpora.shards import read_shard, write_shard
from l2p.errors import InputError
from l2p.pictures import read_picture
from l2p.progress import track
from reproduce.draw import Drawing, Generate, draw, generator, image_seed
from reproduce.inputs import files_sha256, pipeline_files, pipeline_folder
from reproduce.recipes import Recipe, corpus_folder
from reproduce.recipes.base import place_of

ImageFilter = Callable[[list[Image.Image], list[dict[str, Any]]], list[str | None]]
"""Images and their metadata rows in, for each the reason to reject it or None."""

FILTER_BATCH_SIZE = 64
SHARDS = "shards"  # in the corpus folder


def run(recipe: Recipe, run_dir: Path) -> None:
    """Draw `corpus/images`, then write `rejected.jsonl` and `metadata.jsonl`, one row a kept image; pack the shards.

    Packed images leave `images/`; rejected ones stay there. Of a corpus that a person brings only the rows are written:
    names and prompts, no seed that a source drew them with.
    """
    folder, state = run_dir / "corpus", PartialState()
    if recipe.corpus.folder is not None:
        if state.is_main_process:
            items = list_corpus(corpus_folder(recipe, run_dir)).items
            write_jsonl(folder / "rejected.jsonl", [])
            write_jsonl(folder / "metadata.jsonl", [{"file_name": item.name, "text": item.text} for item in items])
        return
    drawings, packed = source_drawings(recipe, run_dir)["corpus"], _packed(folder)
    with made_by(recipe, run_dir) as generate:
        paths = {folder / name for name in packed}
        draw(generate, drawings, recipe.source_sampler.batch_size, "corpus: source draws", paths)
    state.wait_for_everyone()
    if state.is_main_process:
        rows = planned_rows(recipe)
        rejected = reject(recipe.corpus.image_filter, folder, rows, packed)
        write_jsonl(folder / "rejected.jsonl", [{"file_name": name, "reason": why} for name, why in rejected.items()])
        write_jsonl(folder / "metadata.jsonl", [row for row in rows if row["file_name"] not in rejected])
    state.wait_for_everyone()
    if recipe.corpus.images_per_shard is not None:
        kept = {row["file_name"] for row in read_jsonl(folder / "metadata.jsonl")}
        shards = list(planned_shards(recipe).items())[state.process_index :: state.num_processes]
        for name, rows in track(shards, "corpus: packing shards", shown=state.is_main_process):
            _pack(folder, name, [row for row in rows if row["file_name"] in kept])
        state.wait_for_everyone()  # what the main process records is whole


def training_corpus(recipe: Recipe, run_dir: Path) -> Path:
    """The folder that the transfer reads."""
    folder = corpus_folder(recipe, run_dir)
    return folder if recipe.corpus.images_per_shard is None else folder / SHARDS


def planned_shards(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """By shard, relative to the corpus, the rows of all images that are drawn for it, in order."""
    rows, size = planned_rows(recipe), recipe.corpus.images_per_shard or 0
    return {f"{SHARDS}/{start // size:05d}.tar": rows[start : start + size] for start in range(0, len(rows), size)}


def _pack(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write one shard unless it is there, and remove the single files of what lies in it."""
    if not (folder / name).exists():
        (folder / name).parent.mkdir(exist_ok=True)
        write_shard(folder / name, (_sample(folder, row) for row in rows))
    for row in rows:
        (folder / row["file_name"]).unlink(missing_ok=True)


def _sample(folder: Path, row: dict[str, Any]) -> tuple[str, dict[str, bytes | Path]]:
    described = json.dumps(row, ensure_ascii=False, sort_keys=True).encode()
    path = folder / row["file_name"]
    return path.stem, {path.suffix: path, ".txt": row["text"].encode(), ".json": described}


def _packed(folder: Path) -> dict[str, CorpusItem]:
    """The images that lie in shards, by their names in `metadata.jsonl`."""
    items = (item for shard in sorted((folder / SHARDS).glob("*.tar")) for item in read_shard(shard))
    return {f"images/{item.name.rpartition('/')[2]}": item for item in items}


@contextmanager
def made_by(recipe: Recipe, run_dir: Path) -> Iterator[Generate]:
    """What makes the corpus's images from prompts and seeds: the source, another pipeline, or a function."""
    maker = recipe.corpus.maker
    if maker is not None and ":" in maker:
        numbers = {row["seed"]: number for number, row in enumerate(planned_rows(recipe))}
        picture: Callable[[int], Image.Image] = load_function(maker)(
            recipe.corpus.num_prompts, recipe.corpus.seed, recipe.resolution
        )
        yield lambda texts, seeds, scale: [picture(numbers[seed] // recipe.corpus.images_per_prompt) for seed in seeds]
        return
    with generator(recipe if maker is None else replace(recipe, source=maker), run_dir, "source") as generate:
        yield generate


def maker_facts(recipe: Recipe) -> dict[str, Any]:
    """What the corpus's images depend on besides the recipe's source; {} where that makes them."""
    maker = recipe.corpus.maker
    if maker is None:
        return {}
    if ":" in maker:
        return {"maker": maker}
    folder = pipeline_folder(place_of(maker))
    return {"maker_sha256": files_sha256(folder, pipeline_files(folder))}


def source_drawings(recipe: Recipe, run_dir: Path) -> dict[str, list[Drawing]]:
    """All images to draw in order, by the folder in the run that they are of."""
    folder = run_dir / "corpus"
    rows = planned_rows(recipe)
    return {
        "corpus": [Drawing(seed=row["seed"], text=row["text"], path=folder / row["file_name"]) for row in rows],
    }


def planned_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The metadata rows of all images to draw, in order; none where a person brings them."""
    corpus = recipe.corpus
    if corpus.folder is not None:
        return []
    prompts = load_rows(corpus.prompts, {"num": corpus.num_prompts, "seed": corpus.seed}, ("text", "category"))
    if len(prompts) < corpus.num_prompts:
        raise InputError(f"{corpus.prompts} has {len(prompts)} prompts, the recipe wants {corpus.num_prompts}")
    return [
        {
            "file_name": f"images/{number:06d}-{index}.png",
            "text": prompt["text"],
            "prompt_id": f"{number:06d}",
            "index": index,
            "seed": image_seed(corpus.seed, f"{number:06d}", index),
            "category": prompt["category"],
        }
        for number, prompt in enumerate(prompts[: corpus.num_prompts])
        for index in range(corpus.images_per_prompt)
    ]


def reject(
    image_filter: str | None, folder: Path, rows: Sequence[dict[str, Any]], packed: Mapping[str, CorpusItem]
) -> dict[str, str]:
    """The images that the filter rejects: file name to reason. `packed`: those that lie in shards, by file name."""
    if image_filter is None:
        return {}
    judge: ImageFilter = load_function(image_filter)
    rejected: dict[str, str] = {}
    for start in range(0, len(rows), FILTER_BATCH_SIZE):
        batch = list(rows[start : start + FILTER_BATCH_SIZE])
        images = [read_picture(_place(folder, row["file_name"], packed)) for row in batch]
        reasons = judge(images, batch)
        rejected |= {row["file_name"]: why for row, why in zip(batch, reasons, strict=True) if why is not None}
    return rejected


def _place(folder: Path, name: str, packed: Mapping[str, CorpusItem]) -> Path | bytes:
    return packed[name].source() if name in packed else folder / name
