"""Stage 6: tables, figures, claims and the page, from the run folder's files alone."""

from __future__ import annotations

import json
from pathlib import Path

from reports import write_report
from reports.closing import closing_rows
from reproduce.ending import show_ending
from reproduce.recipes import Recipe


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `report/`."""
    write_report([run_dir], run_dir / "report")


def end(run_dir: Path, *, as_json: bool = False) -> None:
    """Print what the report found, and where its page lies; as JSON it is `closing_rows`' answer and the run's name."""
    closing = closing_rows(run_dir)
    if as_json:
        print(json.dumps({"run": str(run_dir), **closing, "page": str(closing["page"])}, indent=1))
    else:
        show_ending(run_dir, closing)
