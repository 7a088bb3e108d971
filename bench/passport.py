"""The settings that a score must carry, so that another lab can repeat it (benchmarks.md "Settings that ...")."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.records import read_object
from l2p.errors import InputError

NOT_STATED = "not stated"

GENERATION = (
    "subject",
    "prompts_rewritten",
    "num_inference_steps",
    "guidance_scale",
    "seed_rule",
    "dtype",
    "device",
    "sampler",
)
"""What only the images' maker knows: keys of `generation.json`, which lies beside the images."""

REQUIRED = (
    "prompts",
    "prompts_sha256",
    "images_per_prompt",
    "resolution",
    "generation",
    "device",
    "dtype",
    "versions",
    "models",
    "thresholds",
)
"""Keys of every passport; number expected and scored, version and variant stand in the Summary itself."""


def passport(**settings: Any) -> dict[str, Any]:
    """Check that every key of `REQUIRED` is there (more are welcome) and return the settings; ValueError names gaps."""
    missing = [name for name in REQUIRED if name not in settings]
    if missing:
        raise InputError(f"A score's passport lacks {', '.join(missing)}; state them, or '{NOT_STATED}'.")
    return settings


def generation_settings(given: Mapping[str, Any] | Path | None) -> dict[str, Any]:
    """The generation settings, with `not stated` where the images' maker said nothing.

    `given` is a dict or a `generation.json`; a missing file counts as nothing said, an unknown key raises ValueError.
    """
    if isinstance(given, Path):
        given = read_object(given) if given.is_file() else None
    stated = dict(given or {})
    unknown = sorted(set(stated) - set(GENERATION))
    if unknown:
        raise InputError(f"Unknown generation settings {', '.join(unknown)}; known are {', '.join(GENERATION)}.")
    return {name: stated.get(name, NOT_STATED) for name in GENERATION}


def read_passport(path: Path) -> dict[str, Any]:
    """A saved passport; FileNotFoundError without it, ValueError when it lacks what every passport has."""
    saved = read_object(path, REQUIRED)
    number, generation = saved["images_per_prompt"], saved["generation"]
    if not isinstance(number, int) or number < 1:
        raise InputError(f"{path}: images_per_prompt must be a whole number from 1; it is {number!r}")
    if not isinstance(generation, dict) or "subject" not in generation:
        raise InputError(f"{path}: generation must be an object with the subject; it is {generation!r}")
    return saved


def library_versions(names: Sequence[str] = ("torch", "transformers", "numpy", "pillow")) -> dict[str, str]:
    """Versions of Python and the named distributions; one that is not installed says so."""
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, read in blocks; FileNotFoundError when it is not there."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(state_dict: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor's name, dtype, shape and bytes, by name: the same weights, the same hash."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
