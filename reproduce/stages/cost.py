"""Stage 5: the cost as measured here: one transfer step, shallow against full, and one sampling step.

One model is held at a time: at the paper's size two would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from bench.cost.measure import measure_step
from bench.records import CostRecord, Training, write_json
from l2p.architectures import EncodedPrompt, encode_prompt
from l2p.flow import noisy_image, velocity_target
from l2p.objective import transfer_loss
from l2p.options import TransferConfig, parameter_groups, trainable_parameters
from l2p.pixel_transformer import PixelTransformer2DModel
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
    """One training step of the recipe's whole batch in one process, float32 weights, AdamW as in the transfer."""
    device, prompts = PartialState().device, [PROMPT] * config.batch_size
    text = text_pipeline(recipe).to(device)
    prompt = encode_prompt(text, recipe.family, prompts, config.max_sequence_length)
    del text
    give_back_memory()
    model = PixelTransformer2DModel.from_pretrained(run_dir / "transfer" / "model", dtype=torch.float32)
    model = model.to(device).train()
    num_trained = sum(parameter.numel() for parameter in trainable_parameters(model, config).values())
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, fused=True)
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
        dtype="float32",
        protocol=f"training step, {num_trained} parameters trained ({config.trainable}), float32, AdamW fused",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trainable_parameters=num_trained,
    )
    step = transfer_step(prompt, model, optimizer, config, recipe.resolution)
    return measure_step(step, what, resident=[model, optimizer], device=str(device))


def transfer_step(
    prompt: EncodedPrompt, model: PixelTransformer2DModel, optimizer: Any, config: TransferConfig, resolution: int
) -> Callable[[], None]:
    """A function that takes one step on images of noise: the cost does not depend on what they show."""
    shape = (config.batch_size, 3, resolution, resolution)
    clean, noise = torch.rand(shape).to(model.device), torch.randn(shape).to(model.device)  # [B, 3, H, W]
    sigma = torch.full((config.batch_size,), 0.5, device=model.device)  # [B]
    prompt = {name: tensor.float() for name, tensor in prompt.items()}

    def step() -> None:
        velocity = model(noisy_image(clean, noise, sigma), sigma, prompt, return_dict=False)[0]
        transfer_loss(velocity, velocity_target(clean, noise), sigma, config.loss_weight_below).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
