"""`--status`: which stages of a run are done, damaged or missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from reproduce.files import find_harm
from reproduce.manifest import finished, read_manifest
from reproduce.recipes import Recipe

COMPLETE, INCOMPLETE = 0, 2


def stage_states(recipe: Recipe, run_dir: Path, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a stage: its name, `state` (done, damaged, begun, missing), when it ended and which files are harmed.

    Every file of a finished stage is read. Raises as `read_manifest` does.
    """
    manifest = read_manifest(run_dir)
    return [_state(recipe, run_dir, manifest, stage) for stage in stages]


def _state(recipe: Recipe, run_dir: Path, manifest: dict[str, Any], stage: str) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": stage, "state": "missing", "finished": None}
    row |= {"missing": [], "damaged": [], "told": ""}
    if not finished(manifest, stage):
        return row | ({"state": "begun"} if stage in manifest["stages"] else {})
    harm = find_harm(recipe, run_dir, stage, thorough=True)
    if stage == "report" and not (run_dir / "report" / "index.html").is_file():
        return row
    told = {name: list(names) for name, names in asdict(harm).items()}
    state = {"state": "damaged", "told": str(harm)} if harm else {"state": "done"}
    return row | state | told | {"finished": manifest["stages"][stage]["finished"]}


def show_status(recipe: Recipe, run_dir: Path, stages: tuple[str, ...], *, as_json: bool) -> int:
    """Print the states of a run's stages, and return 0 when all are done, 2 otherwise."""
    rows = stage_states(recipe, run_dir, stages)
    if as_json:
        print(json.dumps({"run": str(run_dir), "stages": rows}, indent=1))
    else:
        table = Table(title=f"{run_dir} ({recipe.name})", box=SIMPLE)
        for column in ("stage", "state", "ended", "what"):
            table.add_column(column)
        for row in rows:
            table.add_row(row["stage"], row["state"], row["finished"] or "", row["told"])
        Console(soft_wrap=True).print(table)
    return COMPLETE if all(row["state"] == "done" for row in rows) else INCOMPLETE
