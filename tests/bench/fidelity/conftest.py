"""Random pictures and one small extractor of random weights, which ours and each library are given alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.judges import Judge

SIDE = 24
NUM_FEATURES = 12


class Toy(nn.Module):
    """A network of seeded random weights on squares [B, 3, SIDE, SIDE], 0..255: features [B, 12]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, 3), nn.GELU(), nn.Conv2d(16, NUM_FEATURES, 3, 2)).requires_grad_(
            False
        )
        self.num_features = NUM_FEATURES

    def forward(self, pixels):
        return self.body((pixels - 128) / 64).mean((2, 3)) * 3


def toy() -> Judge:
    """A loader of the small extractor: its features are its logits too."""
    network = Toy()

    def extract(pixels):
        features = network(pixels)
        return features, features

    return Judge(ask=extract, passport={"name": "toy"}, side=SIDE)


def blind() -> Judge:
    """A loader of an extractor without logits."""
    network = Toy()
    return Judge(ask=network, passport={"name": "blind"}, side=SIDE)


def random_picture(random, width: int, height: int, level: int = 0) -> Image.Image:
    """Coarse noise of a random colour, so that resizing leaves something to see."""
    coarse = random.integers(0, 160, (6, 6, 3)) + random.integers(0, 60, 3) + level
    fine = np.kron(coarse, np.ones((-(-height // 6), -(-width // 6), 1)))[:height, :width]
    return Image.fromarray((fine + random.integers(0, 30, fine.shape)).clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, count: int, seed: int, sizes=((40, 40),), level: int = 0) -> Path:
    """`count` pictures p000.png, p001.png, ..., of the sizes in turn."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        random_picture(random, *sizes[number % len(sizes)], level).save(folder / f"p{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Sixty drawn pictures and sixty real ones, by the same names, of three sizes."""
    root, sizes = tmp_path_factory.mktemp("sets"), ((40, 40), (56, 40), (40, 64))
    return write_pictures(root / "images", 60, 1, sizes, 20), write_pictures(root / "real", 60, 2, sizes)
