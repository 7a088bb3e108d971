"""The miniature's transfer and sampler against what this machine can do at most; one process, one thread.

Run on an idle machine: OMP_NUM_THREADS=1 pytest bench/perf/test_l2p.py -s
(docs/log/2026-11-24-speed.md keeps what it printed)
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.cost.meter import Meter
from bench.cost.roofline import best_s
from l2p.architectures import encode_prompt
from l2p.flow import noisy_image, transfer_loss, velocity_target
from l2p.initialise import new_model
from l2p.pipeline import L2PPipeline, pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from l2p.trainable import make_accelerator, start_training
from l2p.transfer import run_transfer
from reproduce.launch import prepare_processor
from reproduce.miniature.prompts import task_entry
from reproduce.miniature.render import render
from reproduce.miniature.scenes import TASKS, task_scene
from reproduce.recipes import source_of
from reproduce.recipes.flux import flux_mini
from reproduce.stages.cost import PROMPT, transfer_step

RECIPE = flux_mini()
NUM_STEPS = 60
NUM_IMAGES = 96
REPEATS = 5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As a process of a run has it."""
    prepare_processor()


@pytest.fixture(scope="module")
def pipeline() -> L2PPipeline:
    """The recipe's pixel model before its transfer: speed does not depend on what was learned."""
    source = load_source(source_of(RECIPE))
    made = pixel_pipeline(source, new_model(source, RECIPE.transfer)[0])
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Rendered scenes in a corpus's format."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "corpus" / "images").mkdir(parents=True)
    for i in range(NUM_IMAGES):
        scene = task_scene(rng, TASKS[i % len(TASKS)])
        Image.fromarray(render(scene, RECIPE.resolution)).save(tmp_path / f"corpus/images/{i}.png")
        rows.append({"file_name": f"images/{i}.png", "text": task_entry(scene, TASKS[i % len(TASKS)])["prompt"]})
    (tmp_path / "corpus" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "corpus"


def product_flops() -> float:
    """FLOP/s of a float32 matrix product of side 1024."""
    matrix = torch.ones(1024, 1024)
    return 2 * 1024**3 / best_s(lambda: matrix @ matrix, REPEATS)


def test_a_transfer_step(benchmark, pipeline, corpus, tmp_path):
    """The whole loop, images decoded and weights averaged, in FLOP/s beside a matrix product's."""
    config = replace(RECIPE.transfer, num_train_steps=NUM_STEPS, num_validation_images=16, validate_every=NUM_STEPS)
    model = PixelTransformer2DModel.from_config(pipeline.transformer.config).train()
    trainer = start_training(model, config, make_accelerator(config), alone=True)
    prompts = [PROMPT] * config.batch_size
    prompt = encode_prompt(pipeline, RECIPE.family, prompts, config.max_sequence_length)
    step = transfer_step(trainer, prompt, config, RECIPE.resolution)
    step()
    with Meter() as meter:
        step()
    before = product_flops()
    summary = benchmark.pedantic(
        lambda: run_transfer(source_of(RECIPE), corpus, config, tmp_path / "out", progress=False), rounds=1
    )
    product = (before + product_flops()) / 2
    rate = meter.flops * NUM_STEPS / summary.seconds
    print(
        f"\ntransfer: {summary.seconds / NUM_STEPS:.3f} s a step of {config.batch_size}, {meter.flops / 1e9:.2f} "
        f"GFLOP: {rate / 1e9:.1f} GFLOP/s; matrix product {product / 1e9:.1f} GFLOP/s; share {rate / product:.2f}"
    )


def test_sampling_beside_its_forwards(benchmark, pipeline, monkeypatch):
    """A pipeline call, prompts encoded and images made, beside the forwards of its transformer within the same call."""
    sampler = RECIPE.l2p_sampler
    prompts = ["a photo of a red circle"] * sampler.batch_size
    options = {
        "height": RECIPE.resolution,
        "width": RECIPE.resolution,
        "num_inference_steps": sampler.num_inference_steps,
        "guidance_scale": sampler.guidance_scale,
        "max_sequence_length": sampler.max_sequence_length,
    }
    pipeline.transformer.eval()
    pipeline.transformer.detailer.to(memory_format=torch.channels_last)  # as reproduce.draw has it
    forward, seconds = pipeline.transformer.forward, []

    def timed(*arguments, **named):
        start = time.perf_counter()
        output = forward(*arguments, **named)
        seconds.append(time.perf_counter() - start)
        return output

    # Within one call: a machine's speed drifts between calls by more than what is measured.
    monkeypatch.setattr(pipeline.transformer, "forward", timed)
    benchmark.pedantic(
        lambda: pipeline(prompts, **options), setup=seconds.clear, rounds=1, warmup_rounds=1, iterations=1
    )
    call, bare = benchmark.stats.stats.min, sum(seconds)
    assert len(seconds) == sampler.num_inference_steps
    print(f"\nsampling: {call:.3f} s a call, {bare:.3f} s its forwards, overhead {100 * (call / bare - 1):.1f} %")


def test_where_a_step_goes(pipeline):
    """Seconds of each part of a training step."""
    config = RECIPE.transfer
    model = PixelTransformer2DModel.from_config(pipeline.transformer.config).train()
    trainer = start_training(model, config, make_accelerator(config), alone=True)
    noise, clean = torch.randn(2, config.batch_size, 3, RECIPE.resolution, RECIPE.resolution).unbind()
    sigma = torch.full((config.batch_size,), 0.5)
    prompt = pipeline.encode_prompt(["a photo of a red circle"] * config.batch_size, config.max_sequence_length)
    noisy = noisy_image(clean, noise, sigma)

    def tokens() -> Tensor:
        return model.token_map(noisy, sigma, prompt)

    def head() -> None:
        painted = model.detailer(noisy, leaf)
        transfer_loss(painted, velocity_target(clean, noise), sigma).backward()

    leaf = tokens().detach().requires_grad_()
    with torch.no_grad():
        parts = {
            "DiT, forward": best_s(tokens, REPEATS),
            "Detailer Head, forward": best_s(lambda: model.detailer(noisy, leaf), REPEATS),
        }
    parts["Detailer Head, backward"] = best_s(head, REPEATS) - parts["Detailer Head, forward"]
    both = best_s(lambda: tokens().square().sum().backward(), REPEATS)
    parts["DiT, backward (frozen middle: no weight gradients)"] = both - parts["DiT, forward"]
    parts["AdamW"] = best_s(trainer.optimizer.step, REPEATS)
    total = sum(parts.values())
    print(f"\n{len(trainer.trained)} trained tensors, batch {config.batch_size}\n| part | ms | share |\n|---|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / total:.2f} |")
