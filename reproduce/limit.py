"""`--limit N`: a recipe cut down for a quick look, which is no score and says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.benchmarks import find_benchmark
from l2p.errors import InputError
from l2p.transfer import TransferConfig
from reproduce.recipes.base import Recipe, Suite

FEWEST = 4  # images: some to train on, some to hold back


def limited(recipe: Recipe, limit: int) -> Recipe:
    """The recipe with at most `limit` corpus prompts, a like share of the steps, and suites of so many prompts a task.

    `study` says that it is a quick look: its runs judge no claim. Metrics of whole sets, which want more pictures, are
    left out. Raises ValueError for a limit below 4 and for a suite
    that cannot be cut.
    """
    if limit < FEWEST:
        raise InputError(f"--limit {limit} leaves too few images to train on; give {FEWEST} or more")
    num_prompts = min(limit, recipe.corpus.num_prompts)
    num_images = num_prompts * recipe.corpus.images_per_prompt
    return replace(
        recipe,
        corpus=replace(recipe.corpus, num_prompts=num_prompts),
        transfer=_shorter(recipe.transfer, num_prompts / recipe.corpus.num_prompts, num_images),
        suites=tuple(_cut(suite, limit) for suite in recipe.suites),
        study=f"a quick look (--limit {limit}), no score",
    )


def _shorter(transfer: TransferConfig, share: float, num_images: int) -> TransferConfig:
    steps = max(1, math.ceil(transfer.num_train_steps * share))
    return replace(
        transfer,
        num_train_steps=steps,
        num_warmup_steps=min(transfer.num_warmup_steps, steps // 10),
        num_decay_steps=min(transfer.num_decay_steps, steps // 2),
        num_validation_images=min(transfer.num_validation_images, num_images // 4),
        validate_every=min(transfer.validate_every, steps),
    )


def _cut(suite: Suite, limit: int) -> Suite:
    """Fewer prompts where a function takes their number (`num_per_task`, `num_items`), else fewer images a prompt."""
    suite = replace(suite, benchmarks=tuple(name for name in suite.benchmarks if not find_benchmark(name).of_set))
    counts = {name: min(value, limit) for name, value in _counts(suite.arguments).items()}
    if counts:
        return replace(suite, arguments={**suite.arguments, **counts})
    if suite.benchmarks == ("geneval",) and ":" in suite.prompts:
        return replace(suite, images_per_prompt=min(suite.images_per_prompt, limit))
    raise InputError(f"--limit cannot cut suite {suite.name!r}: its prompts {suite.prompts} take no num_... argument")


def _counts(arguments: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in arguments.items() if name.startswith("num_") and isinstance(value, int)}
