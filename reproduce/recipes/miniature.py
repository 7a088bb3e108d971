"""What all miniature recipes share: sizes, samplers, suites and judges of the small world."""

from __future__ import annotations

from l2p.detailer import DetailerConfig
from l2p.transfer import TransferConfig
from reproduce.miniature.prompts import MAX_SEQUENCE_LENGTH
from reproduce.miniature.scenes import RESOLUTION
from reproduce.recipes.base import REPORT_SEED, Corpus, Recipe, Sampler, Suite


def miniature(*, name: str, family: str) -> Recipe:
    """A family's usual miniature: its shipped source draws 2,400 images, 2,000 steps, three suites."""
    return Recipe(
        name=name,
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
        transfer=miniature_transfer(num_train_steps=2000),
        source_sampler=miniature_sampler(num_inference_steps=10),
        l2p_sampler=miniature_sampler(num_inference_steps=12, scheduler="unipc"),
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


def miniature_sampler(num_inference_steps: int, scheduler: str | None = None) -> Sampler:
    """The settings that both models share; each has its own number of steps, and its scheduler.

    12 steps of UniPC draw as well as 20 of Euler: docs/log/2026-11-24-transfers.md.
    """
    return Sampler(
        num_inference_steps=num_inference_steps,
        guidance_scale=3.0,
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        batch_size=32,
        shift=3.0,
        scheduler=scheduler,
    )


def miniature_transfer(num_train_steps: int) -> TransferConfig:
    """The options that a prototype found best for a source of hidden 128 of 6 blocks at 48 px, one trained at each end.

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
        num_train_steps=num_train_steps,
        batch_size=16,
        learning_rate=3e-3,
        block_learning_rate=1e-3,
        adam_betas=(0.9, 0.98),
        num_warmup_steps=30,
        num_decay_steps=round(0.7 * num_train_steps),
        max_grad_norm=1.0,
        ema_decay=0.999,
        shift=3.0,
        loss_weight_below=0.3,
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        num_validation_images=192,
        validate_every=max(1, num_train_steps // 5),
        save_every=200,
    )
