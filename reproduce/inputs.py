"""What a run is made from, as hashes of contents: the source's files, the judges, the corpus. Paths play no part, so a
run folder that was moved or copied goes on, and nothing is mixed when a path holds other contents than before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.benchmarks import BENCHMARKS
from bench.judges import as_judge
from bench.passport import file_sha256
from bench.records import read_json, read_jsonl, write_json
from l2p.errors import InputError
from l2p.sources import source_folder
from reproduce.recipes import Recipe, source_of

KNOWN_FILES = ".source.json"  # in the run folder: files whose size and time are as they were are not read again


def digest(rows: Iterable[Any]) -> str:
    """SHA-256 over JSON values, one a line with sorted keys."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return whole.hexdigest()


def files_sha256(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and bytes of a folder's files, in the order given. FileNotFoundError where one is missing."""
    return digest([name, file_sha256(folder / name)] for name in names)


def source_files(recipe: Recipe, run_dir: Path) -> dict[str, dict[str, Any]]:
    """Size, time and SHA-256 by name of all files that the source's pipeline is loaded from.

    What `keep_files` left in the run folder spares reading unchanged files again. A hub id's files are fetched first
    where they are not in the cache. Raises as `l2p.sources.source_folder` does.
    """
    folder, path = pipeline_folder(source_of(recipe)), run_dir / KNOWN_FILES
    known = read_json(path) if path.is_file() else {}
    return {name: known_file(folder / name, known.get(name)) for name in pipeline_files(folder)}


def keep_files(files: dict[str, dict[str, Any]], run_dir: Path) -> None:
    """Write `source_files`' answer into the run folder unless it stands there."""
    path = run_dir / KNOWN_FILES
    if not path.is_file() or read_json(path) != files:
        write_json(path, files)


def source_sha256(files: dict[str, dict[str, Any]]) -> str:
    """SHA-256 over names and bytes of a source's files."""
    return digest([name, file["sha256"]] for name, file in files.items())


def pipeline_folder(source: str) -> Path:
    """The folder of a source's files: its own, or the hub's snapshot in the cache."""
    from diffusers import DiffusionPipeline

    return source_folder(source) or Path(DiffusionPipeline.download(source))


def pipeline_files(folder: Path) -> Iterator[str]:
    """Relative names of what a diffusers folder's pipeline is loaded from: `model_index.json` and its parts' files."""
    parts = read_json(folder / "model_index.json")
    files = (path for part in sorted(parts) for path in sorted((folder / part).rglob("*")) if path.is_file())
    yield "model_index.json"
    yield from (path.relative_to(folder).as_posix() for path in files)


def known_file(path: Path, before: dict[str, Any] | None) -> dict[str, Any]:
    """A file's size, time and SHA-256; read only where size or time changed, or where its name does not tell."""
    status = path.stat()
    facts = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if before is not None and facts.items() <= before.items():
        return before
    real = path.resolve()  # the hub's cache names large files by their SHA-256, small ones by git's hash
    named = real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name)
    return facts | {"sha256": real.name if named else file_sha256(path)}


def judge_sha256(judge: Any, loader: str) -> str:
    """SHA-256 over a judge's passport (which holds its weights' hash), or over its loader's name where it has none."""
    return digest([dict(as_judge(judge, {"loader": loader}).passport)])


def judged_benchmarks(recipe: Recipe) -> list[str]:
    """The benchmarks that suites name, in order of name. ValueError when the recipe has no judge for one of them."""
    wanted = {benchmark: suite for suite in recipe.suites for benchmark in suite.benchmarks}
    for benchmark, suite in wanted.items():
        if benchmark not in recipe.judges:
            raise InputError(
                f"recipe {recipe.name!r} scores suite {suite.name!r} with {benchmark} but has no judge for it: "
                f"name a loader in judges, package.module:function"
            )
    return sorted(wanted)


def load_judges(recipe: Recipe) -> dict[str, Any]:
    """The judge of each benchmark that a suite names. Raises as `judged_benchmarks` does."""
    wanted = judged_benchmarks(recipe)
    return {benchmark: BENCHMARKS[benchmark].load_judge(recipe.judges[benchmark]) for benchmark in wanted}


def judges_sha256(recipe: Recipe, judges: dict[str, Any]) -> dict[str, str]:
    """Each judge's hash by benchmark."""
    return {benchmark: judge_sha256(judge, recipe.judges[benchmark]) for benchmark, judge in judges.items()}


def check_judges(recipe: Recipe, recorded: dict[str, str], run_dir: Path, judges: dict[str, Any]) -> None:
    """Raise ValueError when the judges at hand are not those that began to score this run."""
    for benchmark, there in recorded.items():
        here = judges_sha256(recipe, judges).get(benchmark)
        if here is not None and here != there:
            raise InputError(
                f"{run_dir} was scored by another {benchmark} judge (sha256 {there[:12]}) than "
                f"{recipe.judges[benchmark]} is now (sha256 {here[:12]}): scores of two judges are not mixed. Give "
                f"another --run, or that judge"
            )


def corpus_facts(folder: Path, images_sha256: str) -> dict[str, Any]:
    """What run.json says of a finished corpus; the images' hash is over all that were drawn, rejected ones too."""
    return {
        "num_images": len(read_jsonl(folder / "metadata.jsonl")),
        "num_rejected": len(read_jsonl(folder / "rejected.jsonl")),
        "metadata_sha256": file_sha256(folder / "metadata.jsonl"),
        "images_sha256": images_sha256,
    }
