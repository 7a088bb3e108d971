"""Stage 5: the cost as measured here: one transfer step, shallow against full, and one sampling step.

One model is held at a time: at the paper's size two would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from bench.cost.measure import measure_step
from bench.records import CostRecord, Training, write_json
from l2p.architectures import EncodedPrompt, encode_prompt
from l2p.config import FROZEN_DTYPES, TransferConfig
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.trainable import make_accelerator, start_training
from l2p.training.data import MicroBatch
from reproduce.draw import SUBJECTS, give_back_memory, text_pipeline
from reproduce.plan import num_blocks_trained
from reproduce.recipes import Recipe

PROMPT = "a photo of a red circle"


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `cost/measured.json`, one process; predictions at full size are `python -m bench cost`'s."""
    measure: list[Callable[[], CostRecord]] = [
        lambda: sampling_record(recipe, run_dir, "source"),
        lambda: sampling_record(recipe, run_dir, "l2p"),
        lambda: transfer_record(recipe, run_dir, "l2p-transfer-step-shallow", recipe.transfer),
        lambda: transfer_record(recipe, run_dir, "l2p-transfer-step-full", replace(recipe.transfer, trainable="all")),
    ]
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
        resolution=recipe.resolution,
        batch_size=batch_size,
        patch_size=recipe.transfer.patch_size if subject == "l2p" else 0,
        dtype=recipe.dtype,
        protocol=f"pipeline call with one step: prompt encoding, guidance as the recipe has it, {decoding}",
    )

    def step() -> object:
        return model.draw(pipeline, prompts, seeds, sampler, recipe.resolution)

    return measure_step(step, what, resident=modules, device=str(PartialState().device))


def transfer_record(recipe: Recipe, run_dir: Path, case: str, config: TransferConfig) -> CostRecord:
    """One training step of the recipe's whole batch in one process, as the transfer takes it."""
    device, prompts = PartialState().device, [PROMPT] * config.batch_size
    text = text_pipeline(recipe).to(device)
    prompt = encode_prompt(text, recipe.family, prompts, config.max_sequence_length)
    del text
    give_back_memory()
    model = PixelTransformer2DModel.from_pretrained(run_dir / "transfer" / "model", dtype=_frozen_dtype(config))
    trainer = start_training(model.to(device).train(), config, make_accelerator(config), alone=True)
    num_trained = sum(parameter.numel() for parameter in trainer.trained.values())
    what = CostRecord(
        case=case,
        kind="measured",
        family=recipe.family,
        model="l2p",
        training=Training(
            num_trainable_blocks=num_blocks_trained(config), released=config.trainable == "released", optimizer="fused"
        ),
        resolution=recipe.resolution,
        batch_size=config.batch_size,
        patch_size=config.patch_size,
        dtype=str(_frozen_dtype(config)).removeprefix("torch."),
        protocol=f"the transfer's training step, {num_trained} parameters trained ({config.trainable}), {_how(config)}",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trainable_parameters=num_trained,
    )
    batch = [noise_batch(prompt, config.batch_size // config.gradient_accumulation_steps, recipe.resolution)]
    batch *= config.gradient_accumulation_steps
    resident = [model, trainer.optimizer, *(trainer.ema.shadow_params if trainer.ema else [])]
    return measure_step(lambda: trainer.step(batch, 0), what, resident=resident, device=str(device))


def noise_batch(prompt: EncodedPrompt, batch_size: int, resolution: int) -> MicroBatch:
    """Images of noise with prompts from the first on: the cost of a step does not depend on what they show."""
    shape = (batch_size, 3, resolution, resolution)
    sigma = torch.full((batch_size,), 0.5)  # [B]
    few = {name: tensor[:batch_size] for name, tensor in prompt.items()}
    return MicroBatch(torch.rand(shape), torch.randn(shape), sigma, few)


def _frozen_dtype(config: TransferConfig) -> torch.dtype:
    return FROZEN_DTYPES[config.mixed_precision]


def _how(config: TransferConfig) -> str:
    parts = ["bfloat16 with float32 trained weights" if config.mixed_precision == "bf16" else "float32", "AdamW fused"]
    parts += ["averaged weights"] if config.ema_decay is not None else []
    parts += ["gradient checkpointing"] if config.gradient_checkpointing else []
    return ", ".join(parts)
