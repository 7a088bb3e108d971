"""What a miniature source is trained on: scenes rendered, encoded and told once, for all steps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.geneval.rules import COLORS, TASKS
from l2p.architectures import Architecture, EncodedPrompt, encode_prompt, split_prompts, stack_prompts
from reproduce.miniature.detector import to_tensor
from reproduce.miniature.prompts import dense_prompt, task_entry
from reproduce.miniature.render import render_batch
from reproduce.miniature.scenes import RESOLUTION, SHAPES, Layout, Scene, dense_scene, task_scene

TOKEN = 8  # pixels a token covers
GRID = RESOLUTION // TOKEN
_SCENES_AT_ONCE, _TEXTS_AT_ONCE = 64, 256
Shares = Literal["bound", "unnamed"]
# Name -> each task's share of the scenes, the rest dense. "unnamed" is for the end: what it has more of are the tasks
# whose prompts name neither colour nor side, the last that a source learns.
SHARES: dict[Shares, dict[str, float]] = {
    "bound": {
        "single_object": 0.04,
        "two_object": 0.12,
        "counting": 0.18,
        "colors": 0.07,
        "position": 0.21,
        "color_attr": 0.22,
    },
    "unnamed": {
        "single_object": 0.03,
        "two_object": 0.25,
        "counting": 0.30,
        "colors": 0.04,
        "position": 0.12,
        "color_attr": 0.11,
    },
}
Told = tuple[Scene, str, str]  # a scene, its task's prompt (dense for a dense scene), its dense prompt


def told_scenes(rng: np.random.Generator, shares: Shares, layout: Layout, count: int) -> list[Told]:
    """`count` random scenes in the tasks' shares, each with its two prompts."""
    weights = [SHARES[shares][task] for task in TASKS]
    told = []
    for kind in rng.choice(len(TASKS) + 1, count, p=[*weights, 1 - sum(weights)]):
        scene = task_scene(rng, TASKS[kind], layout) if kind < len(TASKS) else dense_scene(rng)
        dense = dense_prompt(scene)
        told.append((scene, task_entry(scene, TASKS[kind])["prompt"] if kind < len(TASKS) else dense, dense))
    return told


def token_labels(scene: Scene) -> np.ndarray:
    """What each 8 px token shows, uint8 [2, 36]: shape and colour index + 1, 0 for background."""
    labels = np.zeros((2, GRID, GRID), np.uint8)
    nearest = np.full((GRID, GRID), 2.0 / RESOLUTION)
    centre = (np.arange(GRID) + 0.5) / GRID
    for item in scene.objects:
        outside = np.hypot(centre[None] - item.x, centre[:, None] - item.y) - item.radius
        won = outside < nearest
        nearest = np.where(won, outside, nearest)
        labels[:, won] = np.array([[SHAPES.index(item.shape) + 1], [COLORS.index(item.color) + 1]])
    return labels.reshape(2, -1)


def build_pool(
    architecture: Architecture,
    pipeline: Any,
    rng: np.random.Generator,
    *,
    num_scenes: int,
    shares: Shares,
    layout: Layout,
    max_sequence_length: int,
) -> dict[str, Tensor]:
    """Scenes as a frozen VAE and frozen text encoders give them.

    `latents` half [N, C, h, w]; `labels` uint8 [N, 2, 36]; `caption` and `dense` int32 [N]: rows of `told.*`, the
    encoded prompts by name, of which row 0 is the empty one.
    """
    rows: dict[str, int] = {"": 0}
    latents, labels, captions, denses = [], [], [], []
    for _ in range(num_scenes // _SCENES_AT_ONCE):
        told = told_scenes(rng, shares, layout, _SCENES_AT_ONCE)
        pictures = to_tensor(render_batch([scene for scene, _, _ in told], RESOLUTION))
        latents.append(architecture.encode_latents(pipeline, pictures).half().cpu())
        for scene, caption, dense in told:
            labels.append(token_labels(scene))
            captions.append(rows.setdefault(caption, len(rows)))
            denses.append(rows.setdefault(dense, len(rows)))
    return {
        "latents": torch.cat(latents).contiguous(),
        "labels": torch.from_numpy(np.stack(labels)),
        "caption": torch.tensor(captions, dtype=torch.int32),
        "dense": torch.tensor(denses, dtype=torch.int32),
    } | {f"told.{k}": t for k, t in _encoded(architecture, pipeline, [*rows], max_sequence_length).items()}


def _encoded(architecture: Architecture, pipeline: Any, texts: list[str], max_sequence_length: int) -> EncodedPrompt:
    singles = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        prompt = encode_prompt(pipeline, architecture.name, texts[start : start + _TEXTS_AT_ONCE], max_sequence_length)
        singles += split_prompts({k: t.half().cpu() if t.is_floating_point() else t.cpu() for k, t in prompt.items()})
    return stack_prompts(singles)


def told_rows(pool: dict[str, Tensor], rows: Tensor) -> EncodedPrompt:
    """Encoded prompts of some rows [B] of a pool, in float32; no longer than the longest of them."""
    prompt = {k.removeprefix("told."): t[rows] for k, t in pool.items() if k.startswith("told.")}
    if "mask" in prompt:
        padded, longest = prompt["mask"].shape[1], int(prompt["mask"].sum(1).max())
        prompt = {k: t[:, :longest] if t.shape[1] == padded else t for k, t in prompt.items()}
    return {k: t.float() if t.is_floating_point() else t for k, t in prompt.items()}
