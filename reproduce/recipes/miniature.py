"""What all miniature recipes share: sizes, samplers, suites and judges of the small world."""

from __future__ import annotations

from dataclasses import replace

from l2p.detailer import DetailerConfig
from l2p.transfer import TransferConfig
from reproduce.miniature.scenes import RESOLUTION
from reproduce.miniature.sources import MiniatureSource, miniature_source
from reproduce.recipes.base import REPORT_SEED, Corpus, Recipe, Sampler, Suite, of_steps

GUIDANCE = 3.0  # of all pixel models; a source's own stands in reproduce/miniature/sources.py


def miniature(family: str) -> Recipe:
    """A family's usual miniature: its shipped source draws 2,400 images, 2,000 steps, three suites."""
    own = miniature_source(family)
    return Recipe(
        name=f"{family}-mini",
        family=family,
        size="miniature",
        source=f"reproduce/miniature/weights/{family}",
        dtype="float32",
        resolution=RESOLUTION,
        corpus=Corpus(
            prompts="reproduce.miniature.prompts:corpus_prompts",
            num_prompts=2400,
            image_filter="reproduce.miniature.detector:reject_held_out",
        ),
        transfer=miniature_transfer(own),
        source_sampler=miniature_sampler(
            num_inference_steps=10, guidance_scale=own.guidance_scale, max_sequence_length=own.max_sequence_length
        ),
        l2p_sampler=miniature_sampler(
            num_inference_steps=12,
            guidance_scale=GUIDANCE,
            max_sequence_length=own.max_sequence_length,
            scheduler="unipc",
        ),
        suites=miniature_suites(),
        judges={
            "geneval": "reproduce.miniature.detector:load",
            "dpg": "reproduce.miniature.answers:answerer",
        },
        judge_checks=(
            "reproduce.miniature.check:judge_check",
            "reproduce.miniature.answers:judge_check",
            "reproduce.miniature.agreement:judge_rows",
        ),
        cross_check="reproduce.miniature.agreement:cross_check",
        sample_seed=REPORT_SEED,
        num_processes=2,
        world="layouts said",
    )


def longer(usual: Recipe) -> Recipe:
    """A usual miniature with a larger corpus, three times the steps and more images to score: for the claims."""
    geneval, heldout, dpg = usual.suites
    return replace(
        usual,
        name=f"{usual.name}-long",
        corpus=replace(usual.corpus, num_prompts=6_000),
        transfer=of_steps(usual.transfer, 6_000),
        suites=(
            replace(geneval, arguments={"num_per_task": 60, "seed": REPORT_SEED}),
            replace(heldout, images_per_prompt=50),
            replace(dpg, arguments={"num_items": 200, "seed": REPORT_SEED}),
        ),
    )


def ablation(recipe: Recipe, name: str, study: str, suites: tuple[str, ...] = ("geneval",)) -> Recipe:
    """A miniature that was changed in what ``study`` says, under a name of its own, with the suites that tell."""
    told = tuple(suite for suite in recipe.suites if suite.name in suites)
    return replace(recipe, name=f"{recipe.name}-{name}", suites=told, study=study)


def miniature_suites() -> tuple[Suite, ...]:
    """GenEval's six tasks, the pairs of shape and colour that no training image shows, DPG-Bench's dense prompts."""
    return (
        Suite(
            name="geneval",
            title="GenEval",
            prompts="reproduce.miniature.prompts:geneval_suite",
            arguments={"num_per_task": 15, "seed": REPORT_SEED},
        ),
        Suite(
            name="heldout",
            title="Held-out pairs",
            prompts="reproduce.miniature.prompts:heldout_suite",
            images_per_prompt=16,
        ),
        Suite(
            name="dpg",
            title="DPG-Bench",
            prompts="reproduce.miniature.questions:write_questions",
            arguments={"num_items": 100, "seed": REPORT_SEED},
            benchmarks=("dpg",),
        ),
    )


def miniature_sampler(
    *, num_inference_steps: int, guidance_scale: float, max_sequence_length: int, scheduler: str | None = None
) -> Sampler:
    """The settings that both models share; each has its own number of steps, its guidance and its scheduler.

    12 steps of UniPC draw as well as 20 of Euler: docs/log/2026-11-24-transfers.md.
    """
    return Sampler(
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        max_sequence_length=max_sequence_length,
        batch_size=32,
        shift=3.0,
        scheduler=scheduler,
    )


def miniature_transfer(own: MiniatureSource) -> TransferConfig:
    """The options that a prototype found best for FLUX's source, of 6 blocks at 48 px, one trained at each end.

    What the paper fixes stays: frozen middle, both ends and a Detailer Head trained on source-made images only.
    """
    return TransferConfig(
        patch_size=8,
        prediction="clean",
        output_scale=0.33,
        detailer=DetailerConfig(channels=(16, 32, 64, 128), upsampling="unfold"),
        input_projection="ridge",
        ridge_strength=0.02,
        num_trainable_blocks=1,
        num_train_steps=2000,
        batch_size=16,
        learning_rate=3e-3,
        block_learning_rate=1e-3,
        projection_learning_rate=own.projection_learning_rate,
        adam_betas=(0.9, 0.98),
        num_warmup_steps=30,
        num_decay_steps=1400,
        max_grad_norm=1.0,
        ema_decay=0.999,
        shift=3.0,
        loss_weight_below=0.3,
        max_sequence_length=own.max_sequence_length,
        num_validation_images=192,
        validate_every=400,
        save_every=200,
    )
