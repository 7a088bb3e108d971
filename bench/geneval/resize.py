"""Bilinear resizing as OpenCV does it (no antialiasing), without OpenCV: 8-bit values in fixed point, and floats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COEFFICIENT_BITS = 11  # OpenCV's INTER_RESIZE_COEF_BITS


def resize_float(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Floats [3, H, W] resized to `size` (height, width), half-pixel centres."""
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_uint8(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] resized to `size` (height, width), bit for bit as `cv2.resize(..., INTER_LINEAR)`."""
    height, width = pixels.shape[-2:]
    if (height, width) == size:
        return pixels
    values = pixels.int()
    left, right = _taps(width, size[1])
    left.weights[left.outside | right.outside] = 2**COEFFICIENT_BITS  # columns outside: OpenCV takes the edge alone
    right.weights[left.outside | right.outside] = 0
    rows = values[..., left.places] * left.weights + values[..., right.places] * right.weights  # [3, H, W']
    upper, lower = _taps(height, size[0])  # rows outside: the edge counts twice, and is cut off twice
    above = (upper.weights[:, None] * (rows[..., upper.places, :] >> 4)) >> 16
    below = (lower.weights[:, None] * (rows[..., lower.places, :] >> 4)) >> 16
    return ((above + below + 2) >> 2).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class _Tap:
    """For each target place [target]: a source place, its weight in fixed point, and whether it lay outside."""

    places: Tensor
    weights: Tensor
    outside: Tensor


def _taps(source: int, target: int) -> tuple[_Tap, _Tap]:
    """The lower and the upper source place of each target place."""
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).float()
    low = centre.floor()
    fraction = centre - low
    sides = ((low, 1 - fraction), (low + 1, fraction))
    lower, upper = (
        _Tap(
            places=place.clamp(0, source - 1).long(),
            weights=(weight * 2**COEFFICIENT_BITS).round().int(),
            outside=(place < 0) | (place > source - 1),
        )
        for place, weight in sides
    )
    return lower, upper
