"""What stages wrote, file by file, so that one that was damaged or deleted since is found and made again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records import read_json, write_json
from l2p.pictures import PictureError, read_picture
from l2p.progress import say
from reproduce.inputs import known_file
from reproduce.recipes import Recipe
from reproduce.stages import corpus, sample

RECORD = ".files.json"  # in the run folder: size, time and SHA-256 of each file, by stage
FOLDERS = {"corpus": "corpus", "transfer": "transfer", "sample": "samples", "score": "scores", "cost": "cost"}
"""The folder that a stage fills; `report` is written anew each time."""

TAKING = ".taking"  # ends the name of a folder that is being taken from another run
PASSING = ("state", "prompts")  # in transfer/: what it needs while it runs
EXACT = (
    ".png",
    ".tar",
    ".safetensors",
    "scores.jsonl",
)  # ends of names whose bytes are the same whenever they are made again


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Files of a finished stage, relative to the run, that are gone, and those that are not what was written."""

    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.damaged)

    def __str__(self) -> str:
        names = [*self.missing, *self.damaged]
        parts = [f"{len(self.missing):,} missing"] * bool(self.missing)
        parts += [f"{len(self.damaged):,} damaged"] * bool(self.damaged)
        return f"{' and '.join(parts)} ({names[0]}{', ...' if len(names) > 1 else ''})"


def keep_record(run_dir: Path, stage: str) -> None:
    """Remember a stage's files as they are now; tells what came out otherwise than when it was made before."""
    if stage not in FOLDERS:
        return
    known = _record(run_dir)
    before = known.get(stage, {})
    files = {name: known_file(run_dir / name, before.get(name)) for name in lasting_files(run_dir, stage)}
    other = [name for name in before if name.endswith(EXACT) and name in files and _differs(before[name], files[name])]
    if other:
        say(
            f"{stage}: {len(other):,} files made again differ from the first ones ({other[0]}), as on another machine "
            f"or with other libraries: --redo {stage} makes all of them, and what follows from them, anew"
        )
    write_json(run_dir / RECORD, {**known, stage: files})


def _differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["sha256"] != other["sha256"]


def forget(run_dir: Path, stage: str) -> None:
    """Drop a stage's record."""
    known = _record(run_dir)
    if known.pop(stage, None) is not None:
        write_json(run_dir / RECORD, known)


def find_harm(recipe: Recipe, run_dir: Path, stage: str, *, thorough: bool = False) -> Harm:
    """What is no longer there, or other than it was written, in a finished stage's folder.

    Files whose size and time are as they were are taken to be whole unless `thorough`. Of a run without a record the
    images are opened instead.
    """
    record = _record(run_dir).get(stage)
    if record is None:
        drawings = [path for path in _drawn(recipe, run_dir, stage)]
        missing = [path for path in drawings if not path.is_file()]
        damaged = [path for path in drawings if path.is_file() and not _readable(path)]
        names = ([path.relative_to(run_dir).as_posix() for path in paths] for paths in (missing, damaged))
        return Harm(missing=tuple(next(names)), damaged=tuple(next(names)))
    missing_names = tuple(name for name in record if not (run_dir / name).is_file())
    there = (name for name in record if name not in missing_names)
    damaged_names = [
        name for name in there if _differs(record[name], known_file(run_dir / name, None if thorough else record[name]))
    ]
    return Harm(missing=missing_names, damaged=tuple(damaged_names))


def clear(run_dir: Path, stage: str, harm: Harm) -> None:
    """Remove what is damaged, and what would keep the stage from making it again: its end, the scores beside it."""
    names, record = set(harm.damaged), _record(run_dir).get(stage, {})
    if stage == "transfer":
        names.add("transfer/summary.json")  # the saved state of the last step then ends anew
        if was_taken(run_dir):
            names |= set(record)
    if stage == "score":
        folders = {_scores_of(Path(name)) for name in (*harm.damaged, *harm.missing)}
        names |= {name for name in record if _scores_of(Path(name)) in folders}
    for name in names:
        (run_dir / name).unlink(missing_ok=True)
    if stage == "transfer":
        for folder in (run_dir / "transfer" / "model", run_dir / "transfer"):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def was_taken(run_dir: Path) -> bool:
    """Whether the transfer has no state of its own: it came whole from another run, and is made or taken as a whole."""
    return not (run_dir / "transfer" / "state" / "latest.json").is_file()


def _scores_of(path: Path) -> Path:
    """The folder of scores that a file belongs to; features lie in one of their own below it."""
    return path.parent.parent if path.parent.name == "features" else path.parent


def sweep(run_dir: Path) -> None:
    """Remove what writing leaves when it is killed: temporary files and folders, which only this program names so."""
    for folder in (*FOLDERS.values(), "report"):
        for path in sorted((run_dir / folder).rglob(".*")):
            if path.name.startswith(".writing-") and path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".tmp" and path.is_file():
                path.unlink()
    for path in run_dir.glob(f".*{TAKING}"):
        shutil.rmtree(path)


def _record(run_dir: Path) -> dict[str, dict[str, Any]]:
    path = run_dir / RECORD
    return read_json(path) if path.is_file() else {}


def lasting_files(run_dir: Path, stage: str) -> Iterator[str]:
    """A stage's lasting files, relative to the run."""
    folder = run_dir / FOLDERS[stage]
    for path in sorted(folder.rglob("*")):
        first = path.relative_to(folder).parts[0]
        if path.is_file() and not path.name.startswith(".") and not (stage == "transfer" and first in PASSING):
            yield path.relative_to(run_dir).as_posix()


def _drawn(recipe: Recipe, run_dir: Path, stage: str) -> Iterator[Path]:
    """The images that a stage draws."""
    if stage == "corpus":
        yield from (drawing.path for drawing in corpus.source_drawings(recipe, run_dir)["corpus"])
    if stage == "sample":
        for subject in sample.SUBJECTS:
            for suite in recipe.suites:
                folder = run_dir / "samples" / subject / suite.name
                yield from (drawing.path for drawing in sample.suite_drawings(recipe, suite, folder))


def _readable(path: Path) -> bool:
    try:
        read_picture(path)
    except (OSError, PictureError):
        return False
    return True
