"""FLUX.2's recipes."""

from __future__ import annotations

from reproduce.recipes.base import Recipe, Sampler
from reproduce.recipes.miniature import longer, miniature
from reproduce.recipes.paper import at_4k, paper, with_rewritten

SOURCE_SAMPLER = Sampler(
    num_inference_steps=50,
    guidance_scale=1.0,
    max_sequence_length=512,
    batch_size=8,
    distilled_guidance=4.0,
)
"""The model card's: 50 steps, distilled guidance 4."""


def flux2_mini() -> Recipe:
    """The paper in miniature, from a source of this family's own classes: `nox -s reproduce-flux2`.

    Hardware: two cores, no GPU: 7 minutes (AVX-512), 3.2 GiB. Three seeds: GenEval 0.914 (source) and 0.750 (pixel
    model), retention 0.820 (0.712, 0.926).
    """
    return miniature("flux2")


def flux2_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-flux2 -- --recipe flux2_mini_long`.

    Hardware: two cores, no GPU: 32 minutes by one process beside another (AVX-512). A larger corpus, three times the
    steps and more images to score, nothing else. One seed: GenEval 0.908 (source) and 0.832 (pixel model), retention
    0.917 (0.878, 0.955); DPG-Bench keeps 0.816 (0.780, 0.853).
    """
    return longer(flux2_mini())


def flux2_paper() -> Recipe:
    """FLUX.2-dev, at the paper's size: `nox -s reproduce-flux2 -- --size paper`.

    Hardware: `--plan` says which GPUs it needs and for how long (docs/paper-size.md). Weights come from the hub
    (its licence must be accepted there). Not measured by us yet.
    """
    return paper(family="flux2", source="black-forest-labs/FLUX.2-dev", source_sampler=SOURCE_SAMPLER)


def flux2_paper_rewritten() -> Recipe:
    """`flux2_paper` with a second GenEval suite of rewritten prompts: `-- --recipe flux2_paper_rewritten`.

    Hardware: as `flux2_paper`. Not measured by us yet.
    """
    return with_rewritten(flux2_paper())


def flux2_4k() -> Recipe:
    """FLUX.2-dev at 4096 px, trained on photographs of yours: `-- --recipe flux2_4k`.

    Hardware: as `flux2_paper`, and far more disk. Not measured by us yet.
    """
    return at_4k(flux2_paper())


RECIPES = {
    function.__name__: function
    for function in (flux2_mini, flux2_mini_long, flux2_paper, flux2_paper_rewritten, flux2_4k)
}
