"""Stage 5: the cost as measured here: one transfer step, shallow against full, and one sampling step.

One model is held at a time: at the paper's size two would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from bench.cost.measure import measure_step
from bench.records import CostRecord, Training, write_json
from l2p.architectures import EncodedPrompt, encode_prompt
from l2p.config import FROZEN_DTYPES, TransferConfig
from l2p.empty import give_back_memory
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.progress import say
from l2p.trainable import make_accelerator, start_training
from l2p.training.data import MicroBatch
from l2p.training.optimise import Trainer
from reproduce.cases import num_blocks_trained
from reproduce.draw import SUBJECTS, text_pipeline
from reproduce.memory import gpus_here, trains_whole
from reproduce.recipes import Recipe
from reproduce.recipes.base import drawn_at

PROMPT = "a photo of a red circle"


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `cost/measured.json`, one process; predictions at full size are `python -m bench cost`'s."""
    measure: list[Callable[[], CostRecord]] = [
        lambda: sampling_record(recipe, run_dir, "source"),
        lambda: sampling_record(recipe, run_dir, "l2p"),
    ]
    steps = {
        "l2p-transfer-step-shallow": recipe.transfer,
        "l2p-transfer-step-full": replace(recipe.transfer, trainable="all"),
    }
    for case, config in steps.items():
        if trains_whole(replace(recipe, transfer=config), gpus_here()):
            measure.append(partial(transfer_record, recipe, run_dir, case, config))
        else:
            say(f"cost: {case} is not measured: it needs more than one GPU here has, by the plan")
    records = []
    for one in measure:
        records.append(one())
        give_back_memory()
    write_json(run_dir / "cost" / "measured.json", records)


def sampling_record(recipe: Recipe, run_dir: Path, subject: Literal["source", "l2p"]) -> CostRecord:
    """One call with one sampling step: what an image needs beside more of the same steps is in it."""
    model, batch_size = SUBJECTS[subject], recipe.l2p_sampler.batch_size
    sampler = replace(model.sampler(recipe), num_inference_steps=1)
    pipeline = model.load(recipe, run_dir)
    prompts, seeds = [PROMPT] * batch_size, list(range(batch_size))
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    decoding = "VAE decode" if subject == "source" else "no VAE"
    what = CostRecord(
        case=f"{subject}-sampling-step",
        kind="measured",
        family=recipe.family,
        model=subject,
        counted=("vae", "text") if subject == "source" else ("text",),
        resolution=drawn_at(recipe, subject),
        batch_size=batch_size,
        patch_size=recipe.transfer.patch_size if subject == "l2p" else 0,
        dtype=recipe.dtype,
        protocol=f"pipeline call with one step: prompt encoding, guidance as the recipe has it, {decoding}",
    )

    def step() -> object:
        return model.draw(pipeline, prompts, seeds, sampler, drawn_at(recipe, subject))

    return measure_step(step, what, resident=modules, device=str(PartialState().device))


def transfer_record(recipe: Recipe, run_dir: Path, case: str, config: TransferConfig) -> CostRecord:
    """One step of the transfer itself on the recipe's whole batch, in one process: precision, clipping, averages."""
    device, prompts = PartialState().device, [PROMPT] * config.batch_size
    text = text_pipeline(recipe).to(device)
    prompt = encode_prompt(text, recipe.family, prompts, config.max_sequence_length)
    del text
    give_back_memory()
    dtype = FROZEN_DTYPES[config.mixed_precision]
    model = PixelTransformer2DModel.from_pretrained(run_dir / "transfer" / "model", dtype=dtype)
    trainer = start_training(model.to(device).train(), config, make_accelerator(config), alone=True)
    num_trained = sum(parameter.numel() for parameter in trainer.trained.values())
    what = CostRecord(
        case=case,
        kind="measured",
        family=recipe.family,
        model="l2p",
        training=Training(
            num_trainable_blocks=num_blocks_trained(config),
            released=config.trainable == "released",
            checkpointed=config.gradient_checkpointing,
            mixed=config.mixed_precision != "no",
            optimizer="8bit" if config.optimizer_bits == 8 else "fused",
        ),
        resolution=recipe.resolution,
        batch_size=config.batch_size,
        patch_size=config.patch_size,
        dtype=str(dtype).removeprefix("torch."),
        protocol=f"step of the transfer, {num_trained} parameters trained ({config.trainable}), AdamW fused",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trainable_parameters=num_trained,
    )
    averages = trainer.ema.shadow_params if trainer.ema else []
    step = transfer_step(trainer, prompt, config, recipe.resolution)
    return measure_step(step, what, resident=[model, trainer.optimizer, *averages], device=str(device))


def transfer_step(
    trainer: Trainer, prompt: EncodedPrompt, config: TransferConfig, resolution: int
) -> Callable[[], float]:
    """A function that takes one step on images of noise: the cost does not depend on what they show."""
    parts = config.gradient_accumulation_steps
    size = config.batch_size // parts
    batch = [
        MicroBatch(
            clean=torch.rand(size, 3, resolution, resolution),  # [b, 3, H, W]
            noise=torch.randn(size, 3, resolution, resolution),
            sigma=torch.full((size,), 0.5),  # [b]
            prompt={name: tensor[:size] for name, tensor in prompt.items()},
        )
        for _ in range(parts)
    ]
    return lambda: trainer.step(batch, 0)
