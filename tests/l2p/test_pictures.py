"""The one reader of pictures: right, or refused with the reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from l2p.pictures import MAX_PIXELS, PictureError, named_otherwise, picture_kind, picture_size, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG of raw rows: Pillow cannot write 16-bit colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def oriented(orientation: int, form: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(RGB, form, exif=exif, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))


def test_an_rgb_png_is_its_own_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RGB))
    assert (np.asarray(read_picture(tmp_path / "a.png")) == PIXELS).all()
    assert (np.asarray(read_picture(encoded(RGB))) == PIXELS).all()
    assert picture_size(tmp_path / "a.png") == (9, 6)
    assert picture_kind(tmp_path / "a.png") == ("RGB", (9, 6))
    assert picture_kind(encoded(RGB.convert("LA"))) == ("LA", (9, 6))


def test_grey_palette_and_alpha_are_what_upstreams_readers_make_of_them():
    grey = np.asarray(read_picture(encoded(RGB.convert("L"))))
    assert (grey == np.asarray(RGB.convert("L"))[..., None]).all() and grey.shape == (6, 9, 3)
    palette = RGB.quantize(200)
    assert (np.asarray(read_picture(encoded(palette))) == np.asarray(palette.convert("RGB"))).all()
    alpha = np.concatenate([PIXELS, np.arange(54, dtype=np.uint8).reshape(6, 9, 1)], -1)
    assert (np.asarray(read_picture(encoded(Image.fromarray(alpha)))) == PIXELS).all()
    assert read_picture(encoded(palette, transparency=0)).mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_is_turned_as_its_exif_says(form):
    """Every orientation against numpy's turns: the sides in which pixels are stored, as EXIF 2.32 has them."""
    stored = np.asarray(read_picture(oriented(1, form)))
    turned = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored.transpose(1, 0, 2), 2),
        8: np.rot90(stored),
    }
    for orientation, expected in turned.items():
        content = oriented(orientation, form)
        assert (np.asarray(read_picture(content)) == expected).all(), orientation
        assert picture_size(content) == expected.shape[1::-1]


GREY_16 = png(2, 2, 16, 0, 2 * (b"\0" + struct.pack(">2H", 30000, 40000)))
RGB_16 = png(2, 2, 16, 2, 2 * (b"\0" + struct.pack(">6H", *range(0, 60000, 10000))))
RGBA_16 = png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GREY_16, "more than 8 bits a channel"),
        (RGB_16, "more than 8 bits a channel"),
        (RGBA_16, "more than 8 bits a channel"),
        (encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), "more than 8 bits a channel"),
        (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "more than 8 bits a channel"),
        (encoded(RGB.convert("CMYK"), "JPEG"), "the mode CMYK: save it as RGB"),
        (b"", "it is empty: 0 bytes"),
        (b"<html>not found</html>", "it is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is no picture"),
        (encoded(RGB)[:-60], "it cannot be read"),
        (encoded(RGB, "JPEG")[:-30], "it cannot be read"),
        (encoded(RGB, "WEBP")[:-30], "it cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 40, "it cannot be read"),
    ],
)
def test_what_is_no_8_bit_rgb_is_refused_with_the_reason(content, told):
    with pytest.raises(PictureError, match=told):
        read_picture(content)


def test_five_bits_a_channel_are_no_sixteen():
    """A BMP of 16 bits a pixel holds 5 or 6 a channel."""
    header = struct.pack("<IHHI", 14 + 40 + 4, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 1, 1, 1, 16, 0, 4, 0, 0, 0, 0
    )
    assert read_picture(b"BM" + header + struct.pack("<HH", 0x7C00, 0)).getpixel((0, 0))[0] > 240


def test_damaged_files_raise_nothing_else():
    """Random bytes in real files: a picture or a PictureError, whatever Pillow does."""
    random = np.random.default_rng(1)
    wholes = [encoded(RGB, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")] + [oriented(6), oriented(6, "JPEG")]
    refused = 0
    for _ in range(1500):
        content = bytearray(wholes[random.integers(len(wholes))])
        for place in random.integers(0, len(content), 4):
            content[place] = random.integers(256)
        try:
            assert read_picture(bytes(content)).mode == "RGB"
        except PictureError:
            refused += 1
    assert 300 < refused < 1400


def bomb(side: int) -> bytes:
    """A black PNG of one bit a pixel, much smaller than what it unfolds into."""
    return png(side, side, 1, 0, (b"\0" * (1 + side // 8)) * side)


def test_a_bomb_is_refused_and_the_same_size_is_read_where_it_is_asked_for():
    side = 13_384  # two and more than Pillow's own limit
    content = bomb(side)
    assert side**2 > MAX_PIXELS and len(content) < 1 << 20
    with pytest.raises(PictureError, match="13384 x 13384 pixels, more than the 178,956,970"):
        read_picture(content)
    assert picture_size(content) == (side, side)
    grid = read_picture(content, max_pixels=side**2)
    assert grid.size == (side, side) and grid.crop((0, 0, side // 2, side // 2)).getpixel((5, 5)) == (0, 0, 0)


def test_pipes_and_folders_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(PictureError, match="no regular file"):
            read_picture(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_picture(tmp_path / "absent.png")


def test_what_lies_there_in_another_form_is_said(tmp_path):
    (tmp_path / "0000.JPG").touch()
    assert named_otherwise(tmp_path / "0000.png") == ", but 0000.JPG is there: save it as 0000.png"
    assert named_otherwise(tmp_path / "0001.png") == ""
