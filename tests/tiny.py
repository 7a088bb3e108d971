"""Tiny random sources of every family and a tiny corpus, for every test that needs one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from l2p.architectures import TinySizes, get_architecture

torch.set_num_threads(1)


def source(family: str = "flux", seed: int = 0, **sizes: Any) -> Any:
    """The family's own pipeline with random weights; `sizes` are fields of TinySizes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = get_architecture(family).tiny_source(TinySizes(**sizes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_corpus(folder: Path, num_images: int = 24, size: int = 16) -> Path:
    """A corpus of flat colours with a square: red images say "a red star", blue ones "two blue"."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(num_images):
        pixels = np.full((size, size, 3), 30, np.uint8)
        corner = generator.integers(0, size // 2, 2)
        pixels[corner[0] : corner[0] + size // 2, corner[1] : corner[1] + size // 2, 0 if i % 2 else 2] = 230
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        rows.append({"file_name": f"images/{i}.png", "text": "a red star" if i % 2 else "two blue"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
