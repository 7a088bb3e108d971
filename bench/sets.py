"""A folder of pictures as a set, for the metrics that ask for no layout: every picture in it, named by its path.

What could change a score without a word is looked at first: pictures that cannot be read, several sizes, grey or alpha.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.passport import file_sha256
from bench.records import ImageSample, iter_objects
from l2p.errors import InputError
from l2p.pictures import OTHER_SUFFIXES, SUFFIXES, PictureError, is_hidden, picture_kind

SHOWN = 5  # names in a message
MAX_PIXELS = 1 << 28
"""What is read as one picture: 8K ones are expected, and have 2^26 pixels."""


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of a folder in order; a sample's `prompt_id` names it. Sizes are width x height.

    `modes` has the names of pictures that are not plain RGB, by Pillow's mode: they are scored as `l2p.pictures` reads
    them (grey repeated, alpha dropped), and named.
    """

    directory: Path
    samples: list[ImageSample]
    sizes: dict[tuple[int, int], int]
    modes: dict[str, list[str]]
    grouped: bool = False  # the samples say prompt and index themselves

    @property
    def names(self) -> list[str]:
        """Each picture's name, in order."""
        return [name_of(sample) for sample in self.samples]


def name_of(sample: ImageSample) -> str:
    """A picture's name in its set: its id, and its index where a prompt has several."""
    return sample.prompt_id if sample.index == 0 else f"{sample.prompt_id}/{sample.index}"


def read_set(directory: Path, order: Path | None = None) -> PictureSet:
    """Every picture in a folder and those in it, by name; `order` is a JSON Lines file whose `file_name`s order them.

    Raises FileNotFoundError without a folder or pictures, InputError for two of one name, a form that is not read,
    a picture that cannot be read, and an order that leaves one out.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder of pictures")
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not _hidden(path, directory))
    others = [path.name for path in files if path.suffix.lower() in OTHER_SUFFIXES]
    if others:
        raise InputError(f"{directory}: {_some(others)} cannot be scored: save them as PNG, JPEG or WebP")
    paths = {path: path.relative_to(directory).with_suffix("").as_posix() for path in files if _is_picture(path)}
    if not paths:
        raise FileNotFoundError(f"{directory} holds no picture ({', '.join(SUFFIXES)})")
    twice = [name for name, count in Counter(paths.values()).items() if count > 1]
    if twice:
        raise InputError(f"{directory}: {_some(twice)} stand there in two forms, such as PNG and JPEG: keep one")
    by_name = sorted(paths.items(), key=lambda item: item[1])  # so that a.png and a.jpg of two sets have one place
    samples = [ImageSample(prompt_id=name, index=0, seed=-1, path=path) for path, name in by_name]
    return look_at(directory, _ordered(samples, order) if order else samples)


def set_of(directory: Path, samples: Sequence[ImageSample]) -> PictureSet:
    """The set of these samples, paths relative to the folder. FileNotFoundError lists those that are not there."""
    placed = [replace(sample, path=directory / sample.path) for sample in samples]
    missing = [sample.path.relative_to(directory).as_posix() for sample in placed if not sample.path.is_file()]
    if missing:
        raise FileNotFoundError(f"{directory}: {_some(missing)} of {len(placed)} pictures are missing")
    return replace(look_at(directory, placed), grouped=True)


def look_at(directory: Path, samples: list[ImageSample]) -> PictureSet:
    """The set with sizes and modes, from the headers; InputError names the pictures that cannot be read."""
    sizes: Counter[tuple[int, int]] = Counter()
    modes: dict[str, list[str]] = {}
    broken = []
    for sample in samples:
        try:
            mode, size = picture_kind(sample.path)
        except PictureError as error:
            broken.append(f"{sample.path.relative_to(directory).as_posix()}: {error}")
            continue
        sizes[size] += 1
        if mode != "RGB":
            modes.setdefault(mode, []).append(name_of(sample))
    if broken:
        refuse_broken(directory, broken)
    return PictureSet(directory=directory, samples=samples, sizes=dict(sizes), modes=modes)


def refuse_broken(directory: Path, broken: Sequence[str]) -> None:
    """InputError that lists pictures with the reason: a set without them would be another set."""
    shown = "\n  ".join(broken[:20]) + ("\n  ..." if len(broken) > 20 else "")
    raise InputError(f"{directory}: {len(broken)} pictures cannot be read; mend or remove them:\n  {shown}")


def refuse_unpaired(names: Sequence[str], reference_names: Sequence[str]) -> None:
    """InputError that names the pictures that only one side has, or says that they stand in another order."""
    alone, missing = sorted(set(names) - set(reference_names)), sorted(set(reference_names) - set(names))
    if alone or missing:
        raise InputError(
            "this variant pairs each image with its reference picture by name; without a partner are "
            f"{_some(alone)} of the images and {_some(missing)} of the reference"
        )
    if list(names) != list(reference_names):
        raise InputError("images and reference stand in different orders, which decide places: give both one --order")


def common_size(pictures: PictureSet) -> int | None:
    """The side of the pictures where all are squares of one size, else None."""
    (first, *others) = pictures.sizes
    return first[0] if not others and first[0] == first[1] else None


def notes_on(pictures: PictureSet) -> list[str]:
    """What a reader of the score must know of the set: several sizes, pictures that are not plain RGB."""
    notes = []
    if len(pictures.sizes) > 1:
        notes.append(f"pictures of {len(pictures.sizes)} sizes: {shown_sizes(pictures)}")
    for mode, names in pictures.modes.items():
        what = {"L": "grey", "1": "black and white", "P": "of a palette"}.get(mode, f"with alpha ({mode})")
        notes.append(f"{what}, read as RGB: {_some(names)}")
    return notes


def shown_sizes(pictures: PictureSet) -> dict[str, int]:
    """How many pictures of each size, for a passport."""
    return {f"{width}x{height}": count for (width, height), count in sorted(pictures.sizes.items())}


def names_sha256(samples: Iterable[ImageSample]) -> str:
    """SHA-256 over the names of pictures in order: what was asked for, whatever was drawn."""
    return hashlib.sha256("".join(f"{name_of(sample)}\n" for sample in samples).encode()).hexdigest()


def set_sha256(pictures: PictureSet) -> str:
    """SHA-256 over the pictures' names and their files' hashes."""
    digest = hashlib.sha256()
    for sample in pictures.samples:
        digest.update(f"{name_of(sample)} {file_sha256(sample.path)}\n".encode())
    return digest.hexdigest()


def read_captions(path: Path, key: str = "") -> dict[str, str]:
    """A caption for each id of a JSON Lines file: `id`, or `file_name` without its suffix, or the line's number.

    The text is `key`, or `text` or `prompt`. InputError for a row without, and for an id given twice.
    """
    captions: dict[str, str] = {}
    for number, row in enumerate(iter_objects(path)):
        text = row.get(key) if key else row.get("text", row.get("prompt"))
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{path}, row {number + 1}: no text under {key or 'text or prompt'}; it has {', '.join(row)}"
            )
        name = str(row["id"]) if "id" in row else _stem(row["file_name"]) if "file_name" in row else f"{number:05}"
        if name in captions:
            raise InputError(f"{path}, row {number + 1}: the id {name!r} stands twice")
        captions[name] = text
    if not captions:
        raise InputError(f"{path} holds no captions")
    return captions


def by_prompt(pictures: PictureSet, known: Container[str] = ()) -> list[ImageSample]:
    """The samples with the prompt that each is of: `<id>`, `<id>_<k>`, `<id>/<k>` or `<id>/samples/<k>`, k from 0.

    A name that is `known` as an id is one, whatever it ends in. InputError names two files that are one picture of one
    prompt by these rules, such as a.png and a_0.png.
    """
    if pictures.grouped:
        return pictures.samples
    found = []
    for sample in pictures.samples:
        if sample.prompt_id in known:
            found.append(sample)
            continue
        match = re.fullmatch(r"(.+?)(?:/samples)?(?:/|_)(\d+)", sample.prompt_id)
        prompt_id, index = (match[1], int(match[2])) if match else (sample.prompt_id, 0)
        found.append(replace(sample, prompt_id=prompt_id, index=index))
    _refuse_twice(pictures.directory, found)
    return found


def _refuse_twice(directory: Path, samples: Sequence[ImageSample]) -> None:
    first: dict[tuple[str, int], Path] = {}
    for sample in samples:
        other = first.setdefault((sample.prompt_id, sample.index), sample.path)
        if other != sample.path:
            names = [path.relative_to(directory).as_posix() for path in (other, sample.path)]
            raise InputError(
                f"{directory}: {' and '.join(names)} are both picture {sample.index} of {sample.prompt_id}: name the "
                "pictures of one prompt <id>_<k>.png or <id>/<k>.png, k from 0, each k once"
            )


def some(names: Iterable[str]) -> str:
    """The number of names, and the first of them."""
    return _some(list(names))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} ({shown})" if names else "none"


def _ordered(samples: list[ImageSample], order: Path) -> list[ImageSample]:
    places = {_stem(row["file_name"]): k for k, row in enumerate(iter_objects(order, ("file_name",)))}
    lost = [sample.prompt_id for sample in samples if sample.prompt_id not in places]
    absent = sorted(set(places) - {sample.prompt_id for sample in samples})
    if lost or absent:
        raise InputError(
            f"{order} orders other pictures: it lacks {_some(lost)}; not in the folder are {_some(absent)}"
        )
    return sorted(samples, key=lambda sample: places[sample.prompt_id])


def _stem(file_name: Any) -> str:
    return Path(str(file_name)).with_suffix("").as_posix()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _hidden(path: Path, directory: Path) -> bool:
    return any(is_hidden(part) for part in path.relative_to(directory).parts)
