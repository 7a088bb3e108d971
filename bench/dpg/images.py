"""A folder of DPG-Bench images held against its questions: `<item>.png`, a 2 x 2 grid, or `<item>_<k>.png` from 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench.dpg.answers import MAX_PIC_NUM
from bench.dpg.questions import QuestionFile
from bench.records import ImageSample
from l2p.errors import InputError
from l2p.pictures import MAX_PIXELS, SUFFIXES, PictureError, is_hidden, named_otherwise, picture_size, read_picture


@dataclass(frozen=True, kw_only=True)
class Folder:
    """`items`: each complete item's samples, a crop each (a grid's share one file); `missing`: what is not there."""

    items: dict[str, list[ImageSample]]
    missing: list[str]


def read_folder(directory: Path, file: QuestionFile, *, pic_num: int, resolution: int) -> Folder:
    """Find every item's images and check their sizes, without reading the pixels.

    A file named like an item is its grid; else what follows the last "_" is the tile's number. Raises FileNotFoundError
    without a folder, and ValueError for `pic_num` outside 1..4, images that belong to no item (or to a crop beyond
    `pic_num`), an item with two files for one crop, and grids or tiles of another size.
    """
    if not 1 <= pic_num <= MAX_PIC_NUM:
        raise InputError(f"--pic-num must be 1 to {MAX_PIC_NUM}, the tiles of a 2 x 2 grid; got {pic_num}")
    if resolution < 1:
        raise InputError(f"--resolution is the side of one tile in pixels; got {resolution}")
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder; expected images named by item, such as 0.png, in it")
    found = _by_item(directory, file, pic_num)
    _check_sizes(found, pic_num, resolution)
    items, missing = {}, []
    for item_id in file.items:
        crops = found.get(item_id, {})
        lacking = _missing(directory, item_id, crops, pic_num)
        missing += lacking
        if not lacking:
            items[item_id] = [
                ImageSample(prompt_id=item_id, index=k, seed=-1, path=crops[-1 if -1 in crops else k])
                for k in range(pic_num)
            ]
    return Folder(items=items, missing=missing)


def _by_item(directory: Path, file: QuestionFile, pic_num: int) -> dict[str, dict[int, Path]]:
    """Files by item and crop; a grid has the crop -1."""
    found: dict[str, dict[int, Path]] = {}
    surplus = []
    for path in sorted(p for p in directory.iterdir() if p.suffix.lower() in SUFFIXES and not is_hidden(p.name)):
        if not path.is_file():
            continue  # a pipe or a folder: its item lacks the image
        item_id, crop = _item_and_crop(path.stem, file)
        if item_id not in file.items or crop >= pic_num:
            surplus.append(path.name)
        elif crop in found.setdefault(item_id, {}):
            raise InputError(f"{path} and {found[item_id][crop].name} show the same crop: keep one")
        else:
            found[item_id][crop] = path
    if surplus:
        raise InputError(
            f"{directory}: {len(surplus)} images belong to no item of {file.path} or lie beyond --pic-num {pic_num} "
            f"(tiles count from 0), such as {', '.join(surplus[:5])}. Move them, or give their questions."
        )
    both = [item_id for item_id, crops in found.items() if -1 in crops and len(crops) > 1]
    if both:
        raise InputError(f"{directory}: {len(both)} items have a grid and single tiles, such as {both[0]!r}: keep one")
    return found


def _item_and_crop(stem: str, file: QuestionFile) -> tuple[str, int]:
    """The item that a file name means and its crop, -1 for a grid."""
    name, _, number = stem.rpartition("_")
    if stem in file.items or not (number.isascii() and number.isdigit()):
        return stem, -1
    return name, int(number)


def _missing(directory: Path, item_id: str, crops: dict[int, Path], pic_num: int) -> list[str]:
    """Names of the files that an item lacks, and what lies there in their place."""
    names = [] if -1 in crops else [f"{item_id}_{k}.png" for k in range(pic_num) if k not in crops]
    names = names if crops else [f"{item_id}.png"]
    wrong = ", which is no regular file"
    return [f"{name}{wrong if (directory / name).exists() else named_otherwise(directory / name)}" for name in names]


def _check_sizes(found: dict[str, dict[int, Path]], pic_num: int, resolution: int) -> None:
    """ValueError for images of the wrong size; one that can't be opened is left to the scoring, which reports it."""
    wrong = []
    for crop, path in ((crop, path) for crops in found.values() for crop, path in crops.items()):
        size, allowed = _size(path), grid_sizes(pic_num, resolution) if crop < 0 else {(resolution, resolution)}
        if size and size not in allowed:
            shown = " or ".join(f"{width} x {height}" for width, height in sorted(allowed))
            wrong.append(f"{path.name}: {size[0]} x {size[1]}, expected {shown}")
    if wrong:
        listed = "\n  ".join(wrong[:10])
        raise InputError(f"{len(wrong)} images have the wrong size for --resolution {resolution}:\n  {listed}")


def grid_sizes(pic_num: int, resolution: int) -> set[tuple[int, int]]:
    """Widths and heights of a grid: 2 x 2 tiles, or just the first row or tile where no more are scored."""
    full = (2 * resolution, 2 * resolution)
    return {full} | {(min(pic_num, 2) * resolution, resolution)} if pic_num <= 2 else {full}


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return picture_size(path)
    except PictureError:
        return None


def read_crops(samples: list[ImageSample], resolution: int) -> Iterator[Image.Image]:
    """An item's crops as RGB, marked with item and crop in `info`; a grid is read once.

    Tiles lie in rows: 0 and 1 above, 2 and 3 below (the published script's order). A grid may be as large as
    `resolution` asks for. PictureError for an unreadable image.
    """
    opened: dict[Path, Image.Image] = {}
    for sample in samples:
        if sample.path not in opened:
            opened = {sample.path: read_picture(sample.path, max(MAX_PIXELS, 4 * resolution**2))}
        image = opened[sample.path]
        left, top = sample.index % 2 * resolution, sample.index // 2 * resolution
        if image.size != (resolution, resolution) and image.size not in grid_sizes(len(samples), resolution):
            raise PictureError(f"it has {image.width} x {image.height} pixels, which is no grid of {resolution}")
        is_grid = image.size != (resolution, resolution)
        crop = image.crop((left, top, left + resolution, top + resolution)) if is_grid else image
        crop.info.update(item_id=sample.prompt_id, crop=sample.index)
        yield crop
