"""`--redo STAGE`: a stage and what follows from it, made anew; old results go when the new are whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.records import write_json
from reproduce.files import FOLDERS, forget

OLD = "before-redo"  # in the run folder: results that are being replaced


def followers(stages: Iterable[str], needs: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The stages and all that read what they write, in order."""
    found = set(stages)
    for stage in needs:
        if found & set(needs[stage]):
            found.add(stage)
    return [stage for stage in needs if stage in found]


def set_aside(run_dir: Path, manifest: dict[str, Any], asked: Iterable[str], stages: Iterable[str]) -> None:
    """Move the stages' results into `before-redo/` and record them as to be done; those under way go on as they are.

    `asked` are the stages that were named. The source's pictures and scores do not depend on a transfer: they stay
    where `sample` itself was not asked for.
    """
    under_way, asked = manifest.setdefault("redo", {}), set(asked)
    for stage in stages:
        if stage in under_way or stage not in FOLDERS or stage not in manifest["stages"]:
            continue
        under_way[stage] = _folders(stage, asked)
        manifest["stages"][stage]["finished"] = None
        manifest["stages"][stage] |= {"seconds": 0.0, "peak_memory_bytes": 0}
        _drop_facts(manifest, stage, asked)
        write_json(run_dir / "run.json", manifest)  # before the move: a kill between the two leaves nothing unknown
    for stage in under_way:
        for folder in under_way[stage]:
            there, here = run_dir / OLD / folder, run_dir / folder
            if here.exists() and not there.exists() and not _begun(manifest, stage):
                there.parent.mkdir(parents=True, exist_ok=True)
                here.rename(there)
        forget(run_dir, stage)


def _folders(stage: str, asked: set[str]) -> list[str]:
    whole = stage in asked or (stage == "score" and "sample" in asked) or stage not in ("sample", "score")
    return [FOLDERS[stage] if whole else f"{FOLDERS[stage]}/l2p"]


def _drop_facts(manifest: dict[str, Any], stage: str, asked: set[str]) -> None:
    """Forget what run.json says of results that are made anew: where they came from, who judged them."""
    for folder in _folders(stage, asked):
        for name in [name for name in manifest["reused"] if name == folder or name.startswith(f"{folder}/")]:
            del manifest["reused"][name]
    if stage == "score" and FOLDERS[stage] in _folders(stage, asked):
        manifest["inputs"].pop("judges", None)


def _begun(manifest: dict[str, Any], stage: str) -> bool:
    return manifest["stages"][stage]["seconds"] > 0


def put_away(run_dir: Path, manifest: dict[str, Any], stage: str) -> None:
    """Remove a stage's old results once the new ones are whole; a file that the stage does not write goes back."""
    for folder in manifest.get("redo", {}).get(stage, ()):
        old = run_dir / OLD
        for path in sorted((old / folder).rglob("*"), reverse=True):
            here = run_dir / path.relative_to(old)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif here.exists() or _passing(path):
                path.unlink()
            else:
                here.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, here)
        for empty in (old / folder, *(old / folder).relative_to(run_dir).parents):
            path = run_dir / empty
            if path != run_dir and path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    if manifest.get("redo", {}).pop(stage, None) is not None:
        if not manifest["redo"]:
            del manifest["redo"]
        write_json(run_dir / "run.json", manifest)


def is_redone(manifest: dict[str, Any], stage: str) -> bool:
    """Whether a stage is being made anew: nothing is taken from other runs then."""
    return stage in manifest.get("redo", {})


def _passing(path: Path) -> bool:
    """Files of a training state, whose names change from save to save."""
    return "state" in path.parts and any(part.startswith("step-") for part in path.parts)
