"""What a pixel model starts from: the source's weights, a fitted input projection, another pixel model's weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2p.architectures import get_architecture, latent_tokens, patchify
from l2p.conversion.release import model_tensors
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.weight_files import check_floats, not_finite


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


def copy_source_weights(
    model: PixelTransformer2DModel, transformer: nn.Module, *, keep_dtypes: bool = False
) -> ConversionReport:
    """Copy every tensor of the source transformer whose name and shape the pixel model has.

    The model moves to the source's dtype and device; with keep_dtypes, of a source that mixes several, tensor by
    tensor (such a model is for saving, not for running). Returns what was copied, what is new and what was dropped.
    Raises ValueError where the source's weights hold NaN or infinity.
    """
    source, report = _shared_tensors(model, transformer)
    reference = next(transformer.parameters())
    if (model.device, model.dtype) != (reference.device, reference.dtype):
        model.to(device=reference.device, dtype=reference.dtype)
    own = model.state_dict()
    holders = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name in report.copied:
            if keep_dtypes:
                holders[name].data = source[name].clone()
            else:
                own[name].copy_(source[name])
    return report


def take_source_weights(model: PixelTransformer2DModel, transformer: nn.Module) -> ConversionReport:
    """Let a pixel model have the source's own tensors, without a copy, as `copy_source_weights` copies them.

    The model's parameters may be on meta; those that the source does not have stay as they are. Raises as that does.
    """
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        if tensor.device.type == "cpu":  # a mapped file's are not aligned as torch's own, and products round by that
            tensor.data = tensor.data.clone()
    source, report = _shared_tensors(model, transformer)
    model.load_state_dict({name: source[name] for name in report.copied}, strict=False, assign=True)
    return report


def _shared_tensors(
    model: PixelTransformer2DModel, transformer: nn.Module
) -> tuple[dict[str, Tensor], ConversionReport]:
    """The source's tensors under the pixel model's names, and which of them both have in one shape."""
    bad = not_finite(transformer.state_dict().items())
    if bad:
        raise InputError(f"the source's transformer holds NaN or infinity in {len(bad)} tensors, first {bad[:3]}")
    source = {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    own = model.state_dict()
    copied = [name for name, tensor in own.items() if name in source and source[name].shape == tensor.shape]
    return source, ConversionReport(
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
                raise InputError(
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


def inherit(model: PixelTransformer2DModel, path: Path) -> tuple[str, ...]:
    """Start from another pixel model: copy what has the same name and shape; return those names.

    path: a released file, or the folder of a pixel model; as the 8K release starts from the 4K one's blocks and inner
    head. Raises FileNotFoundError, or ValueError for damaged files, other numbers than floats, and nothing in common.
    """
    tensors, own = model_tensors(path, model), model.state_dict()
    check_floats(tensors, path)
    shared = [name for name, tensor in tensors.items() if name in own and tensor.shape == tuple(own[name].shape)]
    bad = not_finite((name, tensors[name].read()) for name in shared)
    if bad:
        raise InputError(f"{path} holds NaN or infinity in {bad[:3]}")
    if not shared:
        raise InputError(f"{path} shares no tensor's name and shape with the model; nothing can be inherited")
    with torch.no_grad():
        for name in shared:
            own[name].copy_(tensors[name].read())
    return tuple(shared)
