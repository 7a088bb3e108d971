"""From a source to a pixel model: initialisation, fitted input projection, deltas, and the releases' files."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from l2p.architectures import get_architecture, latent_tokens, patchify
from l2p.pixel_transformer import PixelTransformer2DModel

DELTA_CONFIG = "pixel_transformer_config"  # where a delta's header keeps the model's configuration
RELEASED_HEAD = "local_decoder."  # what the released files call the Detailer Head


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """Where each tensor came from: names of the pixel model's (copied, new) and of the source's (dropped) tensors."""

    copied: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ProjectionFit:
    """A linear map from pixel patches to latent tokens, and how good it is.

    weight [C, P], bias [C]; explained: share of the tokens' variance; noise_gain: standard deviation of a token's
    number for patches of unit noise (near 1, the pixel model's sigma means what the source's did).
    """

    weight: Tensor
    bias: Tensor
    explained: float
    noise_gain: float


def copy_source_weights(model: PixelTransformer2DModel, transformer: nn.Module) -> ConversionReport:
    """Copy every tensor of the source transformer whose name and shape the pixel model has.

    The model moves to the source's dtype and device. Returns what was copied, what is new and what was dropped.
    """
    reference = next(transformer.parameters())
    if (model.device, model.dtype) != (reference.device, reference.dtype):
        model.to(device=reference.device, dtype=reference.dtype)
    source = {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    own = model.state_dict()
    copied = [name for name, tensor in own.items() if name in source and source[name].shape == tensor.shape]
    with torch.no_grad():
        for name in copied:
            own[name].copy_(source[name])
    return ConversionReport(
        copied=tuple(copied),
        new=tuple(sorted(own.keys() - set(copied))),
        dropped=tuple(sorted(name.removeprefix("transformer.") for name in source.keys() - set(copied))),
    )


def fit_projection(
    pairs: Iterable[tuple[Tensor, Tensor]], strength: float = 0.02, intercept: bool = True
) -> ProjectionFit:
    """Fit tokens from patches by ridge regression.

    pairs: batches of patches [n, P] in [-1, 1] and their tokens [n, C]; strength in units of the patches' variance. A
    strong ridge is needed: directions in which patches hardly vary would be amplified, and with them the noise.
    """
    total: Any = 0
    for patches, tokens in pairs:
        rows = torch.cat([torch.ones(len(patches), 1), patches.cpu(), tokens.cpu()], dim=1).double()  # [n, 1 + P + C]
        total, num_patch = total + rows.T @ rows, patches.shape[1]
    moments = total / total[0, 0]  # second moments of (1, patch, token)
    mean = moments[0, 1:] * intercept
    centred = moments[1:, 1:] - mean[:, None] * mean[None, :]
    xx, xy, yy = centred[:num_patch, :num_patch], centred[:num_patch, num_patch:], centred[num_patch:, num_patch:]
    weight = torch.linalg.solve(xx + strength * torch.eye(num_patch, dtype=xx.dtype), xy).T  # [C, P]
    residual = (yy - 2 * weight @ xy + weight @ xx @ weight.T).trace()
    return ProjectionFit(
        weight=weight.float(),
        bias=(mean[num_patch:] - weight @ mean[:num_patch]).float(),
        explained=1 - (residual / yy.trace()).item(),
        noise_gain=weight.square().sum(1).mean().sqrt().item(),
    )


def fit_input_projection(
    model: PixelTransformer2DModel, source: Any, batches: Iterable[Tensor], strength: float = 0.02
) -> ProjectionFit:
    """Set the pixel model's input projection to patches -> latent tokens -> the source's own projection.

    source: the source pipeline, for its VAE and projection; batches of images [n, 3, H, W] in [-1, 1], drawn by it.
    Raises ValueError where the latents' token grid is not the pixel patches' grid.
    """
    family, patch_size = get_architecture(model.config.architecture), model.config.patch_size
    weight, bias = family.source_projection(source.transformer)  # [D, C], [D]

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for images in batches:
            patches = patchify(images, patch_size, family.patch_layout)  # [n, h * w, P]
            tokens = latent_tokens(family, source, images).float()  # [n, h * w, C]
            if tokens.shape[1] != patches.shape[1]:
                raise ValueError(
                    f"patch size {patch_size} gives {patches.shape[1]} tokens, the source's latents {tokens.shape[1]}: "
                    "the projection can be fitted only where both have one grid; use input_projection='random'"
                )
            yield patches.flatten(0, 1), tokens.flatten(0, 1)

    fit = fit_projection(pairs(), strength, intercept=bias is not None)
    projection: Any = model.input_projection()
    with torch.no_grad():
        composed = weight.float().cpu() @ fit.weight  # [D, P]
        projection.weight.copy_(composed.reshape(projection.weight.shape))
        if bias is not None:
            projection.bias.copy_(weight.float().cpu() @ fit.bias + bias.float().cpu())
    return fit


def save_tensors(tensors: Mapping[str, Tensor], path: Path, header: tuple[str, str] = ("format", "pt")) -> None:
    """Write named tensors to one safetensors file, whole or not at all.

    header: one key and its value; of several, safetensors would write the order by chance, and bytes would differ.
    """
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata=dict([header]))
    temporary.replace(path)


def save_delta(model: PixelTransformer2DModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write some of the model's tensors by name, and its configuration, so that source and delta give the model."""
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    save_tensors(tensors, path, (DELTA_CONFIG, json.dumps(config)))


def load_delta(source: Any, path: Path) -> PixelTransformer2DModel:
    """Build the pixel model that a delta describes: the source pipeline's weights with the delta's over them.

    Raises FileNotFoundError or ValueError for no delta, and for a source whose transformer is another one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no delta at {path}; a transfer leaves delta.safetensors in its folder")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if DELTA_CONFIG not in metadata:
        raise ValueError(f"{path} is no delta: its header has no {DELTA_CONFIG}; released files go through `convert`")
    config = json.loads(metadata[DELTA_CONFIG])
    given = {key: value for key, value in source.transformer.config.items() if not key.startswith("_")}
    if json.loads(json.dumps(given)) != config["source_config"]:
        raise ValueError(f"{path} belongs to a source transformer with the configuration {config['source_config']}")
    model = PixelTransformer2DModel(**config)
    copy_source_weights(model, source.transformer)
    merge_file(model, path)
    return model


def merge_file(model: PixelTransformer2DModel, path: Path) -> tuple[str, ...]:
    """Copy every tensor of a delta or of a released file over the model's, by key; return the model's names of them.

    Both name forms are understood, and each tensor is cast to the model's dtype (a release mixes two). Nothing is
    changed when the file does not fit. Raises FileNotFoundError, or ValueError that names keys and shapes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; give a .safetensors file")
    own = model.state_dict()
    with safe_open(path, framework="pt") as file:
        names = {key: model_name(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        _check_fit(own, {names[key]: tuple(file.get_slice(key).get_shape()) for key in names}, path)
        with torch.no_grad():
            for key, name in names.items():
                own[name].copy_(file.get_tensor(key))
    return tuple(names.values())


def _check_fit(own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    unknown = sorted(shapes.keys() - own.keys())
    if unknown:
        raise ValueError(f"{path} has {len(unknown)} tensors that the model lacks, first {unknown[:3]}: another model?")
    for name, shape in shapes.items():
        if shape != tuple(own[name].shape):
            raise ValueError(f"{path}: {name} has shape {shape}, the model's is {tuple(own[name].shape)}")


def model_name(key: str) -> str:
    """Translate a key of a released file to the pixel model's name; the model's own names stay as they are."""
    if key.startswith(RELEASED_HEAD):
        return "detailer." + key.removeprefix(RELEASED_HEAD)
    return key if key.startswith(("transformer.", "detailer.")) else f"transformer.{key}"


def released_name(name: str) -> str:
    """Translate a name of the pixel model to the released files' key."""
    if name.startswith("detailer."):
        return RELEASED_HEAD + name.removeprefix("detailer.")
    return name.removeprefix("transformer.")


def save_release(model: PixelTransformer2DModel, path: Path) -> None:
    """Write the whole model as one file under the released keys (checkpoints of `zhen-nan/L2P`)."""
    save_tensors({released_name(name): tensor for name, tensor in model.state_dict().items()}, path)


def released_patch_size(path: Path) -> int:
    """Return the patch size that a released file's embedder names (`all_x_embedder.16-1` -> 16).

    Raises ValueError when the file has no such key.
    """
    with safe_open(path, framework="pt") as file:
        sizes = {int(key.split(".")[1].split("-")[0]) for key in _embedder_keys(file)}
    if len(sizes) != 1:
        raise ValueError(f"{path} names the patch sizes {sorted(sizes)}; a release has one key all_x_embedder.<p>-1")
    return sizes.pop()


def _embedder_keys(file: Any) -> Iterator[str]:
    return (key for key in file.keys() if key.startswith("all_x_embedder."))  # noqa: SIM118 (safe_open is no dict)


def model_config(path: Path) -> dict[str, Any]:
    """Return the pixel model's configuration from a model's or pipeline's folder or a delta's header; {} for none."""
    candidates = [path / "config.json", path / "transformer" / "config.json"]
    for candidate in candidates:
        if candidate.is_file():
            return json.loads(candidate.read_text("utf-8"))
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(DELTA_CONFIG, "{}"))
    return {}


def describe_files(paths: list[Path]) -> dict[str, list[tuple[int, str]]]:
    """List the number of elements and the dtype of each tensor in weight files, by part of the model.

    A part is the first words of the tensors' names without block numbers; of several files, below their folder's name.
    """
    parts: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is no dict)
                tensor = file.get_slice(key)
                part = f"{path.parent.name}/{_part(key)}" if len(paths) > 1 else _part(key)
                parts.setdefault(part, []).append((math.prod(tensor.get_shape()), tensor.get_dtype()))
    return parts


def _part(key: str) -> str:
    words = key.split(".")[:-1]
    depth = 2 if words[:1] in (["transformer"], ["detailer"], ["local_decoder"]) else 1
    return ".".join(word for word in words[:depth] if not word.isdigit())
