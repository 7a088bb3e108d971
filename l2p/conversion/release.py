"""Whole or partial weights by name: the releases' files, ComfyUI's form of them, and our own files in their form."""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2p.architectures import Architecture, architecture_of, get_architecture
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.weight_files import Stored, check_floats, list_tensors, metadata, not_finite, save_tensors

RELEASE_HEADER = "l2p_release"  # where the header of a file that we wrote keeps the model's configuration
RELEASED_HEAD = "local_decoder."  # what the released files call the Detailer Head
PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # what ComfyUI and others put before every name
# Projections that diffusers and ComfyUI fuse to one -> the three that they were.
FUSED = {
    ".to_qkv.": (".to_q.", ".to_k.", ".to_v."),
    ".to_added_qkv.": (".add_q_proj.", ".add_k_proj.", ".add_v_proj."),
}
MAKERS_NAMES = ("double_blocks.", "single_blocks.", "joint_blocks.")  # FLUX, FLUX.2, SD3 as their makers name them


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """Names of the model's tensors: merged ones, and those left as they were (missing or no numbers in the file)."""

    merged: tuple[str, ...]
    left_out: tuple[str, ...]


def model_name(key: str) -> str:
    """Translate a key of a released file to the pixel model's name; the model's own names stay as they are."""
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    if key.startswith(RELEASED_HEAD):
        return "detailer." + key.removeprefix(RELEASED_HEAD)
    return key if key.startswith(("transformer.", "detailer.")) else f"transformer.{key}"


def released_name(name: str) -> str:
    """Translate a name of the pixel model to the released files' key."""
    if name.startswith("detailer."):
        return RELEASED_HEAD + name.removeprefix("detailer.")
    return name.removeprefix("transformer.")


def _family_name(key: str, family: Architecture, patch_size: int) -> str | None:
    """The pixel model's name of a key in any of the forms that are read; None for what no model of diffusers has."""
    name = model_name(key)
    if not name.startswith("transformer."):
        return name
    translated = family.comfyui_name(name.removeprefix("transformer."), patch_size)
    return None if translated is None else f"transformer.{translated}"


def model_tensors(path: Path, model: PixelTransformer2DModel) -> dict[str, Stored]:
    """List a file's tensors under the pixel model's names, fused projections taken apart.

    Raises as list_tensors does, and ValueError for two tensors of one name.
    """
    family, own = get_architecture(model.config.architecture), model.state_dict().keys()
    found: dict[str, Stored] = {}
    for key, tensor in list_tensors(path).items():
        name = _family_name(key, family, model.config.patch_size)
        for part, stored in _unfused(name, tensor, own) if name else ():
            if part in found:
                raise InputError(f"{path} holds {part} twice, as {found[part].key} and {key}")
            found[part] = stored
    return found


def _unfused(name: str, tensor: Stored, own: Collection[str]) -> list[tuple[str, Stored]]:
    for fused, three in FUSED.items():
        if fused in name and name not in own and tensor.shape and tensor.shape[0] % 3 == 0:
            names = [name.replace(fused, single) for single in three]
            return list(zip(names, tensor.split(3), strict=True))
    return [(name, tensor)]


def merge_file(
    model: PixelTransformer2DModel,
    path: Path,
    *,
    needed: Collection[str] = (),
    allow_partial: bool = False,
    keep_dtypes: bool = False,
) -> MergeReport:
    """Put every tensor of a file over the model's, by name.

    path: a .safetensors file, an index or a folder, under the releases', ComfyUI's or the model's own names. needed:
    names that must be there. allow_partial: leave missing tensors and those that hold NaN or infinity as they are.
    keep_dtypes: the model takes over each tensor's dtype (a release mixes two), else it is cast. Nothing is changed
    when the file does not fit. Raises FileNotFoundError, or ValueError that names keys and shapes.
    """
    tensors, own = model_tensors(path, model), model.state_dict()
    _check_fit({name: tuple(tensor.shape) for name, tensor in own.items()}, tensors, path)
    check_floats(tensors, path)
    bad = not_finite((name, tensor.read()) for name, tensor in tensors.items())
    missing = sorted(set(needed) - tensors.keys())
    if (bad or missing) and not allow_partial:
        problems = [f"holds NaN or infinity in {_some(bad)}"] * bool(bad)
        problems += [f"lacks {_some(missing)}, without which the model is not whole"] * bool(missing)
        raise InputError(f"{path} {' and '.join(problems)}")
    merged = [name for name in tensors if name not in bad]
    holders = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name in merged:
            value = tensors[name].read().to(own[name].device)
            holders[name].data = value if keep_dtypes else value.to(own[name].dtype)
    return MergeReport(merged=tuple(merged), left_out=(*missing, *bad))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _check_fit(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored], path: Path) -> None:
    unknown = sorted(tensors.keys() - shapes.keys())
    if any(name.removeprefix("transformer.").startswith(MAKERS_NAMES) for name in unknown):
        raise InputError(
            f"{path} has its maker's own names ({tensors[unknown[0]].key}), which are read for Z-Image alone: save the "
            "model with diffusers first (from_single_file, then save_pretrained)"
        )
    if unknown:
        raise InputError(f"{path} has {len(unknown)} tensors that the model lacks, first {unknown[:3]}: another model?")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise InputError(f"{path}: {name} has shape {tensor.shape}, the model's is {shapes[name]}")


def release_needs(model: PixelTransformer2DModel, path: Path, new: Collection[str]) -> set[str]:
    """Return what a released file must hold, `new` being the names that the source lacks.

    Each layer of which one tensor is new is needed whole (the source's bias does not fit another weight), and each
    block of which the file has a part. Files of trained tensors alone leave out whole blocks, which stay the source's.
    """
    blocks = {_block(name) for name in model_tensors(path, model)} - {""}
    layers = {_layer(name) for name in new}
    return {name for name in model.state_dict() if _block(name) in blocks or _layer(name) in layers}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _block(name: str) -> str:
    found = re.match(r"transformer\.\D+\.\d+\.", name)
    return found[0] if found else ""


def save_release(model: PixelTransformer2DModel, path: Path) -> None:
    """Write the whole model as one file under the released keys (checkpoints of `zhen-nan/L2P`).

    Its header says what keys and shapes do not: prediction, scale and head.
    """
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    tensors = {released_name(name): tensor for name, tensor in model.state_dict().items()}
    save_tensors(tensors, path, (RELEASE_HEADER, json.dumps(config)))


def empty_model(transformer: Any, path: Path) -> PixelTransformer2DModel:
    """Build the pixel model that a released file is of, without its weights, for a source's transformer.

    Configured by the file's header where it was written here, else as the public releases are. Raises ValueError for
    files without a pixel projection, and for another source.
    """
    said = metadata(path).get(RELEASE_HEADER) if Path(path).is_file() and path.suffix == ".safetensors" else None
    if said is None:
        return PixelTransformer2DModel.from_source(transformer, patch_size=released_patch_size(path, transformer))
    config = json.loads(said)
    check_source_config(config, transformer, path)
    return PixelTransformer2DModel(**config)


def check_source_config(config: Mapping[str, Any], transformer: Any, path: Path) -> None:
    """Raise ValueError that names what differs between a file's source and a given one."""
    theirs = config["source_config"]
    ours = json.loads(json.dumps({k: v for k, v in transformer.config.items() if not k.startswith("_")}))
    differing = {k: (theirs.get(k), ours.get(k)) for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)}
    family = architecture_of(type(transformer).__name__).name
    if family != config["architecture"]:
        raise InputError(f"{path} belongs to a source of the family {config['architecture']!r}, not {family!r}")
    if differing:
        raise InputError(f"{path} belongs to a source of another configuration (there, here): {differing}")


def released_patch_size(path: Path, transformer: nn.Module) -> int:
    """Return the patch size that the input projection of a released file has (`all_x_embedder.16-1.weight` -> 16).

    transformer: the source's, which tells the family. Raises ValueError when the file has no projection of pixels.
    """
    family = architecture_of(type(transformer).__name__)
    sizes = set()
    for key, tensor in list_tensors(path).items():
        side = math.isqrt(tensor.numel // (3 * tensor.shape[0])) if tensor.shape and tensor.shape[0] else 0
        is_projection = _family_name(key, family, side) == f"transformer.{family.input_projection(side)}.weight"
        if is_projection and 3 * side**2 * tensor.shape[0] == tensor.numel:
            sizes.add(side)
    if len(sizes) != 1:
        name = f"{family.input_projection(16)}.weight"
        raise InputError(
            f"{path} names the patch sizes {sorted(sizes)}; a release of {family.title} has one projection of pixels "
            f"(with patch size 16: {name}, for 768 numbers), a latent model's file has none"
        )
    return sizes.pop()
