"""What a run will cost, before it begins: images, steps, time, disk and memory of each stage."""

from __future__ import annotations

from pathlib import Path

from reproduce.recipes import Recipe


def disk_bytes(recipe: Recipe) -> int:
    """An upper bound of what the run folder will hold: images as raw pixels, models, a training state."""
    return 0


def print_plan(recipe: Recipe, run_dir: Path) -> None:
    raise NotImplementedError
