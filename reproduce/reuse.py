"""What another run made from the same inputs is not made again: its files are linked.

A part is the corpus' images, the trained model, or one model's pictures of one suite. It depends on the source's files,
its own settings, the prompts with their seeds, the libraries and the device (what the pixel model makes, on our code
too), and on nothing else of a run: all seeds and ablations share what the source draws, studies share transfers. The
processor's model is not compared: on another one the last bits may differ. Stages know nothing of it: they find files
that are there, as after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from accelerate import PartialState

from bench.passport import library_versions
from bench.records import differing, read_json, to_json, write_json
from l2p.progress import say
from reproduce.draw import SUBJECTS, Drawing, SubjectName
from reproduce.families import ROOT
from reproduce.files import FOLDERS, TAKING, lasting_files
from reproduce.inputs import corpus_facts, digest, files_sha256
from reproduce.manifest import FORMAT, drawing_device
from reproduce.recipes import Recipe
from reproduce.recipes.base import drawn_at
from reproduce.stages import corpus, sample, transfer
from reproduce.studies import folders_beside

LIBRARIES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files of one folder (relative to the run) and all that their bytes depend on.

    `names` None: the stage decides what it leaves there, and the other run's record says it.
    """

    folder: str
    names: tuple[str, ...] | None
    inputs: dict[str, Any]


def parts(recipe: Recipe, stage: str, run_dir: Path, manifest: dict[str, Any]) -> list[Part]:
    """What another run may have made of a stage, from the manifest and files of the stages before it."""
    if stage == "corpus":
        return _corpus(recipe, manifest)
    if stage == "transfer":
        return _transfer(recipe, manifest)
    return _pictures(recipe, run_dir, manifest) if stage == "sample" else []


def _corpus(recipe: Recipe, manifest: dict[str, Any]) -> list[Part]:
    drawings = corpus.source_drawings(recipe, Path())["corpus"]
    part = _drawn(recipe, "source", "corpus", drawings, source_sha256_of(manifest) | corpus.maker_facts(recipe))
    if recipe.corpus.images_per_shard is None:
        return [part]
    # The corpus as shards, in which lie the images that the filter has let through.
    packed = {name: getattr(recipe.corpus, name) for name in ("images_per_shard", "image_filter")}
    return [replace(part, names=tuple(corpus.planned_shards(recipe)), inputs=part.inputs | packed)]


def _transfer(recipe: Recipe, manifest: dict[str, Any]) -> list[Part]:
    """The trained model with its log.

    None where it depends on what nobody hashes: a model that it starts from, images that a person brings, a training
    that went on with another number of processes.
    """
    not_hashed = recipe.start is not None or recipe.corpus.folder is not None
    mixed = manifest["stages"].get("transfer", {}).get("mixed_processes", False)
    if not_hashed or mixed or "corpus" not in manifest["inputs"]:
        return []
    inputs = source_sha256_of(manifest) | {
        "code_sha256": code_sha256(),
        "corpus": manifest["inputs"]["corpus"],
        "transfer": to_json(recipe.transfer) | {"allow_missing": manifest["allow_missing"]},
        "sampling": transfer.sampling(recipe),
        "num_processes": PartialState().num_processes,  # gradients are summed in another order
        "versions": library_versions((*LIBRARIES, "accelerate")),
        "device": drawing_device(),
    }
    return [Part(folder="transfer", names=None, inputs=inputs)]


def _pictures(recipe: Recipe, run_dir: Path, manifest: dict[str, Any]) -> list[Part]:
    """Both subjects' pictures of each suite; the pixel model's depend on its weights too."""
    model = run_dir / "transfer" / "model"
    weights = sorted(path.name for path in model.glob("*"))
    made_with = {"source": {}, "l2p": {"model_sha256": files_sha256(model, weights), "code_sha256": code_sha256()}}
    return [
        _drawn(recipe, subject, folder, drawings, source_sha256_of(manifest) | made_with[subject])
        for subject in SUBJECTS
        for folder, drawings in sample.subject_drawings(recipe, Path(), subject).items()
    ]


def _drawn(
    recipe: Recipe, subject: SubjectName, folder: str, drawings: list[Drawing], made_with: dict[str, Any]
) -> Part:
    rows = [(drawing.path.relative_to(folder).as_posix(), drawing.text, drawing.seed) for drawing in drawings]
    inputs = made_with | {
        "sampler": to_json(SUBJECTS[subject].sampler(recipe)),
        "dtype": recipe.dtype,
        "resolution": drawn_at(recipe, subject, drawings[0].scale if drawings else None),
        "prompts_sha256": digest(rows),
        "versions": library_versions(LIBRARIES),
        "device": drawing_device(),
    }
    return Part(folder=folder, names=tuple(name for name, *_ in rows), inputs=inputs)


@cache
def code_sha256() -> str:
    """SHA-256 of our code that trains and draws: after a change of it nothing is taken for equal that it made before.

    (What the source draws, its own libraries draw, whose versions are compared.)
    """
    files = [*(ROOT / "l2p").rglob("*.py"), ROOT / "reproduce" / "draw.py", ROOT / "reproduce/stages/transfer.py"]
    return files_sha256(ROOT, sorted(path.relative_to(ROOT).as_posix() for path in files))


def source_sha256_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The source's hash, as the first of a part's inputs."""
    return {"source_sha256": manifest["inputs"]["source_sha256"]}


def remember(recipe: Recipe, run_dir: Path, stage: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """What run.json keeps of a finished stage, so that other runs may take its files: inputs, count and hash."""
    kept: dict[str, dict[str, Any]] = {}
    for part in parts(recipe, stage, run_dir, manifest):
        names = part.names if part.names is not None else _left_in(run_dir, stage)
        kept[part.folder] = {
            "inputs": part.inputs,
            "num_files": len(names),
            "files_sha256": files_sha256(run_dir / part.folder, names),
            **({"names": list(names)} if part.names is None else {}),
        }
    found: dict[str, Any] = {"parts": kept} if kept else {}
    if stage == "corpus":
        found["inputs"] = {"corpus": corpus_facts(run_dir / "corpus", kept["corpus"]["files_sha256"])}
    return found


def _left_in(run_dir: Path, stage: str) -> tuple[str, ...]:
    """The names in its folder of what a stage left for good."""
    folder = Path(FOLDERS[stage])
    return tuple(Path(name).relative_to(folder).as_posix() for name in lasting_files(run_dir, stage))


def adopt(recipe: Recipe, run_dir: Path, stage: str, manifest: dict[str, Any], asked: Path | None) -> None:
    """Link what an earlier run has of a stage's parts, and write into run.json's `reused` where they came from.

    The earlier run is `asked`, else any beside `run_dir` (`reproduce.studies.folders_beside`). What was asked for and
    does not fit, and files that are not what their run's record says, are told on stderr and made anew; so is a
    transfer that was begun here.
    """
    for part in parts(recipe, stage, run_dir, manifest):
        here = run_dir / part.folder
        if here.exists() if part.names is None else all((here / name).exists() for name in part.names):
            continue
        found = ((donor, _fits(part, donor, tell=asked is not None)) for donor in _donors(run_dir, asked))
        donor, names = next(((donor, names) for donor, names in found if names is not None), (None, ()))
        if donor is None:
            continue
        taken = {"run": donor.name, "num_files": len(names)}
        if part.names is not None:  # what a kill leaves of it is drawn on, and told as taken
            manifest["reused"][part.folder] = taken
            write_json(run_dir / "run.json", manifest)
        try:
            _take(donor / part.folder, here, names, whole=part.names is None)
        except OSError as error:
            manifest["reused"].pop(part.folder, None)
            say(f"{part.folder}: not taken from {donor}, which changed meanwhile ({error})")
            continue
        manifest["reused"][part.folder] = taken
        write_json(run_dir / "run.json", manifest)
        say(f"{part.folder}: {len(names):,} files taken from {donor}, made there of the same inputs")


def _take(there: Path, here: Path, names: Sequence[str], *, whole: bool) -> None:
    """Link the files; `whole`: the folder appears with all of them or not at all, since a stage names them itself."""
    into = here.with_name(f".{here.name}{TAKING}") if whole else here
    if whole:
        shutil.rmtree(into, ignore_errors=True)  # what a kill left may be another run's
    for name in names:
        _link(there / name, into / name)
    if whole:
        into.rename(here)


def _donors(run_dir: Path, asked: Path | None) -> Iterator[Path]:
    if asked is not None:
        yield asked
        return
    for folder in folders_beside(run_dir):
        for path in sorted(folder.glob("*/run.json")):
            if path.parent.resolve() != run_dir.resolve():
                yield path.parent


def _fits(part: Part, donor: Path, *, tell: bool) -> Sequence[str] | None:
    """The files of a run's part, if it was made of the same inputs and they are still what its record says."""
    manifest = _manifest(donor)
    record = manifest.get("parts", {}).get(part.folder)
    if record is None or record["inputs"] != part.inputs:
        if tell:
            say(f"{part.folder}: nothing is taken from {donor}: {_difference(record, part)}")
        return None
    names: Sequence[str] = record["names"] if part.names is None else part.names
    missing = [name for name in names if not (donor / part.folder / name).is_file()]
    if missing or _sha256(donor / part.folder, names) != record["files_sha256"]:
        what = f"{len(missing):,} of {len(names):,} files are missing" if missing else "files have changed"
        say(f"{part.folder}: not taken from {donor}, where {what} since it was made")
        return None
    return names


def _sha256(folder: Path, names: Sequence[str]) -> str | None:
    """The files' hash; None where one goes while they are read."""
    try:
        return files_sha256(folder, names)
    except OSError:
        return None


def _manifest(donor: Path) -> dict[str, Any]:
    """A folder's manifest, {} where another format or program wrote it."""
    try:
        manifest = read_json(donor / "run.json")
    except (ValueError, OSError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


def _difference(record: dict[str, Any] | None, part: Part) -> str:
    if record is None:
        return "it has not made this"
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
