"""Stage 6: tables, figures, claims and the page, from the run folder's files alone."""

from __future__ import annotations

from pathlib import Path

from reports import write_report
from reproduce.recipes import Recipe


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `report/`."""
    write_report([run_dir], run_dir / "report")
