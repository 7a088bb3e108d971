"""What a recipe's values may be; looked at before anything is drawn or written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from bench.benchmarks import BENCHMARKS, find_benchmark
from bench.fidelity.benchmark import NEEDS_REFERENCE
from bench.records import to_json
from l2p.architectures import get_architecture
from l2p.errors import InputError
from l2p.sampling import SCHEDULERS
from reproduce.recipes.base import Recipe, Sampler

MAX_SEED = 2**63  # of torch's generators


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError, one sentence, for the first value of a recipe with which a run could not end well."""
    get_architecture(recipe.family)
    problem = next(_problems(recipe), None)
    if problem is not None:
        raise InputError(f"recipe {recipe.name!r}: {problem}")


def _problems(recipe: Recipe) -> Iterator[str]:
    for number_name, number in _floats(to_json(recipe)):
        if not math.isfinite(number):
            yield f"{number_name} is {number}; give a finite number"
    for name in ("dtype", "size"):
        known = get_args(get_type_hints(Recipe)[name])
        if getattr(recipe, name) not in known:
            yield f"{name} is {getattr(recipe, name)!r}; give one of {', '.join(known)}"
    yield from _bad_counts(recipe)
    yield from _bad_seeds(recipe)
    if recipe.resolution % recipe.transfer.patch_size:
        yield f"resolution {recipe.resolution} is no multiple of patch_size {recipe.transfer.patch_size}"
    for name in ("source_sampler", "l2p_sampler"):
        yield from _bad_sampler(name, getattr(recipe, name))
    yield from _bad_suites(recipe)
    for suite in recipe.suites:
        if suite.scale is not None and (not isinstance(suite.scale, int) or suite.scale < 1):
            yield f"suite {suite.name!r}, scale is {suite.scale!r}; give a whole number of 1 or more, or None"
    drawn_by_a_model = recipe.corpus.folder is None and ":" not in (recipe.corpus.maker or "")
    if recipe.source_resolution not in (None, recipe.resolution) and drawn_by_a_model:
        yield (
            f"its source would draw a corpus of {recipe.source_resolution} px for a pixel model of {recipe.resolution} "
            "px; name a corpus of that size in corpus.folder"
        )
    num_images, held_back = _num_corpus_images(recipe), recipe.transfer.num_validation_images
    if num_images < 2 * held_back:
        yield (
            f"its corpus of {num_images} images cannot hold back {held_back} for validation; "
            "draw more images or lower num_validation_images"
        )


def _num_corpus_images(recipe: Recipe) -> int:
    return recipe.corpus.num_prompts * recipe.corpus.images_per_prompt


def _floats(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float in JSON values, with its dotted name."""
    if isinstance(value, float):
        yield name, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        yield from _floats(one, f"{name}.{key}" if name else str(key))


def _bad_counts(recipe: Recipe) -> Iterator[str]:
    counts = {
        "resolution": recipe.resolution,
        "corpus.num_prompts": recipe.corpus.num_prompts,
        "corpus.images_per_prompt": recipe.corpus.images_per_prompt,
        "corpus.images_per_shard": 1 if recipe.corpus.images_per_shard is None else recipe.corpus.images_per_shard,
        "num_processes": 1 if recipe.num_processes is None else recipe.num_processes,
        "source_resolution": recipe.resolution if recipe.source_resolution is None else recipe.source_resolution,
        **{f"suite {suite.name!r}, images_per_prompt": suite.images_per_prompt for suite in recipe.suites},
    }
    yield from _not_counts(counts)


def _not_counts(counts: dict[str, Any]) -> Iterator[str]:
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            yield f"{name} is {value!r}; give a whole number of 1 or more"


def _bad_seeds(recipe: Recipe) -> Iterator[str]:
    seeds = {"corpus.seed": recipe.corpus.seed, "transfer.seed": recipe.transfer.seed}
    for name, value in {**seeds, "sample_seed": recipe.sample_seed}.items():
        if not isinstance(value, int) or not 0 <= value < MAX_SEED:
            yield f"{name} is {value!r}; give a whole number from 0 to 2**63 - 1"


def _bad_sampler(name: str, sampler: Sampler) -> Iterator[str]:
    counts = ("num_inference_steps", "max_sequence_length", "batch_size")
    yield from _not_counts({f"{name}.{count}": getattr(sampler, count) for count in counts})
    if sampler.shift is not None and sampler.shift <= 0:
        yield f"{name}.shift is {sampler.shift}; give a number above 0, or None for the pipeline's own"
    if sampler.scheduler is not None and sampler.scheduler not in SCHEDULERS:
        known = f"known: {', '.join(SCHEDULERS)}, or None for the pipeline's own"
        yield f"{name}.scheduler is {sampler.scheduler!r}; {known}"
    if sampler.scheduler is not None and sampler.shift is None:
        yield f"{name}.scheduler is {sampler.scheduler!r} and its shift None; a scheduler of that name needs a shift"


def _bad_suites(recipe: Recipe) -> Iterator[str]:
    if not recipe.suites:
        yield "it has no suite to draw and score"
    twice = [name for name, count in Counter(suite.name for suite in recipe.suites).items() if count > 1]
    if twice:
        yield f"two suites are called {twice[0]!r}, and would share a folder; give each a name of its own"
    for suite in recipe.suites:
        if not suite.name or suite.name.startswith(".") or {"/", "\\"} & set(suite.name):
            yield f"a suite is called {suite.name!r}, which is no name of a folder"
        if not suite.benchmarks:
            yield f"suite {suite.name!r} names no benchmark; known: {', '.join(BENCHMARKS)}"
        for benchmark in suite.benchmarks:
            find_benchmark(benchmark)
        compared = NEEDS_REFERENCE & set(suite.benchmarks)
        if compared and suite.reference is None:
            yield (
                f"suite {suite.name!r} is scored by {', '.join(sorted(compared))} and names no reference: give a "
                "folder of real pictures, a file of their statistics, or package.module:function"
            )
