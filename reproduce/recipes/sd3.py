"""Stable Diffusion 3's recipes."""

from __future__ import annotations

from dataclasses import replace

from reproduce.recipes.base import Recipe, Sampler
from reproduce.recipes.miniature import ablation, longer, miniature
from reproduce.recipes.paper import at_4k, paper, with_rewritten

SOURCE_SAMPLER = Sampler(num_inference_steps=28, guidance_scale=7.0, max_sequence_length=256, batch_size=8)
"""The model card's: 28 steps, guidance 7, 256 tokens of T5 beside CLIP's."""


def sd3_mini() -> Recipe:
    """The paper in miniature, from a source of this family's own classes: `nox -s reproduce-sd3`.

    Hardware: two cores, no GPU: 9 minutes (AVX-512), 3.2 GiB. Three seeds: GenEval 0.931 (source) and 0.833 (pixel
    model), retention 0.896 (0.816, 0.972).
    """
    return miniature("sd3")


def sd3_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-sd3 -- --recipe sd3_mini_long`.

    Hardware: two cores, no GPU: 45 minutes by one process beside another (AVX-512). A larger corpus, three times the
    steps and more images to score, nothing else. One seed: GenEval 0.943 (source) and 0.841 (pixel model), retention
    0.891 (0.845, 0.933); DPG-Bench keeps 0.832 (0.798, 0.864).
    """
    return longer(sd3_mini())


def sd3_mini_shared() -> Recipe:
    """`sd3_mini` with every rate as the other families have it, GenEval alone: what its own rate is for.

    `-- --recipe sd3_mini_shared`. Hardware: as `sd3_mini`, two cores, no GPU. One seed: GenEval 0.453, where
    `sd3_mini` has 0.818.
    """
    short = sd3_mini()
    transfer = replace(short.transfer, projection_learning_rate=None)
    return ablation(replace(short, transfer=transfer), "shared", "the input projection at the head's rate")


def sd3_paper() -> Recipe:
    """Stable Diffusion 3 Medium, at the paper's size: `nox -s reproduce-sd3 -- --size paper`.

    Hardware: `--plan` says which GPUs it needs and for how long (docs/paper-size.md). Weights come from the hub
    (its licence must be accepted there). Not measured by us yet.
    """
    return paper(family="sd3", source="stabilityai/stable-diffusion-3-medium-diffusers", source_sampler=SOURCE_SAMPLER)


def sd3_paper_rewritten() -> Recipe:
    """`sd3_paper` with a second GenEval suite of rewritten prompts: `-- --recipe sd3_paper_rewritten`.

    Hardware: as `sd3_paper`. Not measured by us yet.
    """
    return with_rewritten(sd3_paper())


def sd3_4k() -> Recipe:
    """Stable Diffusion 3 Medium at 4096 px, trained on photographs of yours: `-- --recipe sd3_4k`.

    Hardware: as `sd3_paper`, and far more disk. Not measured by us yet.
    """
    return at_4k(sd3_paper())


RECIPES = {
    function.__name__: function
    for function in (sd3_mini, sd3_mini_long, sd3_mini_shared, sd3_paper, sd3_paper_rewritten, sd3_4k)
}
