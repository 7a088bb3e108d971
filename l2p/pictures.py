"""The one reader of pictures: for corpora, benchmarks and metrics; Pillow alone, none of ours, no torch.

A picture comes out as 8-bit RGB, turned as its EXIF says (so GenEval's published script and OpenCV have it), or is
refused with the reason; nothing is scaled, clipped or guessed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from l2p.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What pictures in a folder or a tar are named."""

OTHER_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl")

MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Pillow's modes that mean one thing in 8-bit RGB: grey is repeated, alpha dropped, as upstream's readers do."""

MAX_PIXELS = 178_956_970
"""Pillow's own limit: a small file that unfolds into more is taken for an attack, unless the caller asks for more."""

READERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": jpeg_factory,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
    b"BM": BmpImageFile,
    b"II*\x00": TiffImageFile,
    b"MM\x00*": TiffImageFile,
}
"""A file's first bytes to Pillow's reader. Called directly, since `Image.open` has one limit of pixels for everybody
and reads formats that start other programs (EPS)."""


class PictureError(InputError):
    """Why a file is no picture that can be used: a sentence about "it"."""


def is_hidden(name: str) -> bool:
    """Whether a file's name is another system's own affair: `.DS_Store`, `._0000.png` of a Mac's archives."""
    return name.rpartition("/")[2].startswith(".")


def named_otherwise(path: Path) -> str:
    """Of a picture that is missing: ", but 0000.jpg is there", in another form than the one expected; else nothing."""
    forms = (form for suffix in (*SUFFIXES, *OTHER_SUFFIXES) for form in (suffix, suffix.upper()))
    there = [other.name for form in forms if (other := path.with_suffix(form)).exists()]
    return f", but {there[0]} is there: save it as {path.name}" if there else ""


def read_picture(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """One picture as 8-bit RGB, from a file or its bytes.

    Raises FileNotFoundError, and PictureError: no regular file, empty, no picture, truncated or damaged, more
    than 8 bits a channel, CMYK and other modes outside `MODES`, more than `max_pixels`.
    """
    with _opened(source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise PictureError(
                f"it has {width} x {height} pixels, more than the {max_pixels:,} that are read unasked: a picture of "
                "that size must be expected"
            )
        _refuse_other_modes(image)
        ImageOps.exif_transpose(image, in_place=True)
        return image.convert("RGB")


def picture_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height as `read_picture` would give them; see `picture_kind`."""
    return picture_kind(source)[1]


def picture_kind(source: Path | bytes) -> tuple[str, tuple[int, int]]:
    """Pillow's mode of the file (`L` is grey, `RGBA` has alpha), width and height as `read_picture` would give them.

    From the header alone where it can. Raises FileNotFoundError, and PictureError for what is no picture.
    """
    with _opened(source) as image:
        width, height = image.size
        turned = width != height and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.mode, (height, width) if turned else (width, height)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image]:
    """The picture, its header read; whatever Pillow raises until the end is told as a PictureError."""
    if isinstance(source, Path) and not source.is_file():
        if source.exists():
            raise PictureError("it is no regular file")  # opening a pipe would wait for ever
        raise FileNotFoundError(f"{source} is not there")
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            _reader(file)(file) as image,
        ):
            yield image
    except PictureError:
        raise
    except Exception as error:  # on damaged files Pillow raises nearly anything: struct.error, SyntaxError, KeyError
        raise PictureError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _reader(file: IO[bytes]) -> Callable[[IO[bytes]], Any]:
    start = file.read(16)
    file.seek(0)
    if not start:
        raise PictureError("it is empty: 0 bytes")
    for signature, reader in READERS.items():
        if start.startswith(signature):
            return reader
    raise PictureError("it is no picture: its first bytes are none of PNG, JPEG, WebP, GIF, BMP or TIFF")


def _refuse_other_modes(image: Any) -> None:
    """PictureError for what 8-bit RGB cannot hold; Pillow cuts 16-bit colours to 8 without a word, greys to white."""
    layouts = [str(tile[3]) for tile in image.tile]  # such as RGB;16B; BGR;16 is 5, 6 and 5 bits
    deep = image.mode[0] in "IF" or any(";16" in layout and "BGR" not in layout for layout in layouts)
    if image.mode not in MODES or deep:
        what = "more than 8 bits a channel" if deep else f"the mode {image.mode}"
        raise PictureError(f"it has {what}: save it as RGB with 8 bits")
