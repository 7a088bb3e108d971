"""Kept records: a run folder made small. Rows are gzipped, the corpus is counts and hashes, images and weights stay."""

import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bench.records import read_json, read_jsonl, to_json, write_json
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture

COPIED = (
    "run.json",
    "transfer/summary.json",
    "scores/checks.json",
    "scores/disagreement.json",
    "scores/**/summary*.json",
    "cost/*.json",
)
ROWS = ("transfer/log.jsonl", "scores/**/scores*.jsonl")
KEPT = "kept.json"  # in kept records: the corpus's facts, and the names of the files that were written
THUMBNAIL = 96  # px: larger pictures are scaled down when they are kept


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """A corpus as counts and sha256: what stands for its rows and images where they are not kept.

    ``num_traced`` counts the images whose row holds the prompt and the seed that the source drew them from. A hash that
    nobody took is None: not recorded.
    """

    num_images: int
    num_rejected: int
    num_traced: int
    metadata_sha256: str | None
    images_sha256: str | None


def corpus_facts(run: Path, manifest: dict[str, Any]) -> CorpusFacts | None:
    """The facts of a run's corpus, counted from its rows, or as kept records hold them; None where there are neither.

    The images' hash is the one that ``run.json`` states. Raises ValueError for broken files.
    """
    kept, metadata, rejected = run / KEPT, run / "corpus/metadata.jsonl", run / "corpus/rejected.jsonl"
    if not metadata.is_file():
        return _kept_facts(kept) if kept.is_file() else None
    rows = read_rows(metadata) or []
    stated = (manifest.get("inputs") or {}).get("corpus") or {}
    return CorpusFacts(
        num_images=len(rows),
        num_rejected=len(read_rows(rejected) or ()) if rejected.is_file() else 0,
        num_traced=sum(row.get("prompt_id") is not None and row.get("seed") is not None for row in rows),
        metadata_sha256=hashlib.sha256(metadata.read_bytes()).hexdigest(),
        images_sha256=stated.get("images_sha256"),
    )


def _kept_facts(kept: Path) -> CorpusFacts | None:
    try:
        stated = read_json(kept)["corpus"]
        return CorpusFacts(**stated) if stated else None
    except (TypeError, KeyError) as error:
        raise InputError(f"{kept} does not list kept records ({error}): keep the run's records again") from error


def read_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a JSON Lines file, or of its gzipped copy ``<name>.gz``; None where there is neither.

    Raises ValueError naming a file that is broken or whose rows are no objects.
    """
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        rows = _plain(path)
    elif packed.is_file():
        path, rows = packed, _unpacked(packed)
    else:
        return None
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: every line must be a JSON object, as `python -m reproduce` writes them")
    return rows


def _plain(path: Path) -> list[Any]:
    try:
        return read_jsonl(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from error


def _unpacked(path: Path) -> list[Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is no gzipped JSON Lines file: {error}") from error


def kept_in(folder: Path) -> list[Path]:
    """The kept records of runs that lie in a folder, by name."""
    return sorted(file.parent for file in folder.glob(f"*/{KEPT}"))


def refuse_target(run: Path, target: Path) -> None:
    """ValueError where records of ``run`` may not be written to ``target``; touches nothing.

    ``target`` must be absent, or hold kept records of this very run and no file beside them.
    """
    run, target = run.resolve(), target.resolve()
    if target.is_relative_to(run) or run.is_relative_to(target):
        raise InputError(f"records of {run} cannot be kept in {target}: give --out outside the run folder")
    if not target.exists():
        return
    written = set(read_json(target / KEPT).get("files", ())) if (target / KEPT).is_file() else None
    if written is None:
        raise InputError(f"{target} holds no kept records, so nothing there is replaced: give another --out")
    if _identity(run) is None or _identity(target) != _identity(run):
        raise InputError(f"{target} holds records of another run than {run}: give another --out, or rename the folder")
    others = sorted({str(file.relative_to(target)) for file in _files(target)} - written - {KEPT})
    if others:
        raise InputError(f"{target} holds files that are no kept records ({', '.join(others[:5])}): move them away")


def _identity(run: Path) -> Any:
    return identity(read_json(run / "run.json")) if (run / "run.json").is_file() else None


def identity(manifest: dict[str, Any], *, seed: bool = True) -> dict[str, Any]:
    """What a run is: its recipe, and what made its results by hash; where its source lies is no part of that.

    Without ``seed`` it is what all transfer seeds of a recipe share. A setting that is None is left out: a recipe that
    was written down before the setting was known is the same recipe.
    """
    recipe, inputs = manifest.get("recipe") or {}, manifest.get("inputs") or {}
    transfer = {name: value for name, value in (recipe.get("transfer") or {}).items() if seed or name != "seed"}
    source = inputs.get("source_sha256") or recipe.get("source")
    return {"recipe": stated({**recipe, "transfer": transfer, "source": source}), "judges": inputs.get("judges")}


def stated(value: Any) -> Any:
    """JSON values without the settings that are None, at any depth."""
    if isinstance(value, dict):
        return {name: stated(one) for name, one in value.items() if one is not None}
    return [stated(one) for one in value] if isinstance(value, list) else value


def _files(folder: Path) -> Iterable[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def keep_records(run: Path, target: Path, pictures: Sequence[Path] = ()) -> None:
    """Write a run's records into ``target``, which reports then read as the run; earlier ones of it are replaced.

    ``pictures`` are images of the run to keep, at most ``THUMBNAIL`` px. Raises ValueError as ``refuse_target`` does.
    """
    run, target = run.resolve(), target.resolve()
    refuse_target(run, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
        staging = Path(folder) / "run"
        _copy_records(run, staging)
        for picture in pictures:
            _keep_picture(picture, staging / picture.resolve().relative_to(run))
        files = sorted(str(file.relative_to(staging)) for file in _files(staging))
        facts = corpus_facts(run, read_json(run / "run.json") if (run / "run.json").is_file() else {})
        write_json(staging / KEPT, {"corpus": to_json(facts), "files": files})
        if target.exists():
            target.rename(Path(folder) / "before")
        staging.rename(target)


def _copy_records(run: Path, staging: Path) -> None:
    for file in (file for pattern in COPIED for file in run.glob(pattern)):
        copy = staging / file.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    packed = [(file, file.read_bytes()) for pattern in ROWS for file in run.glob(pattern)]
    packed += [(file.with_suffix(""), gzip.decompress(file.read_bytes())) for p in ROWS for file in run.glob(p + ".gz")]
    for file, content in packed:
        if file.name == "scores.jsonl" and _is_a_copy(file, content, packed):
            continue
        copy = staging / file.relative_to(run).with_name(file.name + ".gz")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(gzip.compress(content, 9, mtime=0))  # no time in it: equal rows give equal bytes


def _is_a_copy(file: Path, content: bytes, files: Sequence[tuple[Path, bytes]]) -> bool:
    """Whether a variant's rows beside ``file`` (``scores-<variant>.jsonl``) are the same."""
    return any(other.parent == file.parent and other != file and same == content for other, same in files)


def _keep_picture(picture: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        image = read_picture(picture)
    except PictureError as error:
        raise InputError(f"{picture} cannot be kept: {error}") from error
    if max(image.size) <= THUMBNAIL:
        shutil.copyfile(picture, copy)
        return
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    image.save(copy, "PNG", optimize=True)
