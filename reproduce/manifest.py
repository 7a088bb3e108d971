"""`run.json`: what a run folder is, what was done in it, when, by which code and on which machine."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.machine import processor_name
from bench.passport import library_versions
from bench.records import differing, read_json, to_json, write_json
from l2p.architectures import get_architecture
from l2p.errors import InputError
from reproduce.families import ROOT
from reproduce.recipes import Recipe, source_of

FORMAT = 2
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")
LOCK = ".lock"
PARTS = ("recipe", "stages", "inputs", "parts", "reused")  # of run.json, objects all
MAX_TOLD, MAX_WIDTH = 8, 40  # differences of recipes that are told, and characters of a value
SAMPLE_EVERY_S, SAVE_EVERY_S = 0.5, 5.0


def open_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    source_sha256: str,
    allow_missing: bool = False,
    asked: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the manifest of a new run folder, or find that this recipe began the one that is there; returns it.

    `allow_missing` is kept in it: the report must say that a transfer went on without some images; so is `asked`, how
    the recipe is found again (`reproduce.recipes.asked_for`). Raises as `check_folder` does, having touched nothing.
    """
    path = run_dir / "run.json"
    check_folder(recipe, run_dir, source_sha256)
    if path.exists():
        manifest = read_manifest(run_dir)
        changes = {"allow_missing": True} if allow_missing else {}
        changes |= {"asked": manifest.get("asked", {}) | asked} if asked else {}
        if not changes.items() <= manifest.items():
            manifest |= changes
            write_json(path, manifest)
        return manifest
    manifest = new_manifest(recipe, source_sha256) | {"allow_missing": allow_missing, "asked": asked or {}}
    write_json(path, manifest)
    return manifest


def check_folder(recipe: Recipe, run_dir: Path, source_sha256: str) -> None:
    """Raise ValueError for a folder of another recipe, source or format, or with files but no manifest."""
    if (run_dir / "run.json").exists():
        check_manifest(read_manifest(run_dir), recipe, run_dir, source_sha256)
        return
    entries = run_dir.iterdir() if run_dir.exists() else ()
    found = sorted(entry.name for entry in entries if entry.name != LOCK)[:5]
    if found:
        raise InputError(f"{run_dir} holds {', '.join(found)} but no run.json: it is no run folder. Give another --run")


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """A run folder's manifest, with all that this code looks up in it.

    Raises FileNotFoundError without one, ValueError for a file of another form; one of another format is returned.
    """
    path = run_dir / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run_dir} has no run.json: it is no run folder. Give one with --run")
    manifest = read_json(path)
    wrong = None if isinstance(manifest, dict) else "no object"
    if wrong is None and manifest.get("format") == FORMAT:
        wrong = next((f"without {name}" for name in PARTS if not isinstance(manifest.get(name), dict)), None)
        if wrong is None and not all(isinstance(stage, dict) for stage in manifest["stages"].values()):
            wrong = "with a stage that is no object"
        if wrong is None and not isinstance(manifest["inputs"].get("source_sha256"), str):
            wrong = "without inputs.source_sha256"
    if wrong is not None:
        raise InputError(f"{path} is damaged ({wrong}): bring its copy back, or give another --run")
    return manifest


def check_manifest(manifest: dict[str, Any], recipe: Recipe, run_dir: Path, source_sha256: str) -> None:
    """Raise ValueError when `run_dir` belongs to another format, recipe or source; the message names both."""
    if manifest.get("format") != FORMAT:
        commit = (manifest.get("git") or {}).get("commit")
        raise InputError(
            f"{run_dir} has run format {manifest.get('format')!r} (written by commit {commit}), this code writes "
            f"format {FORMAT}. Go on with that commit, or give another --run"
        )
    # Where a source lies is no part of what a run is: its contents are.
    theirs, ours = (one | {"source": None} for one in (manifest["recipe"], recipe_json(recipe)))
    # A setting that is None counts as one that was not known when the folder was begun.
    if any(differing(_by_name(theirs), _by_name(ours))):
        raise InputError(
            f"{run_dir} holds a run of recipe {theirs.get('name')!r}, you asked for {ours['name']!r}; there and here "
            f"differ\n{told_differences(theirs, ours)}\nGive another --run, or the same recipe"
        )
    began = manifest["inputs"]["source_sha256"]
    if began != source_sha256:
        raise InputError(
            f"{run_dir} was begun with other weights: source {manifest['recipe'].get('source')} had sha256 "
            f"{began[:12]}, {source_of(recipe)} has {source_sha256[:12]} now. Give another --run, or bring the first "
            f"weights back"
        )


def told_differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What differs in two recipes, a short line a setting; after `MAX_TOLD` lines how many more."""
    found = list(differing(_by_name(theirs), _by_name(ours)))
    lines = [f"  {name} {_short(was)} there, {_short(now)} here" for name, was, now in found[:MAX_TOLD]]
    more = len(found) - MAX_TOLD
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def _by_name(value: Any) -> Any:
    """Lists as objects, their entries by name or number, so that one setting in them is found."""
    if isinstance(value, dict):
        return {name: _by_name(one) for name, one in value.items()}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        named = ((one.get("name", i) if isinstance(one, dict) else i, one) for i, one in enumerate(value))
        return {str(name): _by_name(one) for name, one in named}
    return value


def _short(value: Any) -> str:
    text = "(...)" if isinstance(value, dict) else repr(value)
    return "none" if value is None else text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..."


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as run.json holds it, with its family's title and without absolute paths."""
    return _portable(to_json(recipe)) | {"family_title": get_architecture(recipe.family).title}


def _portable(value: Any) -> Any:
    """Absolute paths as seen from the repository, those outside of it as their last part alone."""
    if isinstance(value, dict):
        return {name: _portable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def new_manifest(recipe: Recipe, source_sha256: str) -> dict[str, Any]:
    """The manifest of a run that has done nothing yet."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "format": FORMAT,
        "recipe": recipe_json(recipe),
        "inputs": {"source_sha256": source_sha256},
        "git": git_state(),
        "versions": library_versions(LIBRARIES),
        "device": drawing_device(),
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "num_cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "num_gpus": torch.cuda.device_count() if cuda else 0,
        },
        "seeds": {"corpus": recipe.corpus.seed, "transfer": recipe.transfer.seed, "sample": recipe.sample_seed},
        "stages": {},
        "parts": {},
        "reused": {},
    }


def drawing_device() -> str:
    """The GPU's name, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def git_state() -> dict[str, Any]:
    """Commit and dirtiness of the code that runs; both None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def finished(manifest: dict[str, Any], stage: str) -> bool:
    """Whether the stage has ended well in this run folder."""
    return bool(manifest["stages"].get(stage, {}).get("finished"))


@contextmanager
def recorded(manifest: dict[str, Any], run_dir: Path, stage: str, num_processes: int) -> Iterator[dict[str, Any]]:
    """Record a stage's times and peak memory; saved every few seconds, so that a killed stage's seconds count too.

    What the caller puts into the dict that it is given ({"inputs": {...}}, {"parts": {...}}) is added when the stage
    ends well. `peak_memory_bytes` is the resident memory of all the run's processes together (what they share counts
    in each).
    """
    entry = manifest["stages"].setdefault(stage, {"started": now(), "seconds": 0.0, "peak_memory_bytes": 0})
    if entry.get("num_processes", num_processes) != num_processes:
        entry["mixed_processes"] = True  # its sums were made in two orders
    entry |= {"finished": None, "num_processes": num_processes, "commit": git_state()["commit"]}
    before, start, stop = entry["seconds"], time.monotonic(), threading.Event()

    def watch() -> None:
        saved = -SAVE_EVERY_S
        while True:
            elapsed = time.monotonic() - start
            entry["seconds"] = round(before + elapsed, 3)
            entry["peak_memory_bytes"] = max(entry["peak_memory_bytes"], memory_bytes(num_processes))
            if elapsed - saved >= SAVE_EVERY_S:
                saved = elapsed
                write_json(run_dir / "run.json", manifest)
            if stop.wait(SAMPLE_EVERY_S):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found: dict[str, Any] = {}
    try:
        yield found
        entry["finished"] = now()
    finally:
        stop.set()
        watcher.join()
        entry["seconds"] = round(before + time.monotonic() - start, 3)
        entry |= device_peak()
        if entry["finished"]:
            for name, facts in found.items():
                manifest[name] = manifest[name] | facts
        write_json(run_dir / "run.json", manifest)


def memory_bytes(num_processes: int) -> int:
    """Resident memory of this process and its children; of all its launcher's processes where there are several."""
    root = psutil.Process() if num_processes == 1 else psutil.Process().parent()
    total = 0
    for process in [root, *root.children(recursive=True)] if root else []:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between the listing and the question
    return total


def device_peak() -> dict[str, int]:
    """This process's peak of GPU memory since the last call, {} without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    peak = torch.cuda.max_memory_reserved()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_device_memory_bytes": peak}


def now() -> str:
    """The time, in ISO 8601 with UTC's offset, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
