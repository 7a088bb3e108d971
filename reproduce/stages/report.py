"""Stage 6: tables, figures, claims and the page, from the run folder's files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from reports import write_report
from reports.claims import judge_claims
from reports.closing import closing_rows
from reports.paper_tables import write_paper_tables
from reports.runs import load_runs, runs_in
from reproduce.ending import show_ending
from reproduce.recipes import Recipe


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `report/`."""
    write_report([run_dir], run_dir / "report")


def write_study(folder: Path, out: Path, claims: Sequence[str]) -> int:
    """Write the paper's tables and figures from all runs in a study's folder into `out`, and print its verdicts.

    Returns the number of runs: those of earlier calls, for other arms, are among them.
    """
    runs = runs_in(folder)
    write_paper_tables(runs, out)
    for judgement in judge_claims(load_runs(runs), []):
        if judgement.claim.id in claims:
            part = f" (in part: {judgement.claim.part})" if judgement.claim.part else ""
            print(f"{judgement.claim.id}, {judgement.claim.statement} {judgement.verdict}{part}. {judgement.why}")
    return len(runs)


def end(run_dir: Path, *, as_json: bool = False) -> None:
    """Print what the report found, and where its page lies; as JSON it is `closing_rows`' answer and the run's name."""
    closing = closing_rows(run_dir)
    if as_json:
        print(json.dumps({"run": str(run_dir), **closing, "page": str(closing["page"])}, indent=1))
    else:
        show_ending(run_dir, closing)
