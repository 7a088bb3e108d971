"""`--dry`: the whole path of a recipe of the paper's size on random weights, in a minute or two and without a GPU.

The source is a folder of the same classes whose weights are random and small (`tiny_source` of its architecture); the
judges guess. All else is the recipe's own: what comes out is no score, but every stage has run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import write_jsonl
from l2p.config import TransferConfig
from l2p.detailer import DetailerConfig, ladder
from reproduce.recipes.base import Corpus, Recipe, Sampler, Suite

if TYPE_CHECKING:
    from PIL.Image import Image

DRY = "-dry"  # at the end of a dry recipe's name
TOKENS_A_SIDE = 4  # of the pixel model and, at its own size, of the source
NUM_PROMPTS, NUM_VALIDATION_IMAGES = 8, 4
QUESTION = "dry-{number},a photo of a cat,{proposition},{parent},entity - whole (cat),Is there a cat?\n"
NUM_TOKENS = 64
SIZES: dict[str, Any] = {"num_blocks": 12, "vae_channels": (4, 4, 8, 8), "max_length": 256}  # a frozen middle is left


def dry_name(recipe: Recipe) -> str:
    """What a dry run of the recipe is called."""
    return recipe.name + DRY


def is_dry(recipe: Recipe) -> bool:
    """Whether `dry` made the recipe."""
    return recipe.name.endswith(DRY)


def files_of(run_dir: Path) -> Path:
    """The folder beside a dry run's own where its source, prompts and photographs lie."""
    return run_dir.with_name(f"{run_dir.name}-files")


def dry(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe with sizes and counts for a dry run, its files in `files_of(run_dir)`, where `prepare` puts them."""
    files = files_of(run_dir).resolve()
    photographs = str(files / "photographs") if recipe.corpus.folder is not None else None
    resolution = TOKENS_A_SIDE * recipe.transfer.patch_size
    source_resolution = None if recipe.source_resolution is None else 2**4 * TOKENS_A_SIDE  # VAE of factor 8, patch 2
    return replace(
        recipe,
        name=dry_name(recipe),
        source=str(files / "source"),
        resolution=resolution,
        source_resolution=source_resolution,
        corpus=_small_corpus(recipe.corpus, files, photographs),
        transfer=replace(
            recipe.transfer,
            resolution=resolution if recipe.transfer.resolution else None,
            max_sequence_length=_short(recipe.transfer.max_sequence_length),
            detailer=_narrow(recipe.transfer),
            num_train_steps=3,
            num_validation_images=NUM_VALIDATION_IMAGES,
            validate_every=2,
            save_every=2,
            log_every=1,
        ),
        source_sampler=_quick(recipe.source_sampler),
        l2p_sampler=_quick(recipe.l2p_sampler),
        suites=tuple(_small_suite(suite) for suite in recipe.suites),
        judges={name: JUDGES[name] for name in recipe.judges},
        study="a dry run on random weights, no score",
    )


def _narrow(transfer: TransferConfig) -> DetailerConfig:
    """The head with as many levels, each a few channels wide."""
    num_levels = len(ladder(transfer.patch_size, transfer.detailer.channels).levels)
    return replace(transfer.detailer, channels=(4,) * num_levels + (8,))


def _short(length: int) -> int:
    return min(length, NUM_TOKENS)


def _quick(sampler: Sampler) -> Sampler:
    return replace(sampler, num_inference_steps=2, max_sequence_length=_short(sampler.max_sequence_length))


def _small_corpus(corpus: Corpus, files: Path, photographs: str | None) -> Corpus:
    return replace(corpus, prompts=str(files / "prompts.jsonl"), num_prompts=NUM_PROMPTS, folder=photographs)


def _small_suite(suite: Suite) -> Suite:
    prompts, arguments = SUITES[suite.prompts]
    return replace(suite, prompts=prompts, arguments=arguments)


def prepare(recipe: Recipe, run_dir: Path) -> None:
    """Write what a dry recipe reads, where it is not there: a random source, prompts by the grammar, noise pictures."""
    import torch

    from l2p.architectures import TinySizes, get_architecture
    from reproduce.prompts.make import PromptsConfig, make_prompts

    files = files_of(run_dir).resolve()
    if not (files / "source" / "model_index.json").is_file():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipeline = get_architecture(recipe.family).tiny_source(TinySizes(**SIZES))
        pipeline.to(getattr(torch, recipe.dtype)).save_pretrained(files / "source")
    if not Path(recipe.corpus.prompts).is_file():
        make_prompts(PromptsConfig(num=NUM_PROMPTS, out=Path(recipe.corpus.prompts), seed=recipe.corpus.seed))
    if recipe.corpus.folder is not None and not Path(recipe.corpus.folder, "metadata.jsonl").is_file():
        _write_photographs(Path(recipe.corpus.folder), recipe.resolution)


def _write_photographs(folder: Path, resolution: int) -> None:
    """Pictures of noise with captions."""
    import numpy as np
    from PIL import Image

    from bench.images import save_image

    random = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(2 * NUM_PROMPTS)]
    for name in names:
        save_image(Image.fromarray(random.integers(0, 256, (resolution, resolution, 3), np.uint8)), folder / name)
    write_jsonl(folder / "metadata.jsonl", [{"file_name": name, "text": f"a photo {name}"} for name in names])


def write_questions(path: Path) -> None:
    """Two items of two questions in DPG-Bench's layout."""
    rows = [
        QUESTION.format(number=number, proposition=proposition, parent=proposition - 1)
        for number in (1, 2)
        for proposition in (1, 2)
    ]
    path.write_text("item_id,text,proposition_id,dependency,tuple,question_natural_language\n" + "".join(rows))


def rewritten_entries() -> list[dict[str, Any]]:
    """Two of GenEval's entries with texts that name nothing."""
    from bench.geneval.prompts import generate

    return [entry | {"prompt": "Something on a table."} for entry in generate(num_per_task=2)[:2]]


def detector() -> Callable[[list[Image]], list[list[Any]]]:
    """A detector that guesses one object and colour from a picture's bytes: the same picture, the same guess."""
    from bench.geneval.prompts import OBJECT_NAMES
    from bench.geneval.rules import COLORS
    from bench.records import Detection

    def detect(images: list[Image]) -> list[list[Detection]]:
        found = [hashlib.sha256(image.tobytes()).digest() for image in images]
        return [
            [
                Detection(
                    label=OBJECT_NAMES[digest[0] % len(OBJECT_NAMES)],
                    box=(2.0, 2.0, 20.0, 20.0),
                    score=0.95,
                    color=COLORS[digest[1] % len(COLORS)],
                )
            ]
            for digest in found
        ]

    return detect


def vqa() -> Callable[[Image, list[str]], list[str]]:
    """A VQA that answers by the bytes of picture and question."""

    def answer(image: Image, questions: list[str]) -> list[str]:
        picture = image.tobytes()
        return ["yes" if hashlib.sha256(picture + q.encode()).digest()[0] % 2 else "no" for q in questions]

    return answer


JUDGES = {"geneval": "reproduce.dry:detector", "dpg": "reproduce.dry:vqa"}
SUITES: dict[str, tuple[str, dict[str, Any]]] = {
    "bench.geneval.prompts:generate": ("bench.geneval.prompts:generate", {"num_per_task": 1}),
    "bench.dpg.published:questions": ("reproduce.dry:write_questions", {}),
    "bench.geneval.rewritten:entries": ("reproduce.dry:rewritten_entries", {}),
}
"""By a suite's prompts: a few like them."""
