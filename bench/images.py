"""Image files: read as upstream's readers do, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

IMAGE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def open_image(path: Path) -> Image.Image:
    """Read one image as RGB: grey is repeated, alpha dropped, as upstream's readers do.

    ValueError says why an image cannot be scored: truncated, no image, too large to be trusted, 16 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in IMAGE_MODES:
                raise ValueError(f"its mode {image.mode} is none of {', '.join(IMAGE_MODES)}: save it with 8 bits.")
            return image.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read ({type(error).__name__}: {error}).") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)


def save_grid(tiles: Sequence[Path], path: Path) -> None:
    """Write images of one size as a grid with two in a row, row by row."""
    images = [Image.open(tile) for tile in tiles]
    width, height = images[0].size
    grid = Image.new("RGB", (2 * width, -(-len(images) // 2) * height))
    for index, image in enumerate(images):
        grid.paste(image, (index % 2 * width, index // 2 * height))
    save_image(grid, path)
