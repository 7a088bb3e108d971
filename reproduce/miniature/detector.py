"""The miniature's detector: finds shapes and their colours; plays Mask2Former's part behind the same `Detector` type.

A centre-point network (CenterNet, Zhou et al. 2019) at stride 4 on 48 px images: per cell a heat map over shapes, the
distances to the box's four sides, and a colour. Scores are calibrated (Platt) on disturbed rendered scenes, so that
GenEval's thresholds 0.3 and 0.9 mean what they mean for any detector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.geneval.rules import PUBLISHED, SAVED_SCORE
from bench.judges import Judge
from bench.passport import file_sha256
from bench.records import Detection
from reproduce.miniature.render import box, render_batch
from reproduce.miniature.scenes import COLORS, HELD_OUT_PAIRS, SHAPES, Scene, mixed_scenes

if TYPE_CHECKING:
    from bench.records import Detector

RESOLUTION, STRIDE = 48, 4
GRID = RESOLUTION // STRIDE
WEIGHTS = Path(__file__).parent / "weights" / "detector.safetensors"
NUM_SHAPES, NUM_COLORS = len(SHAPES), len(COLORS)


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

    def __init__(self, channels: int = 16):
        super().__init__()
        c = channels
        self.stem = _conv(3, c, 2)
        self.down4 = nn.Sequential(_conv(c, 2 * c, 2), _Residual(2 * c))
        self.down8 = nn.Sequential(_conv(2 * c, 3 * c, 2), _Residual(3 * c))
        self.down16 = nn.Sequential(_conv(3 * c, 4 * c, 2), _Residual(4 * c))
        self.up8, self.up4 = nn.Conv2d(4 * c, 3 * c, 1), nn.Conv2d(3 * c, 2 * c, 1)
        cells = nn.Conv2d(2 * c, NUM_SHAPES + 4 + NUM_COLORS, 1)
        nn.init.constant_(cells.bias[:NUM_SHAPES], -3.0)  # type: ignore[index]  # centres are rare
        self.head = nn.Sequential(_conv(2 * c, 2 * c), cells)
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # score = sigmoid(a * logit + b)

    def forward(self, x: Tensor) -> Tensor:
        at4 = self.down4(self.stem(x))
        at8 = self.down8(at4)
        at8 = at8 + F.interpolate(self.up8(self.down16(at8)), scale_factor=2)
        return self.head(at4 + F.interpolate(self.up4(at8), scale_factor=2))


def _targets(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Heat maps [B, shapes, 12, 12], sides [B, 4, 12, 12] in cells, colour indices [B, 12, 12] (-100: no centre)."""
    heat = np.zeros((len(scenes), NUM_SHAPES, GRID, GRID), np.float32)
    sides = np.zeros((len(scenes), 4, GRID, GRID), np.float32)
    color = np.full((len(scenes), GRID, GRID), -100, np.int64)
    cell = np.arange(GRID)
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            x0, y0, x1, y1 = (side * GRID for side in box(item))
            column, row = min(int((x0 + x1) / 2), GRID - 1), min(int((y0 + y1) / 2), GRID - 1)
            bump = np.exp(-((cell[None] - column) ** 2 + (cell[:, None] - row) ** 2) / (2 * 0.7**2))
            shape = SHAPES.index(item.shape)
            heat[i, shape] = np.maximum(heat[i, shape], bump)
            sides[i, :, row, column] = column + 0.5 - x0, row + 0.5 - y0, x1 - column - 0.5, y1 - row - 0.5
            color[i, row, column] = COLORS.index(item.color)
    return torch.from_numpy(heat), torch.from_numpy(sides), torch.from_numpy(color)


def _loss(cells: Tensor, heat: Tensor, sides: Tensor, color: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss on centres, L1 on sides, cross-entropy on colours."""
    logit, p = cells[:, :NUM_SHAPES], cells[:, :NUM_SHAPES].sigmoid()
    centre = (heat > 0.999).float()
    focal = F.logsigmoid(logit) * (1 - p) ** 2 * centre + F.logsigmoid(-logit) * p**2 * (1 - heat) ** 4 * (1 - centre)
    on = (color >= 0)[:, None]
    l1 = (cells[:, NUM_SHAPES : NUM_SHAPES + 4] - sides).abs() * on
    return (l1.sum() - focal.sum()) / centre.sum() + F.cross_entropy(cells[:, NUM_SHAPES + 4 :], color)


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise, gain and colour cast of random strength on pictures [B, 3, H, W] in [-1, 1]."""
    batch = len(images)
    tap = torch.tensor([1.0, 2.0, 1.0])
    kernel = (tap[:, None] * tap / 16).expand(3, 1, 3, 3)
    for share in (0.5, 0.25):
        blurred = F.conv2d(F.pad(images, [1] * 4, mode="replicate"), kernel, groups=3)
        images = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < share, blurred, images)
    strength = torch.rand(batch, 1, 1, 1, generator=generator) * 0.15
    strength = strength * (torch.rand(batch, 1, 1, 1, generator=generator) < 0.7)
    images = images + strength * torch.randn(images.shape, generator=generator)
    gain = 1 + 0.08 * torch.randn(batch, 1, 1, 1, generator=generator)
    return images * gain + 0.04 * torch.randn(batch, 3, 1, 1, generator=generator)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 pictures [B, H, W, 3] as float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train(
    num_steps: int, seed: int = 0, batch_size: int = 64, learning_rate: float = 2e-3, log: Callable[[str], None] = print
) -> ShapeDetector:
    """Train on fresh disturbed scenes: AdamW, linear decay; then calibrate scores on scenes of another seed."""
    torch.manual_seed(seed)
    network, rng, generator = ShapeDetector(), np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * max(0.02, 1 - step / num_steps)
        scenes = mixed_scenes(rng, batch_size)
        pictures = disturb(to_tensor(render_batch(scenes, RESOLUTION)), generator)
        loss = _loss(network.train()(pictures), *_targets(scenes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            log(f"detector step {step + 1}/{num_steps} loss {loss.item():.4f}")
    _calibrate(network.eval(), np.random.default_rng(seed + 1), generator)
    return network


def _peaks(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best shape's logit [B, 12, 12], its index, and where it is the largest of its 3 x 3 neighbourhood."""
    logit, shape = cells[:, :NUM_SHAPES].max(1)
    return logit, shape, logit == F.max_pool2d(logit[:, None], 3, 1, 1)[:, 0]


def _calibrate(network: ShapeDetector, rng: np.random.Generator, generator: torch.Generator) -> None:
    """Platt scaling: logistic regression of "this peak is an object of that shape" on the peak's logit.

    On twice disturbed scenes: on those of the training the two kinds separate completely, and no slope fits.
    """
    logits, truth = [], []
    for _ in range(16):
        scenes = mixed_scenes(rng, 64)
        heat, _, _ = _targets(scenes)
        with torch.no_grad():
            pictures = disturb(disturb(to_tensor(render_batch(scenes, RESOLUTION)), generator), generator)
            logit, shape, peak = _peaks(network(pictures))
        near = F.max_pool2d((heat > 0.999).float(), 3, 1, 1).gather(1, shape[:, None])[:, 0] > 0
        logits.append(logit[peak])
        truth.append(near[peak].float())
    x, y, line = torch.cat(logits), torch.cat(truth), torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100)

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()
        return loss

    optimizer.step(objective)
    network.calibration.copy_(line.detach())


@torch.no_grad()
def find(network: ShapeDetector, pictures: Tensor) -> list[list[Detection]]:
    """Detections in pictures [B, 3, 48, 48] in [-1, 1]; boxes in pixels of 48, best score first."""
    cells = network(pictures)
    logit, shape, peak = _peaks(cells)
    score = (network.calibration[0] * logit + network.calibration[1]).sigmoid()
    found: list[list[Detection]] = [[] for _ in pictures]
    for i, row, column in (peak & (score >= SAVED_SCORE)).nonzero().tolist():
        left, top, right, bottom = cells[i, NUM_SHAPES : NUM_SHAPES + 4, row, column].tolist()
        x, y = column + 0.5, row + 0.5
        sides = (x - left, y - top, x + right, y + bottom)
        color = COLORS[int(cells[i, NUM_SHAPES + 4 :, row, column].argmax())]
        corners = (STRIDE * sides[0], STRIDE * sides[1], STRIDE * sides[2], STRIDE * sides[3])
        found[i].append(
            Detection(label=SHAPES[shape[i, row, column]], box=corners, score=float(score[i, row, column]), color=color)
        )
    return [sorted(items, key=lambda d: -d.score) for items in found]


def save(network: ShapeDetector, path: Path = WEIGHTS) -> None:
    """Write the weights as safetensors (temporary name, then renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def load(path: Path = WEIGHTS) -> Detector:
    """The shipped detector as a `bench.records.Detector`: square pictures of any size, boxes in their own pixels.

    Raises FileNotFoundError where the weights are missing, ValueError for a picture that is not square.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no detector weights at {path}; train them: python -m reproduce.miniature.pretrain detector"
        )
    network = ShapeDetector()
    network.load_state_dict(load_file(path))
    network.eval()

    def detect(images: list[Image.Image]) -> list[list[Detection]]:
        return [_rescale(d, image.width) for d, image in zip(find(network, _stack(images)), images, strict=True)]

    passport = {"name": "miniature shape detector", "weights": path.name, "sha256": file_sha256(path)}
    return Judge(ask=detect, passport=passport, labels=SHAPES)


def _stack(images: list[Image.Image]) -> Tensor:
    odd = [image.size for image in images if image.width != image.height]
    if odd:
        raise ValueError(f"the miniature's detector takes square pictures; given {odd[0][0]} x {odd[0][1]}")
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
