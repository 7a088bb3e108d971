"""A pixel pipeline of every family on a tiny random source, with weights under which every input moves the image."""

from typing import Any

import torch
from torch import Tensor, nn

from l2p.conversion import copy_source_weights
from l2p.pipeline import L2PPipeline, pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.tiny import source

GAIN = 1.35  # a layer's weights are normal with this over the square root of its inputs: tokens grow, nothing fades
LENGTH = 48  # tokens: room for every family's chat template
SMALL = {"height": 16, "width": 24, "num_inference_steps": 3, "max_sequence_length": LENGTH, "output_type": "latent"}
PROMPTS = ["a red star", "two blue", "a circle and a star"]


def strengthen(model: nn.Module, gain: float) -> None:
    """Draw the weights anew: a small random model as the libraries start it hardly hears its prompt."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5, generator=generator)


def pixels(family: str = "flux", gain: float = GAIN, **options: Any) -> L2PPipeline:
    """The family's tiny source as a pixel pipeline of patch size 8, shift 3; options are from_source's."""
    origin = source(family, max_length=64)
    torch.manual_seed(5)
    model = PixelTransformer2DModel.from_source(origin.transformer, **{"patch_size": 8, **options})
    copy_source_weights(model, origin.transformer)
    strengthen(model, gain)
    pipeline = pixel_pipeline(origin, model.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(*seeds: int) -> list[torch.Generator]:
    """One generator an image."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(
    pipeline: L2PPipeline, prompts: Any = tuple(PROMPTS[:2]), seeds: tuple[int, ...] = (1, 2), **more: Any
) -> Tensor:
    """Draw small images [B, 3, 16, 24], two by default."""
    texts = {} if "prompt_embeds" in more else {"prompt": list(prompts) if isinstance(prompts, tuple) else prompts}
    return pipeline(**{**SMALL, "generator": generators(*seeds), **texts, **more}).images


def close(one: Tensor, other: Tensor) -> None:
    """Assert that two images are the same up to rounding: to 3e-4 of their deviation."""
    torch.testing.assert_close(one, other, atol=3e-4 * one.std().item(), rtol=0)


def moved(one: Tensor, other: Tensor) -> float:
    """How far two images lie apart in the mean, in units of their deviation."""
    return ((one - other).abs().mean() / one.std()).item()
