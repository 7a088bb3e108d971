"""Reading images that others made."""

from __future__ import annotations

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
