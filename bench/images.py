"""Image files, written whole or not at all; `l2p.pictures` reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from l2p.errors import InputError
from l2p.pictures import read_picture


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)


def save_grid(tiles: Sequence[Path], path: Path) -> None:
    """Write images of one size as a grid with two in a row, row by row; ValueError where they have several."""
    images = [read_picture(tile) for tile in tiles]
    width, height = images[0].size
    other = next((tile for tile, image in zip(tiles, images, strict=True) if image.size != (width, height)), None)
    if other:
        raise InputError(f"{other} has not the size of {tiles[0]}, {width} x {height}: a grid's tiles have one")
    grid = Image.new("RGB", (2 * width, -(-len(images) // 2) * height))
    for index, image in enumerate(images):
        grid.paste(image, (index % 2 * width, index // 2 * height))
    save_image(grid, path)
