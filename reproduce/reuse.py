"""What another run drew with the source from the same inputs is not drawn again: its files are linked.

A part (the corpus' images, the source's pictures of one suite) depends on the source's files, the sampler, the prompts
with their seeds, the libraries and the device, and on nothing else of a run: all seeds and ablations share it. The
processor's model is not compared: on another one the last bits may differ. Stages know nothing of it: they find files
that are there, as after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.passport import library_versions
from bench.records import differing, read_json, to_json, write_json
from l2p.progress import say
from reproduce.draw import Drawing
from reproduce.inputs import corpus_facts, digest, files_sha256
from reproduce.manifest import FORMAT, drawing_device
from reproduce.recipes import Recipe
from reproduce.recipes.base import drawn_at
from reproduce.stages import corpus, sample

LIBRARIES = ("torch", "diffusers", "transformers")
SOURCE_DRAWINGS: dict[str, Callable[[Recipe, Path], dict[str, list[Drawing]]]] = {
    "corpus": corpus.source_drawings,
    "sample": sample.source_drawings,
}
"""By stage: the drawings of each folder that the source alone fills."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files of one folder (relative to the run) and all that their bytes depend on."""

    folder: str
    names: tuple[str, ...]
    inputs: dict[str, Any]


def parts(recipe: Recipe, stage: str, source_sha256: str) -> list[Part]:
    """What the source draws in a stage."""
    found = [
        _part(recipe, folder, drawings, source_sha256)
        for folder, drawings in SOURCE_DRAWINGS.get(stage, lambda *_: {})(recipe, Path()).items()
    ]
    if stage == "corpus" and recipe.corpus.images_per_shard is not None:
        return [_in_shards(recipe, part) for part in found]
    return found


def _in_shards(recipe: Recipe, part: Part) -> Part:
    """The corpus as shards, in which lie the images that the filter has let through."""
    packed = {name: getattr(recipe.corpus, name) for name in ("images_per_shard", "image_filter")}
    return replace(part, names=tuple(corpus.planned_shards(recipe)), inputs=part.inputs | packed)


def _part(recipe: Recipe, folder: str, drawings: list[Drawing], source_sha256: str) -> Part:
    rows = [(drawing.path.relative_to(folder).as_posix(), drawing.text, drawing.seed) for drawing in drawings]
    inputs = {
        "source_sha256": source_sha256,
        "sampler": to_json(recipe.source_sampler),
        "dtype": recipe.dtype,
        "resolution": drawn_at(recipe, "source", drawings[0].scale if drawings else None),
        "prompts_sha256": digest(rows),
        "versions": library_versions(LIBRARIES),
        "device": drawing_device(),
        **(corpus.maker_facts(recipe) if folder == "corpus" else {}),
    }
    return Part(folder=folder, names=tuple(name for name, *_ in rows), inputs=inputs)


def remember(recipe: Recipe, run_dir: Path, stage: str, source_sha256: str) -> dict[str, Any]:
    """What run.json keeps of a finished stage, so that other runs may take its files: inputs, count and hash."""
    source_parts = parts(recipe, stage, source_sha256)
    hashes = {part.folder: files_sha256(run_dir / part.folder, part.names) for part in source_parts}
    kept = {
        part.folder: {"inputs": part.inputs, "num_files": len(part.names), "files_sha256": hashes[part.folder]}
        for part in source_parts
    }
    found: dict[str, Any] = {"parts": kept} if kept else {}
    if stage == "corpus":
        found["inputs"] = {"corpus": corpus_facts(run_dir / "corpus", hashes["corpus"])}
    return found


def adopt(recipe: Recipe, run_dir: Path, stage: str, manifest: dict[str, Any], asked: Path | None) -> None:
    """Link what an earlier run has of a stage's parts, and write into run.json's `reused` where they came from.

    The earlier run is `asked`, else any folder beside `run_dir`. What was asked for and does not fit, and files that
    are not what their run's record says, are told on stderr and drawn anew.
    """
    for part in parts(recipe, stage, manifest["inputs"]["source_sha256"]):
        if all((run_dir / part.folder / name).exists() for name in part.names):
            continue
        donor = next((donor for donor in _donors(run_dir, asked) if _fits(part, donor, tell=asked is not None)), None)
        if donor is None:
            continue
        manifest["reused"][part.folder] = {"run": donor.name, "num_files": len(part.names)}
        write_json(run_dir / "run.json", manifest)
        for name in part.names:
            _link(donor / part.folder / name, run_dir / part.folder / name)
        say(f"{part.folder}: {len(part.names):,} files taken from {donor}, drawn there with the same inputs")


def _donors(run_dir: Path, asked: Path | None) -> Iterator[Path]:
    if asked is not None:
        yield asked
        return
    for path in sorted(run_dir.absolute().parent.glob("*/run.json")):
        if path.parent.resolve() != run_dir.resolve():
            yield path.parent


def _fits(part: Part, donor: Path, *, tell: bool) -> bool:
    """Whether a run's part was made of the same inputs and its files are still what its record says."""
    manifest = _manifest(donor)
    record = manifest.get("parts", {}).get(part.folder)
    if record is None or record["inputs"] != part.inputs:
        if tell:
            say(f"{part.folder}: nothing is taken from {donor}: {_difference(record, part)}")
        return False
    missing = [name for name in part.names if not (donor / part.folder / name).is_file()]
    if missing or files_sha256(donor / part.folder, part.names) != record["files_sha256"]:
        what = f"{len(missing):,} of {len(part.names):,} files are missing" if missing else "files have changed"
        say(f"{part.folder}: not taken from {donor}, where {what} since it was drawn")
        return False
    return True


def _manifest(donor: Path) -> dict[str, Any]:
    """A folder's manifest, {} where another format or program wrote it."""
    try:
        manifest = read_json(donor / "run.json")
    except (ValueError, OSError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


def _difference(record: dict[str, Any] | None, part: Part) -> str:
    if record is None:
        return "it has not drawn this"
    found = differing(record["inputs"], part.inputs)
    return "; ".join(f"{name} {theirs!r} there, {ours!r} here" for name, theirs, ours in found)


def _link(there: Path, here: Path) -> None:
    """Give a file a second name; a copy where the file system has no links. Files are only ever replaced as a whole."""
    if here.exists():
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(there, here)
    except OSError:
        temporary = here.with_name(f".{here.name}.{os.getpid()}.tmp")
        shutil.copyfile(there, temporary)
        os.replace(temporary, here)
