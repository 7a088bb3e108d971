"""What all recipes of the paper's size share: the paper's and the release's settings, suites and judges.

What they need of yours is named in environment variables, and told before anything starts where it is not there.
"""

from __future__ import annotations

from dataclasses import replace

from l2p.transfer import TransferConfig
from reproduce.prompts import DEFAULT_OUT
from reproduce.recipes.base import REPORT_SEED, Corpus, Recipe, Sampler, Suite

SHIFT = 3.0  # the release's, at 1K
PATCH_4K = 64  # paper section 3.4: as many tokens as at 1K
NUM_4K_IMAGES = 100_000  # of UltraHR-100K (appendix B)


def paper(*, family: str, source: str, source_sampler: Sampler) -> Recipe:
    """A family's transfer at 1024 px: 20,000 images of its own source, 100,000 steps, GenEval and DPG-Bench.

    The pixel model is trained and drawn with the release's shift, 30 steps and guidance 2 (section 3.3, appendix B,
    the release); the source is drawn as its makers advise, on the same prompts.
    """
    length, distilled = source_sampler.max_sequence_length, source_sampler.distilled_guidance
    return Recipe(
        name=f"{family}-paper",
        family=family,
        size="paper",
        source=source,
        dtype="bfloat16",
        resolution=1024,
        corpus=Corpus(prompts=DEFAULT_OUT, num_prompts=10_000, images_per_prompt=2),  # appendix B
        transfer=TransferConfig(
            mixed_precision="bf16",
            gradient_checkpointing=True,
            max_sequence_length=length,
            distilled_guidance=distilled,
            shift=SHIFT,
        ),
        source_sampler=source_sampler,
        l2p_sampler=Sampler(
            num_inference_steps=30, guidance_scale=2.0, max_sequence_length=length, batch_size=8, shift=SHIFT
        ),
        suites=(
            Suite(name="geneval", title="GenEval", prompts="bench.geneval.prompts:generate"),
            Suite(name="dpg", title="DPG-Bench", prompts="bench.dpg.published:questions", benchmarks=("dpg",)),
        ),
        judges={"geneval": "bench.geneval.detectors:published", "dpg": "bench.dpg.published:vqa"},
        sample_seed=REPORT_SEED,
    )


def with_rewritten(recipe: Recipe) -> Recipe:
    """The recipe with one more suite: GenEval's 553 prompts as a language model rewrote them, scored apart."""
    suite = Suite(
        name="geneval-rewritten",
        title="GenEval, rewritten prompts",
        prompts="bench.geneval.rewritten:entries",
        rewritten_by="the file that $L2P_GENEVAL_REWRITTEN names",
    )
    return replace(recipe, name=f"{recipe.name}-rewritten", suites=(*recipe.suites, suite))


def at_4k(recipe: Recipe) -> Recipe:
    """The recipe at 4096 px: patches of 64, 50 steps with guidance 4, trained on photographs that you bring.

    The source draws at its own 1024 px beside it: what it makes at 4096 px is not reliable, which is why the paper
    trains on UltraHR-100K there (appendix B). Training's shift is not stated; figure 12 finds 4 best for drawing.
    """
    return replace(
        recipe,
        name=f"{recipe.family}-4k",
        resolution=4096,
        source_resolution=recipe.resolution,
        corpus=replace(recipe.corpus, folder="$L2P_CORPUS_4K", num_prompts=NUM_4K_IMAGES, images_per_prompt=1),
        transfer=replace(recipe.transfer, patch_size=PATCH_4K, resolution=4096, shift=4.0),
        l2p_sampler=replace(recipe.l2p_sampler, num_inference_steps=50, guidance_scale=4.0, batch_size=1, shift=4.0),
        study="4096 px, trained on photographs",
    )
