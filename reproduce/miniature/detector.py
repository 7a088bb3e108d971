"""The miniature's detector: finds shapes and their colours; plays Mask2Former's part behind the same `Detector` type.

A centre-point network (CenterNet, Zhou et al. 2019) at stride 4 on 48 px images: per cell a heat map over shapes, the
distances to the box's four sides, and a colour. Scores are calibrated (Platt) on disturbed rendered scenes, so that
GenEval's thresholds 0.3 and 0.9 mean what they mean for any detector.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.diversity.models import distance_judge
from bench.geneval.rules import PUBLISHED, SAVED_SCORE
from bench.judges import Judge
from bench.passport import file_sha256
from bench.records import Detection
from l2p.errors import InputError
from reproduce.miniature.scenes import COLORS, HELD_OUT_PAIRS, SHAPES

if TYPE_CHECKING:
    from bench.records import Detector

RESOLUTION, STRIDE = 48, 4
GRID = RESOLUTION // STRIDE
WEIGHTS = Path(__file__).parent / "weights" / "detector.safetensors"
NUM_SHAPES = len(SHAPES)
SEEN_COLORS = (*COLORS, "gray")  # gray: an object that has lost its colour; no prompt asks for it


def _conv(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class ShapeDetector(nn.Module):
    """The network: pictures in [-1, 1] [B, 3, 48, 48] -> cells [B, shapes + 4 + colours, 12, 12]."""

    def __init__(self, channels: int, num_colors: int = len(SEEN_COLORS)):
        super().__init__()
        c = channels
        self.stem = _conv(3, c, 2)
        self.down4 = nn.Sequential(_conv(c, 2 * c, 2), _Residual(2 * c))
        self.down8 = nn.Sequential(_conv(2 * c, 3 * c, 2), _Residual(3 * c))
        self.down16 = nn.Sequential(_conv(3 * c, 4 * c, 2), _Residual(4 * c))
        self.up8, self.up4 = nn.Conv2d(4 * c, 3 * c, 1), nn.Conv2d(3 * c, 2 * c, 1)
        cells = nn.Conv2d(2 * c, NUM_SHAPES + 4 + num_colors, 1)
        nn.init.constant_(cells.bias[:NUM_SHAPES], -3.0)  # type: ignore[index]  # centres are rare
        self.head = nn.Sequential(_conv(2 * c, 2 * c), cells)
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # score = sigmoid(a * logit + b)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[0])

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the head sees [B, 2 C, 12, 12], and the coarsest map [B, 4 C, 3, 3]."""
        at4 = self.down4(self.stem(x))
        at8 = self.down8(at4)
        at16 = self.down16(at8)
        at8 = at8 + F.interpolate(self.up8(at16), scale_factor=2)
        return at4 + F.interpolate(self.up4(at8), scale_factor=2), at16


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 pictures [B, H, W, 3] as float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def peaks(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best shape's logit [B, 12, 12], its index, and where it is the largest of its 3 x 3 neighbourhood."""
    logit, shape = cells[:, :NUM_SHAPES].max(1)
    return logit, shape, logit == F.max_pool2d(logit[:, None], 3, 1, 1)[:, 0]


@torch.no_grad()
def find(network: ShapeDetector, pictures: Tensor) -> list[list[Detection]]:
    """Detections in pictures [B, 3, 48, 48] in [-1, 1]; boxes in pixels of 48, best score first."""
    cells = network(pictures)
    logit, shape, peak = peaks(cells)
    score = (network.calibration[0] * logit + network.calibration[1]).sigmoid()
    found: list[list[Detection]] = [[] for _ in pictures]
    for i, row, column in (peak & (score >= SAVED_SCORE)).nonzero().tolist():
        left, top, right, bottom = cells[i, NUM_SHAPES : NUM_SHAPES + 4, row, column].tolist()
        x, y = column + 0.5, row + 0.5
        sides = (x - left, y - top, x + right, y + bottom)
        color = SEEN_COLORS[int(cells[i, NUM_SHAPES + 4 :, row, column].argmax())]
        corners = (STRIDE * sides[0], STRIDE * sides[1], STRIDE * sides[2], STRIDE * sides[3])
        found[i].append(
            Detection(label=SHAPES[shape[i, row, column]], box=corners, score=float(score[i, row, column]), color=color)
        )
    return [sorted(items, key=lambda d: -d.score) for items in found]


def save(network: ShapeDetector, path: Path = WEIGHTS) -> None:
    """Write the weights as safetensors (temporary name, then renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def load(path: Path = WEIGHTS) -> Judge:
    """The shipped detector as a `bench.records.Detector`: square pictures of any size, boxes in their own pixels.

    Raises FileNotFoundError where the weights are missing, ValueError for a picture that is not square.
    """
    network = _network(path)

    def detect(images: list[Image.Image]) -> list[list[Detection]]:
        return [_rescale(d, image.width) for d, image in zip(find(network, _stack(images)), images, strict=True)]

    passport = {"name": "miniature shape detector", "weights": path.name, "sha256": file_sha256(path)}
    return Judge(ask=detect, passport=passport, labels=SHAPES)


def features(path: Path = WEIGHTS) -> Judge:
    """The shipped detector as an extractor of `bench.fidelity`: squares of 48 px in, means of its maps [B, 6 C] out.

    It plays Inception's part in the miniature; its distances compare with no published FID. FileNotFoundError without
    the weights.
    """
    network = _network(path)

    def extract(pixels: Tensor) -> Tensor:
        return torch.cat([each.mean((2, 3)) for each in network.maps(pixels / 127.5 - 1)], 1)

    passport = {"name": "miniature shape detector's features", "weights": path.name, "sha256": file_sha256(path)}
    return Judge(ask=extract, passport=passport, side=RESOLUTION)


def perceptual(path: Path = WEIGHTS) -> Judge:
    """The shipped detector's maps as a judge of `bench.diversity`: LPIPS' formula, every channel weighing a quarter.

    It compares with no published LPIPS. FileNotFoundError without the weights.
    """
    network = _network(path)
    passport = {"name": "miniature shape detector's maps", "weights": path.name, "sha256": file_sha256(path)}
    return distance_judge(lambda image: network.maps(_stack([image])), [_quarter, _quarter], passport)


def _quarter(squared: Tensor) -> Tensor:
    """Unit vectors are 4 apart at most: two maps give 2 at most, as `bench.diversity` has it."""
    return squared.sum(1) / 4


def _network(path: Path) -> ShapeDetector:
    """The network with a file's weights, to be asked only."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no detector weights at {path}; train them: python -m reproduce.miniature.pretrain detector"
        )
    state = load_file(path)
    network = ShapeDetector(len(state["stem.0.weight"]), len(state["head.1.bias"]) - NUM_SHAPES - 4)
    network.load_state_dict(state)
    return network.eval()


def _stack(images: list[Image.Image]) -> Tensor:
    odd = [image.size for image in images if image.width != image.height]
    if odd:
        raise InputError(f"the miniature's detector takes square pictures; given {odd[0][0]} x {odd[0][1]}")
    small = [image.convert("RGB") for image in images]
    small = [i if i.width == RESOLUTION else i.resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX) for i in small]
    return to_tensor(np.stack([np.asarray(image) for image in small]))


def _rescale(detections: list[Detection], side: int) -> list[Detection]:
    if side == RESOLUTION:
        return detections
    s = side / RESOLUTION
    return [
        Detection(
            label=d.label, box=(d.box[0] * s, d.box[1] * s, d.box[2] * s, d.box[3] * s), score=d.score, color=d.color
        )
        for d in detections
    ]


@cache
def _shipped() -> Detector:
    return load()


def reject_held_out(images: list[Image.Image], rows: list[dict]) -> list[str | None]:
    """The corpus filter of claim C9: for each picture the held-out pair that is seen in it, or None."""
    reasons = []
    for found in _shipped()(images):
        sure = [d for d in found if d.score >= PUBLISHED.score_threshold]
        seen = [f"{d.color} {d.label}" for d in sure if (d.color, d.label) in HELD_OUT_PAIRS]
        reasons.append(f"shows a held-out pair: {seen[0]}" if seen else None)
    return reasons
