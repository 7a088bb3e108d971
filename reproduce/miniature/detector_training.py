"""Training of the miniature's detector on deformed renders, and the calibration of its scores.

A batch is a function of (seed, step) alone and the state is saved every so often: a training that is killed goes on
and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2p.errors import InputError
from reproduce.miniature.deform import UNKNOWN, Truth, mirrored, paint
from reproduce.miniature.detector import GRID, NUM_SHAPES, RESOLUTION, ShapeDetector, peaks
from reproduce.miniature.scenes import mixed_scenes

SHARPNESS = 6.0  # of a score in the logit; tuned on half of the labels (tests/recorded/labels)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Settings of the detector's training."""

    num_steps: int = 7000
    batch_size: int = 64
    learning_rate: float = 3e-3
    channels: int = 22
    seed: int = 0
    save_every: int = 250
    num_calibration_batches: int = 32


def _smooth(generator: torch.Generator, batch: int, channels: int, side: int, cells: int) -> Tensor:
    noise = torch.randn(batch, channels, cells, cells, generator=generator)
    return F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False)


def _some(generator: torch.Generator, batch: int, most: float, share: float) -> Tensor:
    """A strength for each picture [B, 1, 1, 1]: up to `most` in this share of them, else 0."""
    drawn = torch.rand(2, batch, 1, 1, 1, generator=generator)
    return drawn[0] * most * (drawn[1] < share)


def weather(images: Tensor, generator: torch.Generator) -> Tensor:
    """What a model does to whole pictures [B, 3, H, W] in [-1, 1]: bent, soft, with blotches, a grid and halos."""
    batch, _, side, _ = images.shape
    cells = (4, 6, 8)[int(torch.randint(0, 3, (1,), generator=generator))]
    bend = _smooth(generator, batch, 2, side, cells) * _some(generator, batch, 1.2, 0.8) * 2 / side
    straight = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, straight + bend.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (taps[:, None] * taps).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(images, [2] * 4, mode="replicate"), kernel, groups=3)
    images = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.15, blurred, images)
    cells = (6, 12, 16)[int(torch.randint(0, 3, (1,), generator=generator))]
    images = images + _some(generator, batch, 0.12, 0.7) * _smooth(generator, batch, 3, side, cells)
    tile = torch.randn(batch, 3, 8, 8, generator=generator).repeat(1, 1, side // 8, side // 8)
    images = images + _some(generator, batch, 0.06, 0.4) * tile
    blurred = F.avg_pool2d(F.pad(images, [2] * 4, mode="replicate"), 5, 1)
    return images + (_some(generator, batch, 0.8, 0.5) - _some(generator, batch, 0.3, 0.3)) * (images - blurred)


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


@lru_cache(maxsize=1)
def _painted(seed: int, number: int, size: int) -> tuple[Tensor, Truth]:
    rng = np.random.default_rng([seed, 72, number])
    return paint(rng, mixed_scenes(rng, size), RESOLUTION)


def batch_of(seed: int, step: int, size: int) -> tuple[Tensor, Truth]:
    """The pictures [B, 3, 48, 48] of one step and what they show: a function of its arguments alone.

    Painting costs as much as training, so each batch serves two steps: the second sees it mirrored, in other weather.
    """
    pictures, truth = _painted(seed, step // 2, size)
    if step % 2:
        pictures, truth = pictures.flip(-1), mirrored(truth)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 73, step]).generate_state(1)[0]))
    pictures = disturb(weather(pictures, generator), generator).clamp(-1, 1)
    return pictures.contiguous(memory_format=torch.channels_last), truth


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the cells of a batch should say.

    `alike` [B, shapes, 12, 12]: an object's likeness at its centre, a bump of it around; `centre` [B, 12, 12]: where an
    object lies; `sides` [B, 4, 12, 12] in cells; `color` [B, 12, 12], an index or `UNKNOWN`; `shown` [B, 12, 12]: how
    surely any shape is shown there, which weighs box and colour.
    """

    alike: Tensor
    centre: Tensor
    sides: Tensor
    color: Tensor
    shown: Tensor


def targets(truth: Truth, size: int) -> Targets:
    """The targets of a batch of `size` pictures; of two objects in one cell the later, which lies above, is told."""
    alike = np.zeros((size, NUM_SHAPES, GRID, GRID), np.float32)
    centre = np.zeros((size, GRID, GRID), bool)
    sides = np.zeros((size, 4, GRID, GRID), np.float32)
    color = np.full((size, GRID, GRID), UNKNOWN, np.int64)
    shown = np.zeros((size, GRID, GRID), np.float32)
    cell = np.arange(GRID)
    for i, likeness, tone, (x0, y0, x1, y1) in zip(
        truth.picture, truth.likeness, truth.color, truth.box * GRID, strict=True
    ):
        column, row = (int(np.clip((a + b) / 2, 0, GRID - 1)) for a, b in ((x0, x1), (y0, y1)))
        bump = np.exp(-((cell[None] - column) ** 2 + (cell[:, None] - row) ** 2) / (2 * 0.7**2))
        alike[i] = np.maximum(alike[i], likeness[:, None, None] * bump)
        centre[i, row, column] = True
        sides[i, :, row, column] = column + 0.5 - x0, row + 0.5 - y0, x1 - column - 0.5, y1 - row - 0.5
        shown[i, row, column] = likeness.max()
        color[i, row, column] = tone if likeness.max() > 0 else UNKNOWN
    arrays = (torch.from_numpy(a) for a in (alike, centre, sides, color, shown))
    return Targets(**dict(zip(Targets.__annotations__, arrays, strict=True)))


def loss_of(cells: Tensor, asked: Targets) -> Tensor:
    """Quality focal loss at centres (Li et al. 2020: the target is a likeness), CenterNet's elsewhere; L1; entropy.

    Boxes and colours count as much as a shape is shown.
    """
    logit = cells[:, :NUM_SHAPES]
    p, centre = logit.sigmoid(), asked.centre[:, None].expand_as(logit)
    at = F.binary_cross_entropy_with_logits(logit, asked.alike, reduction="none") * (asked.alike - p) ** 2
    off = -F.logsigmoid(-logit) * p**2 * (1 - asked.alike) ** 4
    weight = asked.shown / asked.shown.sum()
    l1 = (cells[:, NUM_SHAPES : NUM_SHAPES + 4] - asked.sides).abs().sum(1)
    color = F.cross_entropy(cells[:, NUM_SHAPES + 4 :], asked.color, ignore_index=UNKNOWN, reduction="none")
    return torch.where(centre, 2 * at, off).sum() / asked.centre.sum() + ((l1 + color) * weight).sum()


def _rate(step: int, config: DetectorConfig) -> float:
    """Warm-up, then a linear fall to 1 %."""
    return config.learning_rate * min(1, (step + 1) / 50) * max(0.01, 1 - step / config.num_steps)


def train(config: DetectorConfig, folder: Path | None = None, log: Callable[[str], None] = print) -> ShapeDetector:
    """Train on fresh deformed scenes (AdamW), then calibrate; goes on from the state in `folder` where there is one.

    Raises ValueError where that state was made with other settings.
    """
    torch.manual_seed(config.seed)
    network = ShapeDetector(config.channels).to(memory_format=torch.channels_last)  # a quarter off a step
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-2)
    first = _resume(folder, config, network, optimizer)
    for step in range(first, config.num_steps):
        optimizer.param_groups[0]["lr"] = _rate(step, config)
        pictures, truth = batch_of(config.seed, step, config.batch_size)
        loss = loss_of(network.train()(pictures), targets(truth, len(pictures)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            log(f"detector step {step + 1}/{config.num_steps} loss {loss.item():.4f}")
        if folder and (step + 1) % config.save_every == 0:
            _save_state(folder, config, network, optimizer, step + 1)
    calibrate(network.eval(), config)
    return network


def _resume(folder: Path | None, config: DetectorConfig, network: ShapeDetector, optimizer: Any) -> int:
    """The step to go on from; 0 without a state."""
    if folder is None or not (folder / "state.pt").is_file():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    if state["config"] != asdict(config):
        raise InputError(
            f"{folder / 'state.pt'} was made with {state['config']}, asked is {asdict(config)}: "
            "ask for the same, or use another folder."
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _save_state(folder: Path, config: DetectorConfig, network: ShapeDetector, optimizer: Any, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": asdict(config), "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"step": step}, folder / "state.tmp")
    (folder / "state.tmp").rename(folder / "state.pt")


def calibrate(network: ShapeDetector, config: DetectorConfig) -> None:
    """Platt scaling: logistic regression of "this peak shows that shape" on the peak's logit.

    On deformed scenes of another seed, where the truth runs from 0 to 1 with the strength of the deformation: a score
    of a half is where an object is as much the shape as not. The line is then steepened to `SHARPNESS`: a person says
    yes or no, so GenEval's two thresholds (0.3, and 0.9 where it counts) must lie close to that boundary.
    """
    logits, truths = [], []
    for number in range(config.num_calibration_batches):
        pictures, truth = batch_of(config.seed + 1, number, config.batch_size)
        asked = targets(truth, len(pictures))
        with torch.no_grad():
            logit, shape, peak = peaks(network(pictures))
        at_centre = asked.alike * asked.centre[:, None]
        near = F.max_pool2d(at_centre, 3, 1, 1).gather(1, shape[:, None])[:, 0]
        logits.append(logit[peak])
        truths.append(near[peak])
    x, y, line = torch.cat(logits), torch.cat(truths), torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100)

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()
        return loss

    optimizer.step(objective)
    network.calibration.copy_(line.detach() * SHARPNESS / line[0].item())
