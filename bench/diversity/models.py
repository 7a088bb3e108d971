"""LPIPS among pictures of one size: each goes through the network once, however many pairs it is in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.fidelity.extractors import read_weights, weights_file
from bench.judges import Judge
from bench.passport import weights_sha256
from l2p.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

NETWORKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS' networks by what torchvision calls their backbones."""
LAYER_EPSILON = 1e-10  # LPIPS' own, where a place's features are brought to length 1


def load_lpips(network: str, weights: str, device: str = "cpu") -> Judge:
    """LPIPS 0.1 with its own linear weights (they lie in the package) and a backbone of torchvision's weights.

    Raises InputError for an unknown network and for weights of another one.
    """
    if network not in NETWORKS:
        raise InputError(f"unknown network {network!r}; LPIPS has {', '.join(NETWORKS)}")
    path = weights_file(weights)
    return lpips_judge(network, read_weights(path), device, {"weights": path.name})


def lpips_judge(network: str, backbone: dict[str, Tensor], device: str, passport: dict[str, Any]) -> Judge:
    """LPIPS with these backbone weights, named as torchvision names them; InputError where they do not fit."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of how lpips asks for a backbone without weights
        model = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    names = list(model.net.state_dict())  # slice2.3.weight is torchvision's features.3.weight
    try:
        model.net.load_state_dict({name: backbone[f"features.{name.partition('.')[2]}"] for name in names})
    except (KeyError, RuntimeError) as error:
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"these weights are not those of torchvision's {NETWORKS[network]} ({what})") from error
    model.eval().requires_grad_(False).to(device)
    heads: list[Callable[[Tensor], Tensor]] = list(model.lins)

    def maps(image: Image) -> list[Tensor]:
        return model.net(model.scaling_layer(to_signed(image).to(device)))

    passport = {"name": f"lpips-{network}", "library": "lpips 0.1", **passport}
    return distance_judge(maps, heads, passport | {"sha256": weights_sha256(model.state_dict())})


def to_signed(image: Image) -> Tensor:
    """The picture [1, 3, H, W] in [-1, 1], which is what LPIPS takes."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def distance_judge(
    maps: Callable[[Image], Sequence[Tensor]],
    heads: Sequence[Callable[[Tensor], Tensor]] | None,
    passport: dict[str, Any],
) -> Judge:
    """A judge of distances from any network's maps (Zhang et al. 2018, equation 1).

    It is called with pictures of one size and gives the upper triangle of their distances: for each picture, those to
    the ones after it. `heads` weigh a layer's squared differences [1, C, H, W] -> [1, 1, H, W]; None: their sum.
    """

    @torch.inference_mode()
    def ask(images: Sequence[Image]) -> list[list[float]]:
        units = [[_unit(layer) for layer in maps(image)] for image in images]
        return [[_distance(first, other, heads) for other in units[k + 1 :]] for k, first in enumerate(units)]

    return Judge(ask=ask, passport=passport)


def _unit(layer: Tensor) -> Tensor:
    return layer / (layer.square().sum(1, keepdim=True).sqrt() + LAYER_EPSILON)


def _distance(
    first: Sequence[Tensor], other: Sequence[Tensor], heads: Sequence[Callable[[Tensor], Tensor]] | None
) -> float:
    squared = [(a - b).square() for a, b in zip(first, other, strict=True)]
    weighed = [head(s) for head, s in zip(heads, squared, strict=True)] if heads else [s.sum(1) for s in squared]
    return float(sum(one.mean() for one in weighed))
