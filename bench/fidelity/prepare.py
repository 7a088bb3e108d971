"""From a picture to what an extractor sees: fitted to a square, shrunk to the extractor's side, cut into patches.

Each resizing is one library's to the bit or nearly (`tests/bench/fidelity` holds them against it). One picture is held
at a time, an 8K one as 200 MB of bytes and, where a filter works on floats, 800 MB.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.fidelity.variants import Patches, Variant
from l2p.errors import InputError

Place = tuple[int, int]
"""Top and left of a patch."""


def whole_view(picture: Image.Image, variant: Variant, size: int | None, side: int) -> Tensor:
    """The picture as the extractor sees it [1, 3, side, side], float 0..255."""
    pixels = to_tensor(picture)
    if variant.fit != "as it is" and picture.size != (size, size):
        assert size is not None
        pixels = FITS[variant.fit](picture, size)
    return SHRINKS[variant.shrink](pixels, side)[None]


def patch_views(
    picture: Image.Image, places: Sequence[Place], patches: Patches, size: int, variant: Variant, side: int
) -> Tensor:
    """The patches of a picture [P, 3, side, side], float 0..255: all cut at once from the picture at size x size."""
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    pixels = to_tensor(picture)
    cut = [pixels[:, top : top + patches.side, left : left + patches.side] for top, left in places]
    if patches.side == side:
        return torch.stack(cut).float()
    return torch.stack([SHRINKS[variant.shrink](patch, side) for patch in cut])


def patch_places(num_pictures: int, patches: Patches, size: int) -> list[list[Place]]:
    """Each picture's places: one generator for the whole evaluation, so that the order of pictures decides them.

    Python's generator, `randint(0, size - side)` for the top, then for the left (PixVerve's compute_fid_patch).
    InputError where a picture is smaller than a patch.
    """
    if size < patches.side:
        raise InputError(f"patches of {patches.side} x {patches.side} pixels cannot be cut from {size} x {size}")
    draw = random.Random(patches.seed)
    room = size - patches.side
    return [[(draw.randint(0, room), draw.randint(0, room)) for _ in range(patches.count)] for _ in range(num_pictures)]


def to_tensor(picture: Image.Image) -> Tensor:
    """The picture's bytes, uint8 [3, H, W] (a view of [H, W, 3])."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def squash(picture: Image.Image, size: int) -> Tensor:
    """PixVerve: Pillow's bilinear to size x size, the aspect not kept; uint8 [3, size, size]."""
    return to_tensor(picture.resize((size, size), Image.Resampling.BILINEAR))


def crop(picture: Image.Image, size: int) -> Tensor:
    """Diffusion-4K: the short side to `size` (torchvision's antialiased bilinear, rounded), the centre cut out."""
    width, height = picture.size
    short = min(width, height)
    shape = (int(size * height / short), int(size * width / short)) if short != size else (height, width)
    pixels = to_tensor(picture)
    if shape != (height, width):
        pixels = _interpolate(pixels.float(), shape, "bilinear", True).round().to(torch.uint8)
    top, left = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    return pixels[:, top : top + size, left : left + size]


def antialias(pixels: Tensor, side: int) -> Tensor:
    """torchmetrics' NoTrainInceptionV3: bilinear with antialiasing on floats."""
    return _interpolate(pixels.float(), (side, side), "bilinear", True)


def bicubic(pixels: Tensor, side: int) -> Tensor:
    """CMMD's: torch's bicubic on values 0..1, no antialiasing; may leave 0..255 a little."""
    return _interpolate(pixels.float() / 255, (side, side), "bicubic", False) * 255


def clean(pixels: Tensor, side: int) -> Tensor:
    """clean-fid's: Pillow's antialiased bicubic on each channel's floats, clipped, never rounded to 8 bits."""
    channels = [Image.fromarray(channel.float().numpy()) for channel in pixels.contiguous()]
    resized = [np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in channels]
    return torch.from_numpy(np.stack(resized).clip(0, 255))


def tensorflow(pixels: Tensor, side: int) -> Tensor:
    """torch-fidelity's: bilinear as TensorFlow 1 had it, corners at the upper left, no antialiasing."""
    height, width = pixels.shape[-2:]
    (top, bottom, down), (left, right, across) = _corner_taps(height, side), _corner_taps(width, side)
    rows = pixels[:, torch.cat([top, bottom])]  # the few rows that are needed, before floats are made of them
    upper, lower = rows[..., left].float(), rows[..., right].float()  # [3, 2 side, side]
    lines = upper + (lower - upper) * across
    return lines[:, :side] + (lines[:, side:] - lines[:, :side]) * down[:, None]


def _corner_taps(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each target place [target]: the source place before, the one after, and the share of the latter."""
    places = torch.arange(target, dtype=torch.float32) * torch.tensor(source / target)
    before = places.long()
    return before, (before + 1).clamp_max(source - 1), places - before.float()


def _interpolate(pixels: Tensor, shape: tuple[int, int], mode: str, antialias: bool) -> Tensor:
    if pixels.shape[-2:] == shape:
        return pixels
    return F.interpolate(pixels[None], size=shape, mode=mode, align_corners=False, antialias=antialias)[0]


FITS: dict[str, Callable[[Image.Image, int], Tensor]] = {"squash": squash, "crop": crop}
SHRINKS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "antialias": antialias,
    "tensorflow": tensorflow,
    "clean": clean,
    "bicubic": bicubic,
}
