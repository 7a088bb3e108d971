"""The features of a set, on disk: made in batches by any number of processes, read back in the set's order.

`features.jsonl` has a row a picture (`bench.runner`), with the shard and the row in it where its features lie;
a shard in `features/` holds a batch and is named by its key: `whole` [B, D], `logits` [B, C], `patches` [B, P, D],
float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.fidelity.extractors import run_extractor
from bench.fidelity.prepare import Place, patch_places, patch_views, whole_view
from bench.fidelity.variants import Variant
from bench.judges import Judge
from bench.passport import file_sha256
from bench.records import ImageSample, iter_objects
from bench.runner import Process, Row, batch_key, cut_batches, run_batches
from bench.sets import MAX_PIXELS, PictureSet, name_of, refuse_broken
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture

NAME = "features"
FINDINGS = f"{NAME}.jsonl"
READERS = min(
    4, os.cpu_count() or 1
)  # threads that read and resize, a picture each; Pillow lets go of Python meanwhile


def extract_features(
    pictures: PictureSet,
    extractor: Judge,
    out_dir: Path,
    *,
    variant: Variant,
    views: Sequence[str],
    size: int | None,
    batch_size: int,
    process: Process,
) -> Path:
    """Write the features of a set into `out_dir`, what is there and unchanged is kept; returns `features.jsonl`.

    InputError names the pictures that cannot be read: none is left out.
    """
    batches = cut_batches(pictures.samples, batch_size)
    prepare = _prepare(pictures, variant, views, size, extractor.side or 0)

    def work(batch: list[ImageSample]) -> list[Row]:
        with ThreadPoolExecutor(READERS) as pool:
            prepared = list(pool.map(prepare, batch))
        shard = _shard_name([row for row, _ in prepared])
        readable = [views for row, views in prepared if views]
        if readable:
            write_tensors(out_dir / NAME / shard, _extracted(extractor, readable))
        numbers = iter(range(len(readable)))
        return [row | ({"shard": shard, "row": next(numbers)} if views else {}) for row, views in prepared]

    path = run_batches(batches, work, out_dir, name=NAME, process=process)
    broken = [f"{row['prompt_id']}: {row['unscored']}" for row in iter_objects(path) if "unscored" in row]
    if broken:
        refuse_broken(pictures.directory, broken)
    if process.index == 0:
        _remove_old_shards(out_dir)
    return path


def _shard_name(rows: Sequence[Row]) -> str:
    """The name of a batch's shard, by its pictures: no other batch's rows can come to point into it."""
    key = batch_key((row["prompt_id"], row["index"], row["sha256"]) for row in rows)
    return f"{key[:16]}.safetensors"


def _remove_old_shards(directory: Path) -> None:
    """Remove the shards of batches that are no more."""
    used = {shard for shard, _ in _by_shard(directory)}
    for path in (directory / NAME).glob("*.safetensors"):
        if path.name not in used:
            path.unlink()


def _prepare(
    pictures: PictureSet, variant: Variant, views: Sequence[str], size: int | None, side: int
) -> Callable[[ImageSample], tuple[Row, dict[str, Tensor]]]:
    """What is done with one picture on its own: its row, and its views [K, 3, side, side] as bytes where they are."""
    places: dict[str, list[Place]] = {}
    if "patches" in views:
        assert variant.patches and size
        all_places = patch_places(len(pictures.samples), variant.patches, size)
        places = dict(zip(pictures.names, all_places, strict=True))

    def prepare(sample: ImageSample) -> tuple[Row, dict[str, Tensor]]:
        row: Row = {"prompt_id": sample.prompt_id, "index": sample.index, "sha256": file_sha256(sample.path)}
        try:
            picture = read_picture(sample.path, MAX_PIXELS)
        except PictureError as error:
            return row | {"unscored": str(error)}, {}
        seen = {}
        if "whole" in views:
            seen["whole"] = whole_view(picture, variant, size, side)
        if variant.patches and size and places:
            seen["patches"] = patch_views(picture, places[name_of(sample)], variant.patches, size, variant, side)
        return row | {"size": list(picture.size)}, seen

    return prepare


def _extracted(extractor: Judge, prepared: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All squares of a batch through the extractor at once: what a shard holds."""
    names = list(prepared[0])
    found = run_extractor(extractor, torch.cat([views[name] for name in names for views in prepared]))
    tensors, start = {}, 0
    for name in names:
        count = sum(len(views[name]) for views in prepared)
        part = found["features"][start : start + count]
        tensors[name] = part if name == "whole" else part.unflatten(0, (len(prepared), -1))
        if name == "whole" and "logits" in found:
            tensors["logits"] = found["logits"][start : start + count]
        start += count
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def read_names(directory: Path) -> list[str]:
    """The pictures' names in order."""
    return [_name(row) for row in iter_objects(directory / FINDINGS, ("prompt_id", "index"))]


def _name(row: dict[str, Any]) -> str:
    return row["prompt_id"] if row["index"] == 0 else f"{row['prompt_id']}/{row['index']}"


def iter_features(directory: Path, view: str) -> Iterator[np.ndarray]:
    """The features of a view in the set's order, a batch at a time: [B, D], of patches [B, P, D].

    Raises FileNotFoundError for a lost shard, InputError where a shard has no such view or is not the rows' own.
    """
    for shard, rows in _by_shard(directory):
        path = directory / NAME / shard
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: its features must be made again, in a new folder")
        with safe_open(path, "np") as file:
            if view not in file.keys():  # noqa: SIM118 (safe_open is no dict)
                raise InputError(f"{directory} holds no {view} features; it has {', '.join(file.keys())}")
            values = file.get_tensor(view)
        if len(values) <= max(rows):
            raise InputError(f"{path} holds {len(values)} rows, {directory / FINDINGS} tells of more")
        yield values[rows]


def load_features(directory: Path, view: str) -> np.ndarray:
    """All features of a view [N, D], of patches [N, P, D]."""
    return np.concatenate(list(iter_features(directory, view)))


def has_view(directory: Path, view: str) -> bool:
    """Whether a view was saved; only the first shard is looked at."""
    shard, _ = next(_by_shard(directory))
    with safe_open(directory / NAME / shard, "np") as file:
        return view in file.keys()  # noqa: SIM118


def _by_shard(directory: Path) -> Iterator[tuple[str, list[int]]]:
    shard, rows = "", list[int]()
    for row in iter_objects(directory / FINDINGS, ("prompt_id", "index", "shard", "row")):
        if row["shard"] != shard and rows:
            yield shard, rows
            rows = []
        shard = _checked_shard(row["shard"])
        rows.append(int(row["row"]))
    yield shard, rows


def _checked_shard(name: Any) -> str:
    """InputError for what names no file of the folder."""
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{FINDINGS}: {name!r} is no shard")
    return name
