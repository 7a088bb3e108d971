"""Qwen-Image's recipes."""

from __future__ import annotations

from dataclasses import replace

from reproduce.recipes.base import Recipe, Sampler
from reproduce.recipes.miniature import ablation, longer, miniature
from reproduce.recipes.paper import at_4k, paper, with_rewritten

SOURCE_SAMPLER = Sampler(num_inference_steps=50, guidance_scale=4.0, max_sequence_length=512, batch_size=8)
"""The model card's: 50 steps, guidance 4."""


def qwenimage_mini() -> Recipe:
    """The paper in miniature, from a source of this family's own classes: `nox -s reproduce-qwenimage`.

    Hardware: two cores, no GPU: 8 minutes (AVX-512), 3.1 GiB. Three seeds: GenEval 0.925 (source) and 0.726 (pixel
    model), retention 0.785 (0.702, 0.868).
    """
    return miniature("qwenimage")


def qwenimage_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-qwenimage -- --recipe qwenimage_mini_long`.

    Hardware: two cores, no GPU: 32 minutes by one process beside another (AVX-512). A larger corpus, three times the
    steps and more images to score, nothing else. One seed: GenEval 0.934 (source) and 0.779 (pixel model), retention
    0.834 (0.779, 0.884); DPG-Bench keeps 0.857 (0.828, 0.887).
    """
    return longer(qwenimage_mini())


def qwenimage_mini_guidance() -> Recipe:
    """`qwenimage_mini`, drawn with guidance 2 as the release draws, GenEval alone: how much of its loss guidance makes.

    `-- --recipe qwenimage_mini_guidance`, beside `qwenimage_mini`, whose transfer it takes. Hardware: two cores, no
    GPU. Three seeds: GenEval 0.797, where `qwenimage_mini` has 0.726.
    """
    short = qwenimage_mini()
    sampler = replace(short.l2p_sampler, guidance_scale=2.0)
    return ablation(replace(short, l2p_sampler=sampler), "guidance", "guidance 2 in place of 3")


def qwenimage_paper() -> Recipe:
    """Qwen-Image, at the paper's size: `nox -s reproduce-qwenimage -- --size paper`.

    Hardware: `--plan` says which GPUs it needs and for how long (docs/paper-size.md). Weights come from the hub
    (free to all). Not measured by us yet.
    """
    return paper(family="qwenimage", source="Qwen/Qwen-Image", source_sampler=SOURCE_SAMPLER)


def qwenimage_paper_rewritten() -> Recipe:
    """`qwenimage_paper` with a second GenEval suite of rewritten prompts: `-- --recipe qwenimage_paper_rewritten`.

    Hardware: as `qwenimage_paper`. Not measured by us yet.
    """
    return with_rewritten(qwenimage_paper())


def qwenimage_4k() -> Recipe:
    """Qwen-Image at 4096 px, trained on photographs of yours: `-- --recipe qwenimage_4k`.

    Hardware: as `qwenimage_paper`, and far more disk. Not measured by us yet.
    """
    return at_4k(qwenimage_paper())


RECIPES = {
    function.__name__: function
    for function in (
        qwenimage_mini,
        qwenimage_mini_long,
        qwenimage_mini_guidance,
        qwenimage_paper,
        qwenimage_paper_rewritten,
        qwenimage_4k,
    )
}
