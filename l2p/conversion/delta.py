"""Deltas: what a transfer changed, and which source it belongs to; source and delta give the pixel model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2p.conversion.release import check_source_config, merge_file
from l2p.conversion.start import copy_source_weights
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.training.state import sha256_of
from l2p.weight_files import list_tensors, metadata, save_tensors

DELTA_HEADER = "l2p_delta"  # the header's one key
FIRST_HEADER = "pixel_transformer_config"  # the key of the first deltas, which say the model's configuration alone


@dataclass(frozen=True, kw_only=True)
class DeltaHeader:
    """What a delta says about itself.

    config: the pixel model's. source_sha256: of the source transformer's weights, and tensors: the names that the delta
    holds; both None in deltas of the first form. sampling: settings to draw with
    (L2PPipeline.defaults, "shift" and "scheduler").
    """

    config: dict[str, Any]
    source_sha256: str | None = None
    tensors: tuple[str, ...] | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


def source_sha256(transformer: nn.Module) -> str:
    """Return one SHA-256 over a source transformer's weights.

    Numbers are rounded to bfloat16 first, so that it does not depend on the precision in which they were loaded.
    """
    tensors = transformer.state_dict().items()
    return sha256_of((name, t.to(torch.bfloat16) if t.is_floating_point() else t) for name, t in tensors)


def save_delta(
    model: PixelTransformer2DModel,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    source_sha256: str,
    sampling: Mapping[str, Any] | None = None,
) -> None:
    """Write some of the model's tensors by name, and all that DeltaHeader has, so that source and delta give the model.

    source_sha256: of the source's transformer, as the function of this name gives it.
    """
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    said = {"source_sha256": source_sha256, "tensors": sorted(tensors), "sampling": dict(sampling or {})}
    save_tensors(tensors, path, (DELTA_HEADER, json.dumps({"config": config, **said})))


def delta_header(path: Path) -> DeltaHeader:
    """Read what a delta says about itself. Raises FileNotFoundError or ValueError for no delta."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no delta at {path}; a transfer leaves delta.safetensors in its folder")
    said = metadata(Path(path))
    if DELTA_HEADER in said:
        return DeltaHeader(**json.loads(said[DELTA_HEADER]))
    if FIRST_HEADER in said:
        return DeltaHeader(config=json.loads(said[FIRST_HEADER]))
    raise InputError(f"{path} is no delta: its header has no {DELTA_HEADER}; released files go through `convert`")


def load_delta(
    source: Any, path: Path, *, allow_unverified: bool = False, keep_dtypes: bool = False
) -> PixelTransformer2DModel:
    """Build the pixel model that a delta describes: the source pipeline's weights with the delta's over them.

    allow_unverified: also take a delta of the first form, which does not say which weights it belongs to.
    keep_dtypes: as for merge_file. Raises FileNotFoundError or ValueError for no delta, for one that lacks tensors or
    holds NaN, and for another source than it was trained from.
    """
    header = delta_header(path)
    check_source_config(header.config, source.transformer, path)
    if header.source_sha256 is None and not allow_unverified:
        raise InputError(
            f"{path} does not say which source weights it belongs to (it is of the first form): run the transfer "
            "again, or merge it with --allow-unverified if you know that this is its source"
        )
    held = list_tensors(path)
    lacking = sorted(set(header.tensors or ()) - held.keys())
    if lacking:
        raise InputError(f"{path} lacks {len(lacking)} of its {len(header.tensors or ())} tensors, first {lacking[:3]}")
    found = source_sha256(source.transformer)
    if header.source_sha256 not in (None, found):
        raise InputError(
            f"{path} belongs to another source: the weights that it was trained from have sha256 "
            f"{header.source_sha256[:12]}, these have {found[:12]}"  # type: ignore[index]
        )
    model = PixelTransformer2DModel(**header.config)
    new = copy_source_weights(model, source.transformer, keep_dtypes=keep_dtypes).new
    merge_file(model, path, needed=new, keep_dtypes=keep_dtypes)
    return model
