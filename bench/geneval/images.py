"""A folder in GenEval's layout, `00000/metadata.jsonl` and `00000/samples/0000.png`, held against its suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.geneval.prompts import OFFICIAL_SHA256, Entry, as_prompts, check_entry, generate, suite_sha256
from bench.records import ImageSample, Prompt, read_jsonl
from l2p.errors import InputError
from l2p.pictures import is_hidden, named_otherwise

SUITE_FILE = "evaluation_metadata.jsonl"
"""The suite's prompt file, under the published name; beside the prompts' folders it says what is expected."""

MAX_IMAGES = 1_000_000
"""More than this is a slip of the hand; the official suite has 2,212."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What was asked for and what is there: `samples` has a slot for each expected image, None = missing."""

    prompts: list[Prompt]
    samples: list[ImageSample | None]
    missing: list[str]
    images_per_prompt: int
    sha256: str

    @property
    def is_official(self) -> bool:
        """Whether these are the 553 published prompts."""
        return self.sha256 == OFFICIAL_SHA256


def read_folder(directory: Path, entries: Sequence[Entry] | None, num_prompts: int | None, num_images: int) -> Folder:
    """Find the images of a suite: `num_images` for each prompt.

    The suite is `entries`, else the folder's `evaluation_metadata.jsonl`, else the official one when every folder fits
    it, else the folders themselves, if there are `num_prompts` of them. Raises FileNotFoundError without a folder, and
    ValueError for a folder not named by digits, metadata of another prompt, a surplus image or an unknown suite.
    """
    _refuse_absurd(num_prompts or 1, num_images)
    found = _prompt_folders(directory)
    suite = _suite(directory, found, entries, num_prompts, num_images)
    _refuse_absurd(len(suite), num_images)
    prompts = as_prompts(suite)
    by_number = _match(found, prompts)
    samples: list[ImageSample | None] = []
    missing: list[str] = []
    for number, prompt in enumerate(prompts):
        images = _images(by_number[number], num_images) if number in by_number else {}
        for index in range(num_images):
            path = images.get(index)
            samples.append(ImageSample(prompt_id=prompt.id, index=index, seed=-1, path=path) if path else None)
            missing += [] if path else [_missing(directory, prompt.id, index)]
    return Folder(
        prompts=prompts, samples=samples, missing=missing, images_per_prompt=num_images, sha256=suite_sha256(suite)
    )


def _refuse_absurd(num_prompts: int, num_images: int) -> None:
    if num_prompts < 1:
        raise InputError("The suite holds no prompt: there is nothing to score.")
    if num_images < 1 or num_prompts * num_images > MAX_IMAGES:
        raise InputError(
            f"{num_prompts} x {num_images} images are expected; 1 to {MAX_IMAGES:,} can be: mend --expected."
        )


def _missing(directory: Path, prompt_id: str, index: int) -> str:
    """A missing image's name, and what lies there in its place."""
    name = Path(prompt_id, "samples", f"{index:04}.png")
    wrong = ", which is no regular file" if (directory / name).exists() else named_otherwise(directory / name)
    return f"{name.as_posix()}{wrong}"


def _prompt_folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder; expected folders 00000, 00001, ... in it.")
    found = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    misnamed = [path.name for path in found if not (path.name.isascii() and path.name.isdigit())]
    if misnamed:
        raise InputError(
            f"{directory}: {len(misnamed)} folders are not named by digits, such as {misnamed[0]!r}; "
            "GenEval's are the prompt's number, 00000, 00001, ... Rename or move them."
        )
    if not found:
        raise FileNotFoundError(f"{directory} holds no prompt folder; expected 00000, 00001, ... in it.")
    return found


def _metadata(folder: Path) -> Entry:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it says what the folder's images were asked to show.")
    rows = read_jsonl(path)
    if len(rows) != 1:
        raise InputError(f"{path} must hold one line, the prompt's entry; it holds {len(rows)}.")
    check_entry(rows[0], str(path))
    return rows[0]


def _suite(
    directory: Path, found: Sequence[Path], entries: Sequence[Entry] | None, num_prompts: int | None, num_images: int
) -> list[Entry]:
    """The entries that are expected; see `read_folder`."""
    own = directory / SUITE_FILE
    if entries is not None or own.is_file():
        suite = list(entries) if entries is not None else read_jsonl(own)
        if num_prompts not in (None, len(suite)):
            raise InputError(
                f"{num_prompts} prompts are expected, but the suite has {len(suite)}. To score those that are drawn: "
                f"--expected {len(suite)}x{num_images} with --allow-partial, or a suite of them alone with --prompts."
            )
        return suite
    there = {int(folder.name): _metadata(folder) for folder in found}
    official = generate()
    if num_prompts in (None, len(official)) and all(official[n : n + 1] == [entry] for n, entry in there.items()):
        return official
    if num_prompts is None:
        raise InputError(
            f"{directory} is not the official suite, so that a lost prompt could not be noticed: give the suite with "
            f"--prompts FILE (or {SUITE_FILE} in the folder), or the number expected with --expected PROMPTSxIMAGES."
        )
    if sorted(there) != list(range(num_prompts)):
        lost = [f"{number:05}" for number in range(num_prompts) if number not in there]
        surplus = [f"{number:05}" for number in there if number >= num_prompts]
        raise InputError(
            f"{directory}: of {num_prompts} expected prompts {len(lost)} have no folder ({', '.join(lost[:10])}), "
            f"{len(surplus)} folders are surplus ({', '.join(surplus[:10])}). Give the suite with --prompts FILE."
        )
    return [there[number] for number in range(num_prompts)]


def _match(found: Sequence[Path], prompts: Sequence[Prompt]) -> dict[int, Path]:
    """Folders by number; ValueError where the metadata is not that prompt's or a number stands twice (1 and 01)."""
    by_number: dict[int, Path] = {}
    for folder in found:
        number = int(folder.name)
        if number in by_number or number >= len(prompts):
            raise InputError(
                f"{folder}: the suite has the prompts 00000 to {len(prompts) - 1:05}, each with one folder."
            )
        entry = _metadata(folder)
        if entry != prompts[number].spec:
            raise InputError(
                f"{folder / 'metadata.jsonl'} is of another prompt, {entry['prompt']!r}; the suite's {number:05} is "
                f"{prompts[number].text!r}, and text and requirements must both be its own."
            )
        by_number[number] = folder
    return by_number


def _images(folder: Path, num_images: int) -> dict[int, Path]:
    """Images of one prompt by index; ValueError for one beyond the expected number or not named by digits."""
    images: dict[int, Path] = {}
    for path in sorted(path for path in (folder / "samples").glob("*.png") if not is_hidden(path.name)):
        if not (path.stem.isascii() and path.stem.isdigit()) or int(path.stem) in images:
            raise InputError(f"{path}: images are named by their index, 0000.png, 0001.png, ..., each once.")
        images[int(path.stem)] = path
    surplus = [path for index, path in images.items() if index >= num_images]
    if surplus:
        raise InputError(
            f"{surplus[0]} is surplus: {num_images} images a prompt are expected (--expected PROMPTSxIMAGES)."
        )
    return {index: path for index, path in images.items() if path.is_file()}
