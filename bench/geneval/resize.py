"""Bilinear resizing as OpenCV does it (no antialiasing), without OpenCV: 8-bit values in fixed point, and floats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COEFFICIENT_BITS = 11  # OpenCV's INTER_RESIZE_COEF_BITS


def resize_float(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Floats [3, H, W] resized to `size` (height, width), half-pixel centres."""
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_uint8(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] resized to `size` (height, width), as `cv2.resize(..., INTER_LINEAR)` does it.

    In fixed point, so that at most one value in a thousand differs, by 1 (`nox -s parity-mmdet` measures it).
    """
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    values = pixels.int()
    left, weights = _taps(pixels.shape[-1], size[1])  # columns: [W'], [2, W']
    right = (left + 1).clamp(max=pixels.shape[-1] - 1)
    rows = values[..., left] * weights[0] + values[..., right] * weights[1]  # [3, H, W'], 11 bits of fraction
    top, weights = _taps(pixels.shape[-2], size[0])
    bottom = (top + 1).clamp(max=pixels.shape[-2] - 1)
    upper = (weights[0][:, None] * (rows[..., top, :] >> 4)) >> 16
    lower = (weights[1][:, None] * (rows[..., bottom, :] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """For each target place the lower of its two source places, and both weights in fixed point [2, target]."""
    place = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).float()
    low = place.floor()
    fraction = place - low
    fraction[(low < 0) | (low >= source - 1)] = 0.0
    weights = torch.stack([1 - fraction, fraction]) * 2**COEFFICIENT_BITS
    return low.clamp(0, source - 1).long(), weights.round().int()
