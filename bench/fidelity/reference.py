"""The real side as one file: its moments and, for metrics that need them, its features; how many, of what, made how.

`python -m bench fidelity stats REFERENCE --out ref.safetensors` writes one; scoring against a folder makes one first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from bench.fidelity.features import extract_features, iter_features, load_features, read_names, write_tensors
from bench.fidelity.metrics import Moments, Sums, moments_of, sums_of
from bench.fidelity.variants import Variant, preparation_of
from bench.judges import Judge
from bench.passport import library_versions
from bench.records import differing
from bench.runner import Process, check_settings
from bench.sets import PictureSet, set_sha256, shown_sizes
from l2p.errors import InputError

FORMAT = "fidelity reference 1"
NEEDS_FEATURES = ("kid", "precision", "recall", "cmmd")
ROWS = 4096  # rows gathered before they are multiplied: one product of many rows instead of many of one


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Real pictures' statistics: `moments` by view, `features` of whole pictures [N, D] or None; `about` is the file's
    own account: count, names, sha256 of the pictures, preparation, extractor, sizes."""

    moments: dict[str, Moments]
    features: np.ndarray | None
    about: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The pictures' names in order."""
        return self.about["names"]


NO_REFERENCE = Reference(moments={}, features=None, about={})
"""For metrics that look at the images alone (IS)."""


def make_reference(
    pictures: PictureSet,
    extractor: Judge,
    out: Path,
    *,
    variant: Variant,
    views: tuple[str, ...],
    keep_features: bool,
    size: int | None,
    batch_size: int,
    process: Process,
) -> None:
    """Write the statistics of a set to `out`; a killed run goes on from `<out>.parts`, a finished one is kept.

    InputError where `out` is of other pictures or settings: it is nobody's to replace unasked.
    """
    parts = out.with_name(f"{out.name}.parts")
    about = {
        "format": FORMAT,
        "count": len(pictures.samples),
        "sha256": set_sha256(pictures),
        "preparation": preparation_of(variant, size, views),
        "extractor": dict(extractor.passport),
        "views": list(views),
        "features": keep_features,
        "sizes": shown_sizes(pictures),
    }
    if out.exists():
        _refuse_other(read_reference(out).about, about, out)
        return
    parts.mkdir(parents=True, exist_ok=True)
    if process.index == 0:
        check_settings(parts / "settings.json", about | {"batch_size": batch_size})
    extract_features(
        pictures, extractor, parts, variant=variant, views=views, size=size, batch_size=batch_size, process=process
    )
    if process.index == 0:
        tensors: dict[str, np.ndarray] = {}
        for view in views:
            moments = moments_of(total_sums(iter_features(parts, view)))
            tensors |= {f"{view}.mean": moments.mean, f"{view}.covariance": moments.covariance}
        if keep_features:
            tensors["features"] = load_features(parts, "whole")
        about |= {"names": read_names(parts), "versions": library_versions()}
        written = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
        write_tensors(out, written, {"about": json.dumps(about, allow_nan=False)})
        shutil.rmtree(parts)
    process.wait()


def read_reference(path: Path) -> Reference:
    """A file of statistics; FileNotFoundError without it, InputError for what is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file of statistics: python -m bench fidelity stats makes one")
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is no file of statistics ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{path} is no file of statistics as `python -m bench fidelity stats` writes them")
    moments = {
        view: Moments(
            count=about["count"] * (about["preparation"]["patches"]["count"] if view == "patches" else 1),
            mean=tensors[f"{view}.mean"],
            covariance=tensors[f"{view}.covariance"],
        )
        for view in about["views"]
    }
    return Reference(moments=moments, features=tensors.get("features"), about=about)


def check_reference(
    reference: Reference,
    path: Path,
    preparation: Mapping[str, Any],
    extractor: Mapping[str, Any] | None,
    metrics: Sequence[str],
) -> None:
    """InputError where statistics were made another way than the images' features are, or lack what a metric needs.

    `extractor` is its passport, None before it is loaded.
    """
    given = {"preparation": {**preparation}} | ({} if extractor is None else {"extractor": dict(extractor)})
    ours = json.loads(json.dumps(given))
    there = {name: reference.about[name] for name in ours}
    if "patches" not in ours["preparation"]:  # statistics of more views serve too
        there["preparation"] = {k: v for k, v in there["preparation"].items() if k != "patches"}
    shown = "; ".join(f"{name}: there {a!r}, here {b!r}" for name, a, b in differing(there, ours))
    if shown:
        raise InputError(f"{path} was made another way than the images are scored ({shown})")
    featureless = reference.features is None
    lacking = [m for m in metrics if _view_of(m) not in reference.moments or (m in NEEDS_FEATURES and featureless)]
    if lacking:
        raise InputError(
            f"{path} lacks what {', '.join(lacking)} needs: make it with `stats ... --metric {','.join(metrics)}`"
        )


def _view_of(metric: str) -> str:
    return "patches" if metric == "fid-patch" else "whole"


def total_sums(batches: Iterable[np.ndarray]) -> Sums:
    """Sums over batches of features [B, D] or [B, P, D]."""
    (total,) = grouped_sums(batches, None)
    return total


def grouped_sums(batches: Iterable[np.ndarray], groups: np.ndarray | None) -> list[Sums]:
    """Sums of each group of pictures; `groups` [N] runs along the batches' pictures (None: one group).

    Patches [B, P, D] belong to their picture's group.
    """
    sums: dict[int, Sums] = {}
    for rows, own in _gathered(batches, groups):
        for group in np.unique(own):
            part = sums_of(rows[own == group])
            sums[int(group)] = sums[int(group)] + part if int(group) in sums else part
    return [sums[group] for group in sorted(sums)]


def _gathered(batches: Iterable[np.ndarray], groups: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows [M, D] with each row's group [M], many at once."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    start = 0
    for batch in batches:
        per_picture = batch.shape[1] if batch.ndim == 3 else 1
        own = np.zeros(len(batch), int) if groups is None else groups[start : start + len(batch)]
        start += len(batch)
        held.append((batch.reshape(-1, batch.shape[-1]), np.repeat(own, per_picture)))
        if sum(len(rows) for rows, _ in held) >= ROWS:
            yield np.concatenate([rows for rows, _ in held]), np.concatenate([own for _, own in held])
            held = []
    if held:
        yield np.concatenate([rows for rows, _ in held]), np.concatenate([own for _, own in held])


def _refuse_other(there: Mapping[str, Any], ours: dict[str, Any], out: Path) -> None:
    given = json.loads(json.dumps(ours))
    shown = "; ".join(
        f"{name}: there {a!r}, now {b!r}" for name, a, b in differing({key: there.get(key) for key in given}, given)
    )
    if shown:
        raise InputError(f"{out} is of other pictures or settings ({shown}): use another --out, or delete it")
