"""The pixel model that a transfer starts from, or goes on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from l2p.config import TransferConfig
from l2p.conversion import ConversionReport, fit_input_projection, inherit, source_sha256, take_source_weights
from l2p.empty import without_weights
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.training import state as saved
from l2p.training.data import Data


def new_model(pipeline: Any, config: TransferConfig) -> tuple[PixelTransformer2DModel, ConversionReport]:
    """Build the pixel model that a configuration describes: the source's own tensors, the rest drawn by the seed.

    The source's transformer and the model share what both have: throw the transformer away before anything is trained.
    No tensor of the source is drawn or copied, so this needs the new layers' memory alone. Returns also what was taken.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.initial_weights == "random":
            model = _built(pipeline, config)
            report = ConversionReport(copied=(), new=tuple(sorted(model.state_dict())), dropped=())
        else:
            with without_weights() as draws:
                model = _built(pipeline, config)
            report = take_source_weights(model, pipeline.transformer)
            draws.fill(model, [name for name, parameter in model.named_parameters() if parameter.is_meta])
    reference = next(pipeline.transformer.parameters())
    if (reference.device, reference.dtype) != (torch.device("cpu"), torch.float32):  # as the new ones are drawn
        model.to(device=reference.device, dtype=reference.dtype)
    return model, report


def _built(pipeline: Any, config: TransferConfig) -> PixelTransformer2DModel:
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
    model, report = new_model(pipeline, config)
    conversion: dict[str, Any] = {"copied": len(report.copied), "new": report.new, "dropped": report.dropped}
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
        raise InputError(f"the source's weights are not those that the transfer in {state.parent} started from")
