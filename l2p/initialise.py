"""The pixel model that a transfer starts from, or goes on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from l2p.config import TransferConfig
from l2p.conversion import copy_source_weights, fit_input_projection, inherit, source_sha256
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.training import state as saved
from l2p.training.data import Data


def new_model(pipeline: Any, config: TransferConfig) -> PixelTransformer2DModel:
    """Build the pixel model that a configuration describes for a source pipeline; its weights are drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return PixelTransformer2DModel.from_source(
            pipeline.transformer,
            patch_size=config.patch_size,
            prediction=config.prediction,
            output_scale=config.output_scale,
            detailer=config.detailer,
            distilled_guidance=config.distilled_guidance,
        )


def initial_model(
    pipeline: Any, data: Data, config: TransferConfig, *, resumed: bool, start: Path | None = None
) -> tuple[PixelTransformer2DModel, dict[str, Any]]:
    """Build the pixel model with the source's weights; return it and what was copied, new, dropped and fitted.

    With initial_weights "random" it keeps the weights that the seed drew: nothing is copied.

    start: another pixel model, whose weights are inherited by name and shape. resumed: what the source does not have
    will come from the saved state: nothing is fitted or inherited.
    """
    model = new_model(pipeline, config)
    if config.initial_weights == "random":
        conversion: dict[str, Any] = {"copied": 0, "new": sorted(model.state_dict()), "dropped": []}
        model.to(device=pipeline.transformer.device, dtype=pipeline.transformer.dtype)
    else:
        report = copy_source_weights(model, pipeline.transformer)
        conversion = {"copied": len(report.copied), "new": report.new, "dropped": report.dropped}
    if resumed:
        return model, conversion
    conversion["source_sha256"] = source_sha256(pipeline.transformer)
    if config.input_projection == "ridge":
        images = data.corpus.batches(data.training[: config.num_ridge_images])
        fit = fit_input_projection(model, pipeline, images, config.ridge_strength)
        conversion["projection"] = {"explained": fit.explained, "noise_gain": fit.noise_gain}
    if start is not None:
        conversion["inherited"] = inherit(model, start)
    return model, conversion


def restore_model(model: PixelTransformer2DModel, facts: Mapping[str, Any], state: Path) -> None:
    """Put a saved state's weights into the model. Raises ValueError where the frozen ones are another source's."""
    own = model.state_dict()
    for name, tensor in saved.load_weights(state).items():
        own[name].copy_(tensor)
    if saved.frozen_sha256(model) != facts["frozen_sha256_before"]:
        raise ValueError(f"the source's weights are not those that the transfer in {state.parent} started from")
