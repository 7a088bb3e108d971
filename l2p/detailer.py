"""The Detailer Head: a U-Net on the noisy image that takes the DiT's token map at its bottleneck (paper table 3).

Parameter names are those of the released checkpoints (`local_decoder.*`), level by level.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2p.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Level:
    """One resolution of the U-Net: its name in checkpoints and the channels its three convolutions give out."""

    name: str
    encoder: int
    up: int
    decoder: int


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The U-Net's levels from full resolution inwards, and the width of its bottleneck."""

    levels: tuple[Level, ...]
    bottleneck: int


@dataclass(frozen=True, kw_only=True)
class DetailerConfig:
    """What may be chosen about the head; the defaults are the releases'.

    channels: encoder widths from full resolution inwards, then the bottleneck's; None takes the ladder of LADDERS.
    upsampling: "nearest" (released: nearest x2, 3x3 convolution) or "unfold" (1x1 convolution to 4c, pixel shuffle).
    """

    channels: tuple[int, ...] | None = None
    upsampling: Literal["nearest", "unfold"] = "nearest"

    def __post_init__(self) -> None:
        if isinstance(self.channels, list):  # JSON has lists
            object.__setattr__(self, "channels", tuple(self.channels))


def _level(name: str, encoder: int, up: int, decoder: int) -> Level:
    return Level(name=name, encoder=encoder, up=up, decoder=decoder)


# The 4K net, which the 8K release wraps and whose outer part the 10K release keeps.
_OUTER_4K = (
    _level("0", 16, 16, 16),
    _level("0b", 32, 32, 16),
    _level("1", 64, 64, 32),
    _level("2", 128, 128, 64),
)

# Patch size -> ladder. 16: paper table 3 and the 1K release; 64, 128, 160: the high-resolution releases.
LADDERS = {
    8: Ladder(  # ours, for small images
        levels=(_level("1", 16, 16, 16), _level("2", 32, 32, 32), _level("3", 64, 64, 64)), bottleneck=128
    ),
    16: Ladder(
        levels=(
            _level("1", 64, 64, 64),
            _level("2", 128, 128, 64),
            _level("3", 256, 256, 128),
            _level("4", 512, 512, 256),
        ),
        bottleneck=512,
    ),
    64: Ladder(levels=(*_OUTER_4K, _level("3", 256, 256, 128), _level("4", 512, 512, 256)), bottleneck=512),
    128: Ladder(
        levels=(
            _level("_8k", 3, 16, 16),
            *_OUTER_4K,
            _level("3", 256, 256, 128),
            _level("4", 512, 512, 256),
        ),
        bottleneck=512,
    ),
    160: Ladder(levels=(_level("_10k_a", 3, 16, 16), *_OUTER_4K, _level("3", 256, 256, 128)), bottleneck=512),
}


def ladder(patch_size: int, channels: tuple[int, ...] | None = None) -> Ladder:
    """Return the U-Net's plan for a patch size, or the one that `channels` describes.

    channels: encoder widths from full resolution inwards, then the bottleneck's; each level decodes to its own width.
    Raises ValueError for a patch size without a ladder, or for channels whose pooling does not fit in the patch.
    """
    if channels is None:
        if patch_size not in LADDERS:
            raise InputError(f"no ladder for patch size {patch_size}; known: {sorted(LADDERS)}, or give `channels`")
        return LADDERS[patch_size]
    *widths, bottleneck = channels
    if not widths or 2 ** len(widths) > patch_size:
        raise InputError(
            f"channels {tuple(channels)} name {len(widths)} encoder levels; patch size {patch_size} allows 1 to "
            f"{patch_size.bit_length() - 1}, and the bottleneck's width comes last"
        )
    levels = tuple(_level(str(i), width, width, width) for i, width in enumerate(widths, start=1))
    return Ladder(levels=levels, bottleneck=bottleneck)


class DetailerHead(nn.Module):
    """Noisy image [B, 3, H, W] and token map [B, D, h, w] -> three channels for each pixel [B, 3, H, W].

    Released form: 3x3 convolution and SiLU, then 2x2 max-pool at each level; 1x1 convolution over image features and
    token map; nearest upsampling, 3x3 convolution *without* activation, 3x3 convolution over the skip and SiLU.
    """

    def __init__(self, hidden_size: int, patch_size: int, config: DetailerConfig | None = None) -> None:
        super().__init__()
        config = config or DetailerConfig()
        if config.upsampling not in UPSAMPLERS:
            raise InputError(f"unknown upsampling {config.upsampling!r}; known: {sorted(UPSAMPLERS)}")
        plan = ladder(patch_size, config.channels)
        self.names = [level.name for level in plan.levels]  # full resolution first
        self.pooling = 2 ** len(plan.levels)  # what H and W must divide by
        width = 3
        for level in plan.levels:
            setattr(self, f"enc{level.name}", _convolve(width, level.encoder))
            width = level.encoder
        self.bottleneck = nn.Sequential(nn.Conv2d(width + hidden_size, plan.bottleneck, 1), nn.SiLU(inplace=True))
        width = plan.bottleneck
        for level in reversed(plan.levels):
            setattr(self, f"up{level.name}", UPSAMPLERS[config.upsampling](width, level.up))
            setattr(self, f"dec{level.name}", _convolve(level.up + level.encoder, level.decoder))
            width = level.decoder
        self.out_conv = nn.Conv2d(width, 3, 1)
        # A head that starts at zero does not send random gradients into the pre-trained blocks.
        for parameter in self.out_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, token_map: Tensor) -> Tensor:
        """Paint: noisy [B, 3, H, W], token_map [B, D, h, w] -> [B, 3, H, W]; H and W multiples of `pooling`."""
        # Channels-last activations: the convolutions at full resolution cost as much as a small DiT otherwise.
        x = noisy.contiguous(memory_format=torch.channels_last)
        skips = []
        for name in self.names:
            x = getattr(self, f"enc{name}")(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        if token_map.shape[-2:] != x.shape[-2:]:  # patch 160: 64 x 64 tokens, 160 x 160 at the bottleneck
            token_map = F.interpolate(token_map, size=x.shape[-2:], mode="nearest")
        x = self.bottleneck(torch.cat([x, token_map], dim=1))
        for name in reversed(self.names):
            x = getattr(self, f"up{name}")(x)
            x = getattr(self, f"dec{name}")(torch.cat([x, skips.pop()], dim=1))
        return self.out_conv(x)


def _convolve(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.SiLU(inplace=True))


def _nearest(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels_in, channels_out, 3, padding=1)
    )


def _unfold(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, 4 * channels_out, 1), nn.PixelShuffle(2))


UPSAMPLERS = {"nearest": _nearest, "unfold": _unfold}
