"""`python -m reports`: the page of one or several runs, the comparison of two, and the README's table."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reports.claims import verdict_counts
from reports.page import COST_RESULTS, write_report
from reports.readme import write_table
from reports.regression import compare, failures
from reports.runs import holds_run

FINDING, BAD_INPUT = 1, 2
PAGE_HELP = """Write the report of run folders: page, tables, claims and figures.

Example: python -m reports runs/* --out report/

What docs/results holds: python -m reports runs/flux-mini* --out docs/results/flux-mini --records

To compare two runs: python -m reports regression BASELINE RUN

To write the README's table: python -m reports readme RUNS...

Exit status: 0 done, 1 a claim was not reproduced (with --check-claims), 2 bad input.
"""
REGRESSION_HELP = """Compare RUN with BASELINE, prompt by prompt.

Example: python -m reports regression runs/flux-mini-main runs/flux-mini

Exit status: 0 within noise, 1 a regression, 2 the two cannot be compared.
"""
README_HELP = """Write what runs found into README.md, as a table between its two markers.

Example: python -m reports readme docs/results/flux-mini/runs/*

Exit status: 0 done, 2 bad input.
"""

console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
page_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
regression_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
readme_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
APPS = {"regression": regression_app, "readme": readme_app}  # by the first word; any other is a run folder


@page_app.command(help=PAGE_HELP)
def page(
    runs: Annotated[list[Path], typer.Argument(help="run folders, e.g. runs/*")],
    out: Annotated[Path, typer.Option(help="folder for the report")],
    costs: Annotated[Path, typer.Option(help="folder of predicted cost records (*.json)")] = COST_RESULTS,
    records: Annotated[bool, typer.Option("--records", help="keep each run's records in OUT/runs too")] = False,
    check_claims: Annotated[bool, typer.Option("--check-claims", help="exit 1 when a claim is not reproduced")] = False,
) -> None:
    """Write the report and print where it lies and how the claims came out."""
    others = [path for path in runs if path.is_dir() and not holds_run(path)] if len(runs) > 1 else []
    for path in others:
        errors.print(f"left out: {path} is no run folder (no run.json, no stage's folder)", markup=False)
    reported = [path for path in runs if path not in others]
    judgements = write_report(reported, out, cost_dir=costs, keep_records=records)
    counts = verdict_counts(judgements)
    console.print(f"{out / 'index.html'}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    raise typer.Exit(FINDING if check_claims and counts["not reproduced"] else 0)


@regression_app.command(help=REGRESSION_HELP)
def regression(
    baseline: Annotated[Path, typer.Argument(help="the run to compare with")],
    run: Annotated[Path, typer.Argument(help="the run to judge")],
) -> None:
    """Print every check with its outcome."""
    results = compare(baseline, run)
    for name, message in results:
        console.print("worse" if message else "ok   ", message or name, markup=False, highlight=False)
    found = failures(results)
    console.print(f"{len(results)} checks, {len(found)} regressions", style="bold red" if found else "bold green")
    raise typer.Exit(FINDING if found else 0)


@readme_app.command(help=README_HELP)
def readme(
    runs: Annotated[list[Path], typer.Argument(help="run folders or kept records")],
    readme: Annotated[Path, typer.Option(help="the file that holds the markers")] = Path("README.md"),
) -> None:
    """Write the table between the markers."""
    write_table(runs, readme)
    console.print(f"{readme}: written from {len(runs)} runs", highlight=False)


def main(arguments: list[str]) -> None:
    """Run the page command, or the one that the first word names (a run folder so named: write ./regression)."""
    word = arguments[0] if arguments and arguments[0] in APPS else ""
    app, words = (APPS[word], arguments[1:]) if word else (page_app, arguments)
    try:
        app(args=words, prog_name=f"python -m reports {word}".strip())
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main(sys.argv[1:])
