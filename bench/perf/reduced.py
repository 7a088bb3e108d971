"""GenEval's two networks with random weights, reduced or full: for speed studies, and to try the line offline."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.geneval.colors import ColorClassifier, random_colors
from bench.geneval.mask2former import SCALE, Mask2Former, build_model, mask2former_config

REDUCED = {"width": 48, "depths": (2, 2, 2, 2), "num_queries": 20}
FULL: dict[str, Any] = {}


def random_detector(size: dict[str, Any], scale: tuple[int, int] = SCALE) -> Mask2Former:
    """A Mask2Former of this size with seeded random weights whose classes are sure enough to be detected."""
    torch.manual_seed(0)
    network = build_model(mask2former_config(**size))
    with torch.no_grad():
        for module in network.model.modules():
            if isinstance(module, nn.LayerNorm):
                module.bias.normal_(0, 0.5)  # else random networks answer every query alike
        network.class_predictor.weight.mul_(12.0)
    return Mask2Former(network, "mmdet-3", scale=scale, passport={"name": "mask2former, random weights", **size})


def placeholder() -> Mask2Former:
    """`--detector bench.perf.reduced:placeholder`: the reduced network at 64 pixels, to try the line with."""
    return random_detector(REDUCED, (64, 64))


def placeholder_colors() -> ColorClassifier:
    """Colours for `placeholder`, by a small CLIP of random weights."""
    return random_colors("ViT-B-16-quickgelu")
