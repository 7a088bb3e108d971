"""Z-Image's recipes."""

from __future__ import annotations

from reproduce.recipes.base import Recipe, Sampler
from reproduce.recipes.miniature import longer, miniature
from reproduce.recipes.paper import at_4k, paper, with_rewritten

SOURCE_SAMPLER = Sampler(num_inference_steps=8, guidance_scale=1.0, max_sequence_length=512, batch_size=8)
"""The model card's: 8 forwards, no guidance."""


def zimage_mini() -> Recipe:
    """The paper in miniature, from a source of this family's own classes: `nox -s reproduce-zimage`.

    Hardware: two cores, no GPU: 12 minutes (AVX-512), 3.4 GiB. Three seeds: GenEval 0.942 (source) and 0.844 (pixel
    model), retention 0.897 (0.836, 0.960).
    """
    return miniature("zimage")


def zimage_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-zimage -- --recipe zimage_mini_long`.

    Hardware: two cores, no GPU: 63 minutes by one process beside another (AVX-512). A larger corpus, three times the
    steps and more images to score, nothing else. One seed: GenEval 0.980 (source) and 0.854 (pixel model), retention
    0.871 (0.832, 0.912); DPG-Bench keeps 0.808 (0.776, 0.840).
    """
    return longer(zimage_mini())


def zimage_paper() -> Recipe:
    """Z-Image-Turbo, the paper's own source, at the paper's size: `nox -s reproduce-zimage -- --size paper`.

    Hardware: `--plan` says which GPUs it needs and for how long (docs/paper-size.md). Weights come from the hub
    (free to all). Not measured by us yet.
    """
    return paper(family="zimage", source="Tongyi-MAI/Z-Image-Turbo", source_sampler=SOURCE_SAMPLER)


def zimage_paper_rewritten() -> Recipe:
    """`zimage_paper` with a second GenEval suite of rewritten prompts: `-- --recipe zimage_paper_rewritten`.

    Hardware: as `zimage_paper`. Not measured by us yet.
    """
    return with_rewritten(zimage_paper())


def zimage_4k() -> Recipe:
    """Z-Image-Turbo at 4096 px, trained on photographs of yours: `-- --recipe zimage_4k`.

    Hardware: as `zimage_paper`, and far more disk. Not measured by us yet.
    """
    return at_4k(zimage_paper())


RECIPES = {
    function.__name__: function
    for function in (zimage_mini, zimage_mini_long, zimage_paper, zimage_paper_rewritten, zimage_4k)
}
