"""Score many images in fixed batches: resume after a kill, several processes, one result file in order.

A batch is the unit of work: its rows are appended in one write, so a killed run has whole batches or none, and a
resumed run sees the same batches as an unbroken one. Rows carry the key of their batch, its images and their files'
hashes: where an image is changed, added, removed or moved, the batches that it touches are scored again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from bench.machine import check_device
from bench.passport import file_sha256
from bench.records import ImageSample, IncompleteError, append_jsonl, differing, read_object, write_json
from l2p.errors import InputError
from l2p.tables import parse_json

Row = dict[str, Any]
"""One image's result: `prompt_id`, `index`, `sha256` of the image file, and either the findings or `unscored`.

A saved row has `batch` too, the key of the batch that it was scored in.
"""

LOCK = ".lock"
MIN_FREE_BYTES = 64 << 20  # findings of a whole suite are smaller


@dataclass(frozen=True, kw_only=True)
class Process:
    """This process among those that a launcher started (or the only one), and its torch device."""

    index: int
    count: int
    device: str
    wait: Callable[[], None]


def this_process(device: str = "auto") -> Process:
    """Join the processes of `accelerate launch` or torchrun; `device` is `auto`, `cpu`, `cuda`, `cuda:1`, `mps` ...

    Raises ValueError for a device that is not there, and when those that were started did not find each other: each
    would do all of the work alone, over the others' files.
    """
    import torch
    from accelerate import PartialState

    check_device(device)
    cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    state = PartialState(cpu=cpu, timeout=timedelta(days=2))  # the first waits while others finish, and they for it
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise InputError(f"{started} processes were started, but {state.num_processes} found each other on {device}.")
    own = str(state.device) if device == "auto" or state.num_processes > 1 else device
    own = "cpu" if own.startswith("cpu") else own  # in a group it is cpu:0, and the passport would tell the two apart
    return Process(index=state.process_index, count=state.num_processes, device=own, wait=state.wait_for_everyone)


def cut_batches(samples: Sequence[ImageSample | None], batch_size: int) -> list[list[ImageSample]]:
    """Cut the expected slots into batches, then leave out the missing (None): no batch depends on what is missing."""
    cuts = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    return [batch for cut in cuts if (batch := [sample for sample in cut if sample is not None])]


def run_batches(
    batches: Sequence[list[ImageSample]],
    work: Callable[[list[ImageSample]], list[Row]],
    out_dir: Path,
    *,
    name: str,
    process: Process,
) -> Path:
    """Score what is not yet scored and write `out_dir/<name>.jsonl`, a row an image in the batches' order.

    `work` gives a row for each image of a batch. Finished batches are skipped while they are of the same, unchanged
    images in the same order; a row with `unscored` is tried again. Processes share the batches out; the first one
    merges. Returns the file's path.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if process.index == 0:
        _consolidate(batches, out_dir, name)
    process.wait()
    done = {(row["prompt_id"], row["index"]) for row, _ in _rows(_done_part(out_dir, name))}
    todo = [batch for batch in batches if (batch[0].prompt_id, batch[0].index) not in done]
    part = out_dir / f"{name}.part{process.index}.jsonl"
    for batch in _progress(todo[process.index :: process.count], name, process):
        rows = work(batch)
        key = batch_key((row["prompt_id"], row["index"], row["sha256"]) for row in rows)
        append_jsonl(part, [row | {"batch": key} for row in rows])
    process.wait()
    if process.index == 0:
        _merge(batches, out_dir, name)
    process.wait()
    return out_dir / f"{name}.jsonl"


def batch_key(images: Iterable[tuple[str, int, str]]) -> str:
    """SHA-256 over the (prompt_id, index, sha256 of the file) of a batch's images, in order."""
    return hashlib.sha256(json.dumps([list(image) for image in images]).encode()).hexdigest()


def check_output(out_dir: Path, images_dir: Path) -> None:
    """Make the folder of results; ValueError or OSError where none can lie there: among the images, on a full disk."""
    if out_dir.resolve().is_relative_to(images_dir.resolve()):
        raise InputError(f"--out {out_dir} lies in the image folder {images_dir}: results go elsewhere")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"--out {out_dir} is a file; results need a folder")
    out_dir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out_dir).close()  # raises where nothing can be written
    free = shutil.disk_usage(out_dir).free
    if free < MIN_FREE_BYTES:
        raise InputError(
            f"the disk of {out_dir} has {free >> 20} MiB left, {MIN_FREE_BYTES >> 20} are needed: make room"
        )


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Keep other commands out of an existing folder of results meanwhile; ValueError where one is at work there."""
    try:
        with FileLock(out_dir / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another command is writing into {out_dir}: wait until it has ended, or use another --out"
        ) from error


@contextmanager
def without_stale_scores(out_dir: Path) -> Iterator[None]:
    """Where new findings make no whole score (IncompleteError), remove the score that was made of earlier ones."""
    try:
        yield
    except IncompleteError:
        for path in _score_files(out_dir):
            path.unlink()
        raise


def check_settings(path: Path, settings: dict[str, Any], scores: Sequence[Path] = ()) -> None:
    """Record a run's settings beside its results, or InputError when the results there are of other or unknown ones.

    `scores` are the folders that scores go to, where they do not lie beside the settings.
    """
    if not path.exists():
        for folder in scores or [path.parent]:
            _refuse_unknown_scores(folder)
        write_json(path, settings)
        return
    before = read_object(path)
    given = json.loads(json.dumps(settings))
    shown = "; ".join(f"{name}: there {theirs!r}, now {ours!r}" for name, theirs, ours in differing(before, given))
    if shown:
        raise InputError(f"{path.parent} holds results of other settings ({shown}). Use another --out, or delete it.")


def _refuse_unknown_scores(out_dir: Path) -> None:
    """InputError where scores lie that no run of ours has recorded its settings of: they would be lost."""
    found = _score_files(out_dir)
    if found:
        raise InputError(
            f"{out_dir} holds {', '.join(path.name for path in found)}, but no settings.json that says what they were "
            "made of: they would be lost. Use another --out, or move them away."
        )


def _score_files(out_dir: Path) -> list[Path]:
    return sorted([*out_dir.glob("summary*.json"), *out_dir.glob("scores*.jsonl")])


def _progress(batches: Sequence[list[ImageSample]], name: str, process: Process) -> Iterator[list[ImageSample]]:
    console = Console(stderr=True)
    hidden = process.index > 0 or not batches or bool(os.environ.get("L2P_QUIET"))  # `reproduce --quiet` sets it
    yield from track(batches, description=name, console=console, disable=hidden)


def _done_part(out_dir: Path, name: str) -> Path:
    return out_dir / f"{name}.done.jsonl"


def _parts(out_dir: Path, name: str) -> list[Path]:
    """Where earlier runs left rows, oldest first: merged, consolidated, and one file a process."""
    found = [out_dir / f"{name}.jsonl", _done_part(out_dir, name), *sorted(out_dir.glob(f"{name}.part*.jsonl"))]
    return [path for path in found if path.exists()]


def _rows(path: Path) -> Iterator[tuple[Row, bytes]]:
    """Each row with its bytes; a last line without its newline was torn by a kill and is skipped."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                continue
            row = parse_json(line, f"{path}, line {number}")
            if not isinstance(row, dict) or not {"prompt_id", "index", "sha256"} <= row.keys():
                raise InputError(f"{path}, line {number}, is no row of saved results: delete it, or use another --out")
            yield row, line


def _consolidate(batches: Sequence[list[ImageSample]], out_dir: Path, name: str) -> None:
    """Gather the rows of finished, unchanged batches into one file and drop the rest.

    A row counts with its whole batch alone: distances to a picture that is gone, or a place in a shard that was
    written anew, would pass for a finding.
    """
    lines, keys = _index(_parts(out_dir, name))
    finished = []
    for batch in batches:
        saved = {keys.get(_key(sample)) for sample in batch}
        if None in saved:  # spares reading the files
            continue
        if saved == {batch_key((*_key(sample), file_sha256(sample.path)) for sample in batch)}:
            finished.append(batch)
    _write_rows(_done_part(out_dir, name), finished, lines)
    for path in out_dir.glob(f"{name}.part*.jsonl"):
        path.unlink()


def _merge(batches: Sequence[list[ImageSample]], out_dir: Path, name: str) -> None:
    """Write all rows in the batches' order, then remove the parts."""
    lines, _ = _index([path for path in _parts(out_dir, name) if path.name != f"{name}.jsonl"])
    _write_rows(out_dir / f"{name}.jsonl", batches, lines)
    for path in [_done_part(out_dir, name), *out_dir.glob(f"{name}.part*.jsonl")]:
        path.unlink()


def _key(sample: ImageSample) -> tuple[str, int]:
    return sample.prompt_id, sample.index


def _index(paths: Sequence[Path]) -> tuple[dict[tuple[str, int], tuple[Path, int]], dict[tuple[str, int], str]]:
    """Where each image's row lies (file, byte), and its batch's key if it was scored; rows stay on disk."""
    places: dict[tuple[str, int], tuple[Path, int]] = {}
    keys: dict[tuple[str, int], str] = {}
    for path in paths:
        position = 0
        for row, line in _rows(path):
            key = (row["prompt_id"], row["index"])
            places[key] = (path, position)
            keys[key] = row.get("batch", "") if "unscored" not in row else ""
            position += len(line)
    return places, keys


def _write_rows(
    path: Path, batches: Sequence[list[ImageSample]], places: dict[tuple[str, int], tuple[Path, int]]
) -> None:
    """Copy the rows of these batches into `path` (temporary name, then renamed), one at a time."""
    temporary = path.with_name(f".{path.name}.tmp")
    files = {source: open(source, "rb") for source in {source for source, _ in places.values()}}  # noqa: SIM115
    try:
        with open(temporary, "wb") as target:
            for sample in (sample for batch in batches for sample in batch):
                source, position = places[_key(sample)]
                files[source].seek(position)
                target.write(files[source].readline())
        temporary.replace(path)
    finally:
        for file in files.values():
            file.close()
